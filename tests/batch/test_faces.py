"""--task faces over folders: what is written, said and repeated. The restorer has no networks, faces are known."""

import itertools
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from diffbir_jax.batch import drive
from diffbir_jax.batch import faces as batch_faces
from diffbir_jax.batch.jobs import noise_index
from diffbir_jax.batch.shares import Shares
from diffbir_jax.faces import restoring
from diffbir_jax.faces.align import FFHQ
from diffbir_jax.faces.cuts import STRIDE
from diffbir_jax.faces.find import Face, detect
from diffbir_jax.faces.flags import LEAST
from diffbir_jax.imaging.reading import read_photo
from diffbir_jax.imaging.writing import write_png
from tests.batch.fake import Fake
from tests.command import call, complaint, written
from tests.faces.known import KNOWN, ONE, TWO, face, known_faces, small_crops
from tests.faces.pictures import fractal, row_of_heads, wall

NONE = (60, 80)
CROPS = [f"two_face_0{n}_{when}.png" for n in (1, 2) for when in ("after", "before")]


@pytest.fixture
def photos(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A folder of photos with two faces, one and none, in an empty current folder."""
    small_crops(monkeypatch)
    known_faces(monkeypatch)
    monkeypatch.setattr(batch_faces, "model_file", lambda: None)
    for name, side in (("two", TWO), ("one", ONE), ("none", NONE)):
        put(f"in/{name}.png", wall(*side))
    return fake


def put(path: str, pixels: np.ndarray) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def read(path: str) -> np.ndarray:
    return np.asarray(Image.open(path))


def restore(*flags: object, source: str = "in", output: str = "out", task: str = "faces") -> object:
    return call("--input", source, "-o", output, "--upscale", 2, "--task", task, *flags)


def test_faces_are_pasted_and_crops_are_numbered_from_the_left(photos: Fake, capsys) -> None:
    assert restore("--save-faces", "--no-sidecar") == 0
    assert restore("--no-sidecar", output="plain", task="sr") == 0
    assert [name for name in written() if name.startswith("two")] == ["two.png", *CROPS]
    two, plain = read("out/two.png"), read("plain/two.png")
    assert two.shape == plain.shape == (180, 240, 3)
    changed = (two != plain).any(axis=(0, 2))
    assert changed[20:90].any() and changed[130:220].any() and not changed[:8].any()
    assert read("out/two_face_01_before.png").shape == (16, 16, 3)
    assert read("out/two_face_02_after.png").shape == (64, 64, 3)
    streams = capsys.readouterr()
    assert "out/two.png  240x180  " in streams.out
    assert streams.err.startswith("diffbir restore: warning: --version one-step has no network for faces")
    assert streams.err.count("\n") == 1, "one line, and none without --task faces"
    assert " s  2 faces\n" in streams.out and " s  1 face\n" in streams.out and " s  no face\n" in streams.out


def test_a_photo_without_a_face_is_its_background_and_says_so(photos: Fake) -> None:
    """The bytes of a run without faces; the report and the sidecar say it."""
    assert restore("--report", "r.json", source="in/none.png") == 0
    assert restore(source="in/none.png", output="plain", task="sr") == 0
    assert Path("out/none.png").read_bytes() == Path("plain/none.png").read_bytes()
    (entry,) = json.loads(Path("r.json").read_text())["restored"]
    record = json.loads(Path("out/none.json").read_text())
    assert (entry["found"], entry["faces"]) == (record["found"], record["faces"]) == ("no face", [])
    assert "found" not in json.loads(Path("plain/none.json").read_text())


def test_a_crowd_shares_one_call(photos: Fake, monkeypatch) -> None:
    """Found by the shipped detector; crops of both photos come before both backgrounds."""
    monkeypatch.setattr(restoring, "detect", lambda photo, _: detect(photo, closer=False))
    crowd = row_of_heads(12, 40)
    for name in "ab":
        put(f"crowd/{name}.png", crowd)
    assert restore(source="crowd") == 0
    shapes = [request.image.shape[0] for request, *_ in photos.seen]
    assert shapes == [16] * 24 + [len(crowd)] * 2
    record = json.loads(Path("out/a.json").read_text())
    lefts = [entry["box"][0] for entry in record["faces"]]
    assert record["found"] == "12 faces" and [entry["number"] for entry in record["faces"]] == [*range(1, 13)]
    assert len(lefts) == 12 and max(np.diff(lefts)) > 40 and min(np.diff(lefts)) > -10
    assert all(len(entry["points"]) == 5 and entry["score"] > 0.5 for entry in record["faces"])
    noises = {request.index for request, *_ in photos.seen}
    assert len(noises) == 26, "each face has its own noise"


def test_two_hundred_faces_are_restored_in_one_photo(photos: Fake, monkeypatch) -> None:
    """More than a group holds; found by the shipped detector."""
    monkeypatch.setattr(restoring, "detect", lambda photo, _: detect(photo, closer=False))
    put("crowd.png", row_of_heads(200, 20))
    assert restore("--background", "resize", "--upscale", 1, source="crowd.png") == 0
    record = json.loads(Path("out/crowd.json").read_text())
    restored = [entry for entry in record["faces"] if not entry["left"]]
    assert len(restored) == len(photos.seen) >= 190
    assert len({request.index for request, *_ in photos.seen}) == len(photos.seen)


def test_colours_of_sixteen_bits_stay(photos: Fake) -> None:
    """Result and crops have levels between those of 8 bits."""
    noise = np.random.default_rng(0).integers(0, 257, (*TWO, 3))
    write_png("photo.png", (wall(*TWO) * 200 + noise).astype(np.uint16))
    assert restore("--save-faces", "--background", "resize", source="photo.png") == 0
    for name, side in (
        ("photo", (180, 240)),
        ("photo_face_01_before", (16, 16)),
        ("photo_face_02_after", (64, 64)),
    ):
        pixels = read_photo(f"out/{name}.png").pixels
        assert pixels.dtype == np.uint16 and pixels.shape == (*side, 3), name
        assert (pixels % 257 != 0).mean() > 0.9 and (pixels[..., 0] != pixels[..., 2]).mean() > 0.9, name
    assert restore("--background", "resize", "--face-strength", 0, source="photo.png", output="plain") == 0
    assert (read_photo("out/photo.png").pixels != read_photo("plain/photo.png").pixels).any()


def test_sharp_faces_are_left_by_the_command(fake: Fake, monkeypatch) -> None:
    """A face of 512 pixels that is sharp, and the same one blurred; crops have their usual size."""
    known_faces(monkeypatch)
    monkeypatch.setattr(batch_faces, "model_file", lambda: None)
    sharp = fractal()
    monkeypatch.setitem(KNOWN.faces, sharp.shape[:2], [Face((150, 150, 200, 250), FFHQ, 0.9)])
    put("in/sharp.png", sharp)
    put("in/soft.png", cv2.GaussianBlur(sharp, (0, 0), 4))
    assert restore("--skip-sharp", "--background", "resize") == 0
    left = {name: json.loads(Path(f"out/{name}.json").read_text())["found"] for name in ("sharp", "soft")}
    assert left == {"sharp": "1 face, 1 left as background (already sharp)", "soft": "1 face"}
    assert [request.image.shape[0] for request, *_ in fake.seen] == [128]


@pytest.mark.parametrize("mode, depth", [("L", 8), ("RGBA", 8), ("LA", 8), ("I;16", 16)])
def test_every_kind_of_file_comes_back_as_it_is(photos: Fake, mode: str, depth: int) -> None:
    pixels = wall(*TWO)
    if depth == 16:
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(pixels).convert(mode)
    if "A" in mode:
        image.putalpha(200)
    image.save("photo.png")
    assert restore("--save-faces", "--background", "resize", source="photo.png") == 0
    result, ground = Image.open("out/photo.png"), image.resize((240, 180), Image.Resampling.BICUBIC)
    assert result.mode == mode
    assert (np.asarray(result) != np.asarray(ground)).any()
    if "A" in mode:
        assert (np.asarray(result)[..., -1] == 200).all()
    assert Image.open("out/photo_face_01_after.png").size == (64, 64)


def test_a_sidecar_repeats_result_and_crops(photos: Fake, capsys) -> None:
    """Every byte, with the choice of faces of the first time, and a background that has moved."""
    flags = ("--only-largest", "--mask", "square", "--face-strength", "0.5", "--save-faces", "--n-samples", 2)
    put("backs/two.png", wall(180, 240)[::-1])
    put("backs/one.png", wall(192, 192))
    put("backs/none.png", wall(120, 160))
    assert restore(*flags, "--background", "backs", "--compare", "--std-map") == 0
    made = [name for name in written() if name.startswith("two")]
    ends = ("after_1", "after_2", "before")
    assert made == [
        *("two.json", "two_1.png", "two_1_compare.png", "two_2.png", "two_2_compare.png"),
        *(f"two_face_02_{end}.png" for end in ends),
        "two_std.png",
    ]
    record = json.loads(Path("out/two.json").read_text())
    assert [entry["left"] for entry in record["faces"]] == ["not the largest face", ""]
    assert record["ground"]["path"] == "backs/two.png"
    Path("less.json").write_text(json.dumps({key: record[key] for key in record if key != "ground"}))
    capsys.readouterr()
    assert call("--from-sidecar", "less.json", "-o", "again") == 1
    assert "less.json: names no background file, and its background is 'backs'" in complaint(capsys)
    assert sorted([*record["outputs"], "two.json"]) == made
    Path("backs").rename("moved")
    capsys.readouterr()
    assert call("--from-sidecar", "out/two.json", "-o", "again") == 1
    assert "the background that the sidecar names is no file" in complaint(capsys)
    assert call("--from-sidecar", "out/two.json", "-o", "again", "--background", "moved") == 0
    for name in made[1:]:
        assert Path("again", name).read_bytes() == Path("out", name).read_bytes(), name
    assert call("--from-sidecar", "out/two.json", "-o", "again", "--mask", "ellipse") == 2
    assert call("--from-sidecar", "out/two.json", "-o", "again", "--face-size", "1,2") == 2


def test_a_sidecar_without_faces_knows_no_background(photos: Fake, capsys) -> None:
    assert restore(task="sr") == 0
    capsys.readouterr()
    assert call("--from-sidecar", "out/two.json", "-o", "again", "--background", "in") == 2
    assert "the sidecar knows no folder of backgrounds; leave it out" in complaint(capsys)


def test_an_interrupted_run_goes_on(photos: Fake, monkeypatch) -> None:
    """Photos of finished groups are there; the same command ends with the same files."""
    monkeypatch.setattr(restoring, "PHOTOS", 1)

    def leave(seen: int) -> None:
        if seen == 4:
            raise KeyboardInterrupt

    assert restore("--save-faces", output="whole") == 0
    photos.seen.clear()
    photos.before = leave
    assert restore("--save-faces") == 130
    first = written()
    assert "none.png" in first and len(first) < len(written("whole"))
    photos.before = lambda seen: None
    assert restore("--save-faces", "--skip-existing") == 0
    assert written() == written("whole")
    for name in written():
        if name.endswith("png"):
            assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()


def test_no_more_photos_than_a_group_are_in_hand(photos: Fake, monkeypatch) -> None:
    """By the fakes' requests: the first photo is complete before the third is looked at."""
    monkeypatch.setattr(restoring, "PHOTOS", 2)
    for number in range(6):
        put(f"many/{number}.png", wall(*ONE))
    assert restore("--no-sidecar", source="many") == 0
    sides = [request.image.shape[0] for request, *_ in photos.seen]
    assert sides == ([16] * 2 + [96] * 2) * 3


def test_only_crops_are_written_without_a_background(photos: Fake, capsys) -> None:
    """The sidecar then tells what is done."""
    flags = ("--background", "none", "--report", "r.json")
    assert restore(*flags) == 0
    crops = [f"one_face_01_{when}.png" for when in ("after", "before")]
    assert written() == ["none.json", "one.json", *crops, "two.json", *CROPS]
    record = json.loads(Path("out/none.json").read_text())
    assert (record["found"], record["outputs"]) == ("no face, so no crop is written", [])
    assert all(request.image.shape[0] == 16 for request, *_ in photos.seen)
    report = json.loads(Path("r.json").read_text())
    assert {entry["result"] for entry in report["restored"]} == {"out/one_face", "out/two_face", None}
    said = capsys.readouterr().out
    assert "out/two_face_*  " in said and "none_face" not in said
    assert re.search(r"^in/none.png  [0-9.]+ s  no face, so no crop is written$", said, re.MULTILINE)
    assert restore(*flags, "--skip-existing") == 0
    assert "0 restored, 0 failed, 3 skipped" in capsys.readouterr().out


def test_missing_crops_are_not_skipped(photos: Fake, capsys) -> None:
    """Those of a run without --save-faces, those that somebody removed, and those that no sidecar tells of."""
    flags = ("--save-faces", "--skip-existing")
    assert restore() == 0 and restore(*flags) == 0
    assert "2 restored, 0 failed, 1 skipped" in capsys.readouterr().out
    made = [name for name in written() if "_face_" in name]
    assert made == [*(f"one_face_01_{when}.png" for when in ("after", "before")), *CROPS]
    assert restore(*flags) == 0
    assert "0 restored, 0 failed, 3 skipped" in capsys.readouterr().out
    Path("out/two_face_02_after.png").unlink()
    Path("out/one.json").write_text("{}")
    assert restore(*flags) == 0
    assert "2 restored, 0 failed, 1 skipped" in capsys.readouterr().out
    assert [name for name in written() if "_face_" in name] == made
    assert restore("--face-size", "500", output="few") == 0
    assert restore("--face-size", "500", *flags, output="few") == 0
    assert "0 restored, 0 failed, 3 skipped" in capsys.readouterr().out


def test_a_result_of_another_task_has_no_crops(photos: Fake, capsys) -> None:
    assert restore(task="sr", source="in/two.png") == 0
    assert restore("--save-faces", "--skip-existing", source="in/two.png") == 0
    assert "1 restored" in capsys.readouterr().out and {*CROPS} < {*written()}


def test_seconds_add_up(photos: Fake, monkeypatch) -> None:
    """A clock that ticks at each look: three photos are taken in hand and given back, with five ticks between."""
    ticks = itertools.count()
    monkeypatch.setattr(drive, "Shares", lambda: Shares(lambda: float(next(ticks))))
    assert restore("--report", "r.json") == 0
    report = json.loads(Path("r.json").read_text())["restored"]
    spent = [entry["seconds"] for entry in report]
    assert sum(spent) == pytest.approx(5.0, abs=0.01) and min(spent) > 0
    records = [json.loads(Path(f"out/{n}.json").read_text()) for n in ("one", "two", "none")]
    assert sum(record["seconds"]["compute"] for record in records) == pytest.approx(5.0, abs=0.01)


def test_crops_of_files_of_one_stem_do_not_collide(photos: Fake, capsys) -> None:
    """Nor with other results; the same without crops is allowed."""
    put("same/a.png", wall(*TWO))
    Image.fromarray(wall(*TWO)).save("same/a.jpg")
    assert restore("--save-faces", source="same") == 1
    assert "both would be written as out/a" in complaint(capsys)
    assert restore("--save-faces", "--format", "same", source="same") == 0
    ends = [f"_face_0{n}_{when}.png" for n in (1, 2) for when in ("after", "before")]
    crops = [f"{name}{end}" for name in ("a.jpg", "a.png") for end in ends]
    assert [name for name in written() if "_face_" in name] == crops
    put("named/a.png", wall(*TWO))
    put("named/a_face_01_after.png", wall(*NONE))
    capsys.readouterr()
    assert restore("--save-faces", source="named", output="named_out") == 1
    assert "a.png and named/a_face_01_after.png: both would be written as" in complaint(capsys)
    assert restore(source="named", output="named_out") == 0


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--only-largest --task sr", "--only-largest belongs to --task faces; give both, or leave it out"),
        ("--save-faces --mask square --task face", "--mask, --save-faces belongs to --task faces"),
        ("--background rezise", "--background is rezise, and no folder; use sr, resize, none or a folder"),
        ("--background none --compare", "--background none writes no whole photos and knows no --compare"),
        ("--background none --std-map --n-samples 2", "knows no --std-map; leave it out"),
        ("--background none --no-sidecar --skip-existing", "nothing that tells --skip-existing what is done"),
        (
            "--save-faces --no-sidecar --skip-existing",
            "--save-faces with --no-sidecar leaves nothing that tells",
        ),
        ("--face-size 9,3", "--face-size: '9,3' given, allowed are MIN,MAX with 0 <= MIN <= MAX"),
        ("--face-size big", "--face-size: 'big' given, allowed are MIN,MAX"),
        ("--face-size nan,", "--face-size: 'nan,' given, allowed are MIN,MAX"),
        ("--face-strength 2", "--face-strength: '2' given, allowed are numbers from 0 to 1"),
        ("--mask round", "--mask: 'round' given; allowed are ellipse, square"),
        ("--compat --mask square", "--compat pastes as the reference does, which knows no --mask"),
        ("--compat --face-strength 0.5", "which knows no --face-strength; leave it out"),
        ("--fidelity-mask in --guidance-scale 1", "--task faces knows no --fidelity-mask; leave it out"),
        ("--guidance-map maps", "--task faces knows no --guidance-map; leave it out"),
        ("--stage1 in", "--stage1 in is a folder; --task faces restores crops, too"),
        ("--detail 0 --n-samples 2", "without generated detail all samples are equal"),
    ],
)
def test_mistakes_are_one_line_at_once(photos: Fake, capsys, flags: str, message: str) -> None:
    assert restore(*flags.split()) == 2
    assert message in complaint(capsys)
    assert not photos.seen and not Path("out").exists()


def test_backgrounds_are_named_as_the_inputs(photos: Fake, capsys) -> None:
    put("backs/two.png", wall(90, 120))
    assert restore("--background", "backs") == 1
    assert "backs: holds no background, or several, named" in complaint(capsys)
    put("backs/two.png", wall(50, 120))
    assert restore("--background", "backs", source="in/two.png") == 1
    assert "the background is 120x50, of other proportions than the input" in capsys.readouterr().err
    put("backs/two.png", wall(180, 240))
    assert restore("--background", "backs", "--max-pixels", 43_199, source="in/two.png") == 1
    assert "two.png: is 240x180 = 43200 pixels, more than the limit of 43199" in capsys.readouterr().err


def test_faces_are_chosen_by_size(photos: Fake) -> None:
    assert restore("--face-size", "45", source="in/two.png") == 0
    record = json.loads(Path("out/two.json").read_text())
    assert record["found"] == "2 faces, 1 left as background (smaller than 45 pixels)"
    assert restore("--face-size", ",45", source="in/two.png") == 0
    record = json.loads(Path("out/two.json").read_text())
    assert [entry["left"] for entry in record["faces"]] == ["", "larger than 45 pixels"]


def test_faces_of_too_few_pixels_are_left_unless_asked_for(photos: Fake, monkeypatch) -> None:
    """By default below `LEAST`; the sidecar says so."""
    monkeypatch.setitem(KNOWN.faces, NONE, [face(5, 5, LEAST - 1), face(30, 5, LEAST + 1)])
    for flags, left in (((), f"smaller than {LEAST:g} pixels"), (("--face-size", "0"), "")):
        assert restore(*flags, source="in/none.png") == 0
        record = json.loads(Path("out/none.json").read_text())
        assert [entry["left"] for entry in record["faces"]] == [left, ""]


def test_a_face_that_fails_fails_its_photo_alone(photos: Fake, capsys) -> None:
    """The other photos of the group are written."""
    photos.errors = {(noise_index(Path("one.png")) + STRIDE) % 2**32: MemoryError()}
    assert restore() == 1
    assert "in/one.png: memory does not suffice" in capsys.readouterr().err
    assert [name for name in written() if name.endswith("png")] == ["none.png", "two.png"]


def test_identities_are_reported_if_the_judge_is_installed(photos: Fake, monkeypatch) -> None:
    class Judge:
        def likeness(self, *_: object) -> float:
            return 0.75

    monkeypatch.setattr(batch_faces, "model_file", lambda: Path("there"))
    monkeypatch.setattr(batch_faces, "SFace", Judge)
    assert restore(source="in/two.png") == 0
    record = json.loads(Path("out/two.json").read_text())
    assert [entry["identity"] for entry in record["faces"]] == [0.75, 0.75]
