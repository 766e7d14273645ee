"""Training states as they are in the world: damaged, torn, foreign, or in use."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.console.errors import UserError
from diffbir_jax.files.locks import held
from diffbir_jax.training.checkpoints import Checkpoints
from diffbir_jax.training.intact import DAMAGED, SEALS, beside, checkpoint_steps
from diffbir_jax.training.loop import _only_run
from diffbir_jax.training.writers import JsonLines, read_lines


def state(step: int) -> dict:
    return {"weight": jnp.arange(4000.0) + step, "step": jnp.int32(step)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 2 and 4, sealed."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        for step in (2, 4):
            checkpoints.save(step, state(step), {"place": step})
    assert sorted(path.stem for path in (beside(folder, SEALS)).iterdir()) == ["2", "4"]
    return folder


def copied(saved: Path, folder: Path) -> Path:
    """A copy of checkpoints with their checksums."""
    shutil.copytree(beside(saved, SEALS), folder / ("checkpoints" + SEALS))
    return Path(shutil.copytree(saved, folder / "checkpoints"))


def largest(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def turn_a_bit(folder: Path) -> None:
    data = bytearray(largest(folder).read_bytes())
    data[len(data) // 2] ^= 1
    largest(folder).write_bytes(data)


def truncate(folder: Path) -> None:
    os.truncate(largest(folder), largest(folder).stat().st_size // 2)


def zero(folder: Path) -> None:
    largest(folder).write_bytes(bytes(largest(folder).stat().st_size))


def make_foreign(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")


def metadata(folder: Path) -> Path:
    return folder / "_CHECKPOINT_METADATA"


def take_from(folder: Path, item: str) -> None:
    """An item of the checkpoint before: whole, but another step's."""
    shutil.rmtree(folder / item)
    shutil.copytree(folder.with_name("2") / item, folder / item)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit": turn_a_bit,
    "half a file": truncate,
    "an empty file": lambda folder: os.truncate(largest(folder), 0),
    "zeros": zero,
    "no file": lambda folder: largest(folder).unlink(),
    "no metadata": lambda folder: (folder / "_CHECKPOINT_METADATA").unlink(),
    "half the metadata": lambda folder: os.truncate(metadata(folder), metadata(folder).stat().st_size // 2),
    "empty metadata": lambda folder: os.truncate(metadata(folder), 0),
    "zeros for metadata": lambda folder: metadata(folder).write_bytes(bytes(metadata(folder).stat().st_size)),
    "other metadata": lambda folder: metadata(folder).write_text("{}"),
    "no position": lambda folder: shutil.rmtree(folder / "position"),
    "another step's position": lambda folder: take_from(folder, "position"),
    "another step's state": lambda folder: take_from(folder, "default"),
    "a renamed file": lambda folder: largest(folder).rename(folder / "default" / "other"),
    "no item": lambda folder: shutil.rmtree(folder / "default"),
    "a foreign folder": make_foreign,
    "an empty folder": lambda folder: [shutil.rmtree(folder), folder.mkdir()],
    "one file more": lambda folder: (folder / "more").touch(),
    "other checksums": lambda folder: (beside(folder.parent, SEALS) / "4.json").write_text("{}"),
    **{
        f"{text} for checksums": lambda folder, text=text: (
            beside(folder.parent, SEALS) / "4.json"
        ).write_text(text)
        for text in ('{"a', "[]", "null", "7", '{"default/_METADATA": 7}')
    },
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_last_intact_one_taken(
    saved: Path, tmp_path: Path, name: str
) -> None:
    folder = copied(saved, tmp_path)
    DAMAGES[name](folder / "4")
    with Checkpoints(folder) as checkpoints:
        (told,) = checkpoints.damaged
        assert told.startswith(f"checkpoint {folder / '4'} is damaged (") and "\n" not in told
        assert checkpoints.latest == 2 and checkpoints.position() == {"place": 2}
        np.testing.assert_array_equal(checkpoints.restore(state(0))["weight"], state(2)["weight"])
        checkpoints.save(4, state(4), {"place": 4})
    assert (beside(folder, DAMAGED) / "4").is_dir()
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest == 4 and not checkpoints.damaged
        np.testing.assert_array_equal(checkpoints.restore(state(0))["weight"], state(4)["weight"])


def test_checkpoints_without_checksums_are_taken(saved: Path, tmp_path: Path) -> None:
    """Of an earlier version, or of a run that was killed before it wrote them."""
    folder = copied(saved, tmp_path)
    shutil.rmtree(beside(folder, SEALS))
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest == 4 and not checkpoints.damaged
    assert sorted(path.stem for path in (beside(folder, SEALS)).iterdir()) == ["2", "4"]


def of_another_step(folder: Path, **files: str) -> None:
    """Nothing but files of these names."""
    shutil.rmtree(folder)
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


WITHOUT_CHECKSUMS: dict[str, Callable[[Path], object]] = {
    "only a mark": lambda folder: of_another_step(folder, _CHECKPOINT_METADATA="{}"),
    "only the mark of older versions": lambda folder: of_another_step(folder, default___METADATA="{}"),
    "a list for the arrays": lambda folder: (folder / "default" / "_METADATA").write_text("[]"),
    "no array": lambda folder: (folder / "default" / "_METADATA").write_text('{"tree_metadata": {}}'),
    "an array that is not there": lambda folder: take_metadata(folder),
    **{name: DAMAGES[name] for name in ("no file", "half a file", "an empty file", "no item")},
    "empty metadata": DAMAGES["empty metadata"],
    "half a position": lambda folder: (folder / "position" / "metadata").write_text('{"pla'),
    "no content of the position": lambda folder: (folder / "position" / "metadata").unlink(),
}


def take_metadata(folder: Path) -> None:
    path = folder / "default" / "_METADATA"
    path.write_text(path.read_text().replace('"key": "weight"', '"key": "bias"'))


@pytest.mark.parametrize("name", WITHOUT_CHECKSUMS)
def test_what_cannot_be_read_without_checksums_is_set_aside(saved: Path, tmp_path: Path, name: str) -> None:
    """A mark alone does not make a checkpoint."""
    folder = copied(saved, tmp_path)
    shutil.copytree(folder / "4", folder / "999")
    WITHOUT_CHECKSUMS[name](folder / "999")
    with Checkpoints(folder) as checkpoints:
        (told,) = checkpoints.damaged
        assert told.startswith(f"checkpoint {folder / '999'} is damaged (it ") and "\n" not in told
        assert checkpoints.latest == 4
        np.testing.assert_array_equal(checkpoints.restore(state(0))["weight"], state(4)["weight"])


@pytest.mark.parametrize("name", ["007", "\u0669", "00", "\u00b2"])
def test_names_that_are_not_those_of_their_numbers_are_no_checkpoints(
    saved: Path, tmp_path: Path, name: str
) -> None:
    folder = copied(saved, tmp_path)
    (folder / name).mkdir()
    (beside(folder, SEALS) / f"{name}.json").write_text("{}")
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest == 4 and not checkpoints.damaged
        np.testing.assert_array_equal(checkpoints.restore(state(0))["weight"], state(4)["weight"])
    assert (folder / name).is_dir() and (beside(folder, SEALS) / f"{name}.json").exists()


def test_a_folder_in_the_place_of_a_file_is_named(saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path)
    record = beside(folder, SEALS) / "2.json"
    record.unlink()
    record.mkdir()
    with pytest.raises(UserError, match=r"2\.json: is no file, but checksums .* move it elsewhere"):
        Checkpoints(folder)
    shutil.rmtree(record.parent)
    record.parent.touch()
    with pytest.raises(UserError, match="_checksums: is no folder, but checksums .* move it elsewhere"):
        Checkpoints(folder)
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl: is no file, .* move it elsewhere"):
        read_lines(tmp_path / "metrics.jsonl")


def test_a_foreign_folder_without_checksums_is_set_aside(saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path)
    (folder / "9").mkdir()
    (folder / "9" / "notes.txt").write_text("mine")
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest == 4 and "something else made it" in checkpoints.damaged[0]
    assert (beside(folder, DAMAGED) / "9" / "notes.txt").read_text() == "mine"


def test_all_damaged_is_a_new_beginning_and_nothing_is_deleted(saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path)
    for step in ("2", "4"):
        truncate(folder / step)
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest is None and len(checkpoints.damaged) == 2
    assert sorted(path.name for path in beside(folder, DAMAGED).iterdir()) == ["2", "4"]


def test_checksums_go_with_their_checkpoints(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "run", keep=1) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state(step))
    assert list(checkpoint_steps(tmp_path / "run")) == [3]
    assert [path.name for path in beside(tmp_path / "run", SEALS).iterdir()] == ["3.json"]


def test_one_run_per_folder(tmp_path: Path) -> None:
    """Another process, such as this one here, is named."""
    busy = pytest.raises(UserError, match=f"process {os.getpid()} trains there; wait for it")
    with held(tmp_path / ".lock"), ExitStack() as stack, busy:
        _only_run(stack, tmp_path)
    with ExitStack() as stack:
        _only_run(stack, tmp_path)


def test_metrics_are_only_appended_to(tmp_path: Path) -> None:
    """A line torn by a kill costs itself only; steps that are repeated count once."""
    path = tmp_path / "metrics.jsonl"
    first = JsonLines(tmp_path, 0)
    for step in (1, 2, 3):
        first.scalars(step, {"train/loss": float(step)})
    first.close()
    before = path.read_text() + '{"step": 4, "tra'
    path.write_text(before)
    second = JsonLines(tmp_path, 2)
    second.scalars(3, {"train/loss": 7.0})
    second.close()
    assert path.read_text().startswith(before)
    assert [(line["step"], line["train/loss"]) for line in read_lines(path)] == [(1, 1.0), (2, 2.0), (3, 7.0)]
    path.write_text(path.read_text() + json.dumps([1]) + "\nnull\n")
    assert len(read_lines(path)) == 3


@pytest.mark.parametrize(
    "line",
    [
        '{"step": "a"}',
        '{"step": null}',
        '{"step": [2]}',
        '{"step": 1.5}',
        '{"step": true}',
        "[2]",
        '"a"',
        "{}",
    ]
    + ['{"resumed": "a"}', '{"resumed": null}', '{"step": 2, "validation/loss": "a"}']
    + ['{"step": 2, "validation/loss": [null]}'],
)
def test_lines_that_no_run_writes_are_passed_over_and_said_once(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1, "train/loss": 2.0}}\n{line}\n{line}\n{{"step": 3, "train/loss": null}}\n')
    told: list[str] = []
    lines = read_lines(path, told.append)
    assert [each["step"] for each in lines] == [1, 3]
    assert told == [f"{path}: passed over 2 damaged line(s), the first is line 2"]
    JsonLines(tmp_path, 2).close()
    assert [each["step"] for each in read_lines(path)] == [1]
