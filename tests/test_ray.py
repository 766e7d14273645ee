"""The example for Ray on a local cluster of two workers. One is killed in the middle. Needs `pip install ray`."""

import importlib.util
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from diffbir_jax.batch import run as batch
from tests.batch.fake import Fake
from tests.command import save

ray = pytest.importorskip("ray")
ROOT = Path(__file__).parents[1]
PHOTOS, EACH = 12, 2
pytestmark = pytest.mark.slow


@pytest.fixture
def example() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("ray_restore", ROOT / "examples" / "ray_restore.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two workers, which import what this process imports."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, sys.path)]))
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=2**27, log_to_driver=False)
    yield
    ray.shutdown()


def waiting(folder: Path, restore: Callable[[Sequence[str]], int]) -> Callable[[Sequence[str]], int]:
    """A share without networks that tells its process and waits for the file `go` after `EACH` images."""

    def share(flags: Sequence[str]) -> int:
        def wait(seen: int) -> None:
            (folder / f"{os.getpid()}.seen").write_text(str(seen))
            while seen >= EACH and not (folder / "go").exists():
                time.sleep(0.05)

        batch.load = lambda *_: Fake(before=wait)
        batch.planned = lambda *_: None
        return restore(flags)

    return share


def lines(output: Path) -> list[str]:
    """The names of the images in the manifest."""
    parts = sorted((output / ".diffbir").glob("*.jsonl"))
    return sorted(json.loads(line)["name"] for part in parts for line in part.read_text().splitlines())


def waited(for_what: Callable[[], object], seconds: float = 900.0) -> None:
    """Wait until something is true; a cluster that hangs fails here."""
    end = time.monotonic() + seconds
    while not for_what():
        assert time.monotonic() < end, "the workers do not get so far"
        time.sleep(0.1)


def test_one_of_two_workers_is_killed(cluster: None, tmp_path: Path, example: ModuleType) -> None:
    names = [f"{number:02}.png" for number in range(PHOTOS)]
    for seed, name in enumerate(names):
        save(tmp_path / "in" / name, seed=seed)
    share, out = waiting(tmp_path, example.restore), tmp_path / "out"
    killed: list[list[str]] = []

    def kill() -> None:
        """Kill one worker once both wait, then let the others go on."""
        waited(lambda: len(lines(out)) >= 2 * EACH)
        victim = sorted(tmp_path.glob("*.seen"))[0]
        killed.append(lines(out))
        os.kill(int(victim.stem), signal.SIGKILL)
        (tmp_path / "go").touch()

    killer = threading.Thread(target=kill)
    killer.start()
    codes = example.restore_all(
        f"local://{tmp_path}/in", f"local://{out}", ["--upscale", "2"], shares=2, run=share, num_cpus=1
    )
    killer.join()
    assert codes == [0, 0]
    assert len(killed[0]) == 2 * EACH, "the kill came in the middle"
    assert lines(out) == names, "each image once, those of before the kill too"
    assert sorted(path.name for path in out.glob("*.png")) == names
    assert len({path.stem for path in tmp_path.glob("*.seen")}) == 3, "a third process took the rest"


def test_flags_of_restore_follow_two_dashes(example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[object, ...]] = []
    monkeypatch.setattr(example.ray, "init", lambda: None)
    monkeypatch.setattr(
        example, "restore_all", lambda *args, **more: called.append((*args, more)) or [0, 1, 0]
    )
    assert example.main(["gs://a", "gs://b", "--shares", "3", "--gpus", "1", "--", "--upscale", "2"]) == 1
    assert example.main(["a", "b"]) == 1
    assert called[0] == ("gs://a", "gs://b", ["--upscale", "2"], 3, {"num_cpus": 1, "num_gpus": 1.0})
    assert called[1][2:4] == ([], 8)
