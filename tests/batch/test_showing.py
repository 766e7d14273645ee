"""What a run says before and while it computes; a restorer without networks."""

from pathlib import Path

import pytest

from diffbir_jax.batch.report import Journal
from diffbir_jax.console.plain import counted
from diffbir_jax.restoration.results import Progress
from tests.batch.fake import Fake
from tests.command import call, save


def test_the_first_line_says_what_will_be_done(fake: Fake, capsys: pytest.CaptureFixture) -> None:
    save(Path("in/a.png"), (16, 24))
    assert call("--input", "in", "--output", "out", "--upscale", "2") == 0
    assert capsys.readouterr().out.startswith("1 image: 24x16 to 48x32 pixels, version one-step\n")


def test_small_images_come_first(fake: Fake, capsys: pytest.CaptureFixture) -> None:
    for name, side in (("a", 64), ("b", 16), ("c", 32)):
        save(Path(f"in/{name}.png"), (side, side))
    assert call("--input", "in", "--output", "out", "--upscale", "2") == 0
    assert "3 images: 0.01 megapixels become 0.02, all together" in capsys.readouterr().out
    sides = [len(request.image) for request, *_ in fake.seen]
    assert sides == [32, 16, 64], "the restorer without networks takes pairs, the later one first"


def test_the_journal_counts_operations_of_tiles() -> None:
    journal = Journal([])
    journal.expect({"rm": 2.0}, {"rm": 80.0})
    journal.listen(Progress("rm", 0, 4, 10))
    assert journal.meter.text() == "0 of 0 images done, stage 1 of 4 tiles"
    journal.listen(Progress("rm", 3, 4, 10))
    journal.listen(Progress("rm", 4, 4, 10))
    assert journal.meter.left() == 0.0


def test_counts_in_words() -> None:
    assert [counted(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
