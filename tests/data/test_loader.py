import io
import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from PIL import Image

from diffbir_jax.data.crops import Crop
from diffbir_jax.data.decoding import pixels
from diffbir_jax.data.example import BrokenExampleError, DataError, Example
from diffbir_jax.data.items import ATTEMPTS, Items
from diffbir_jax.data.loader import JUDGED_FROM, NICER, Loader
from diffbir_jax.data.split import Split

ROOT = Path(__file__).parents[2]
SIZE = 16


class Levels:
    """Pictures that tell their index by red and green, some of them broken."""

    def __init__(self, count, broken=(), failing=(), captions=None):
        self.count, self.broken, self.failing = count, set(broken), set(failing)
        self.captions = captions or {}

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.broken:
            raise BrokenExampleError(f"{index}.png: is cut off")
        if index in self.failing:
            raise OSError("the disk is gone")
        image = np.empty((SIZE, SIZE, 3), np.uint8)
        image[:] = index // 256, index % 256, 0
        return Example(f"{index}.png", image, self.captions)

    @property
    def fingerprint(self):
        return f"{self.count:08x}"


def add_noise(hq, rng):
    """A degradation: blue becomes noise."""
    lq = hq / np.float32(255)
    lq[..., 2] = rng.random(lq.shape[:2])
    return SimpleNamespace(hq=hq / np.float32(255), lq=lq)


def short(captions, rng):
    return captions["short"] if rng.random() < 0.5 else ""


def loader(source, batch_size=4, *, caption=None, seed=0, dtype="uint8", crop="none", **settings):
    items = Items(source, Crop(crop, SIZE), add_noise, caption, seed, dtype)
    return Loader(items, batch_size, **settings)


def batches(loader, first, last):
    with closing(loader.iterate(first, last)) as iterator:
        return list(iterator)


def indices(batch):
    return (batch["hq"][:, 0, 0, :2].astype(int) @ [256, 1]).tolist()


def assert_same(batches, others):
    assert len(batches) == len(others)
    for a, b in zip(batches, others):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], strict=True)


def test_an_epoch_holds_every_example_once_in_an_order_of_its_own():
    epochs = np.concatenate([indices(batch) for batch in batches(loader(Levels(300)), 0, 225)]).reshape(
        3, 300
    )
    for epoch in epochs:
        assert sorted(epoch) == list(range(300))
    orders = [*epochs, np.arange(300), *(indices(loader(Levels(300), 300, seed=s)(0)) for s in (1, 2))]
    for i, order in enumerate(orders):
        for other in orders[:i]:
            assert np.mean(order == other) < 0.05


def test_a_batch_depends_on_seed_and_number_alone():
    captioned = Levels(50, broken={3, 30}, captions={"short": "a cat"})
    expected = batches(loader(captioned, caption=short, max_broken=0.1), 0, 30)
    assert {len(batch["prompt"]) for batch in expected} == {4}
    assert {text for batch in expected for text in batch["prompt"].tolist()} == {"", "a cat"}
    for settings in ({"threads": 1}, {"threads": 5, "ahead": 4}):
        again = loader(captioned, caption=short, max_broken=0.1, **settings)
        assert_same(batches(again, 17, 30), expected[17:])  # a restart at batch 17
    assert_same([again(k) for k in (29, 4)], [expected[k] for k in (29, 4)])
    other = loader(captioned, caption=short, max_broken=0.1, seed=1)(4)
    assert (other["lq"] != expected[4]["lq"]).any()
    assert len({image.tobytes() for batch in expected for image in batch["lq"]}) == 4 * 30


@pytest.mark.slow
def test_worker_processes_change_nothing_and_leave_nothing():
    """The same batches, replacements and broken examples, from a restart too; closed half-way."""
    source = Levels(50, broken={3, 30}, captions={"short": "a cat"})
    alone = loader(source, caption=short, max_broken=0.1)
    expected = batches(alone, 3, 20)
    for workers in (2, 4):
        several = loader(source, caption=short, max_broken=0.1, workers=workers)
        before = set(psutil.Process().children(recursive=True))
        with closing(several.iterate(3, 10**9)) as iterator:
            found = [next(iterator) for _ in range(17)]
            started = set(psutil.Process().children(recursive=True)) - before
        assert_same(found, expected)
        assert len(started) >= workers
        assert not multiprocessing.active_children()
        assert alone.broken.items() <= several.broken.items()


class Nice(Levels):
    """Pictures that tell by blue how nice the thread is that reads them: 20 where it is not."""

    def __getitem__(self, index):
        example = super().__getitem__(index)
        example.image[..., 2] = 20 + os.getpriority(os.PRIO_PROCESS, 0)
        return example


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own elsewhere")
def test_threads_beside_a_computation_give_way_to_it():
    """Those of the process that trains: not its main thread, nor processes that make items."""
    before, source = os.getpriority(os.PRIO_PROCESS, 0), Nice(20)
    threads, processes = (batches(loader(source, workers=workers), 0, 4) for workers in (0, 1))
    of_threads, of_processes = (
        {int(x) for batch in some for x in batch["hq"][..., 2].flat} for some in (threads, processes)
    )
    assert of_threads == {20 + min(before + NICER, 19)}
    assert of_processes == {20 + before}
    assert int(loader(source)(0)["hq"][0, 0, 0, 2]) - 20 == os.getpriority(os.PRIO_PROCESS, 0) == before


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_global_batches(hosts):
    whole = batches(loader(Levels(48), 8), 2, 20)
    parts = [batches(loader(Levels(48), 8, host=host, hosts=hosts), 2, 20) for host in range(hosts)]
    together = [{k: np.concatenate([part[k] for part in step]) for k in step[0]} for step in zip(*parts)]
    assert_same(together, whole)
    epoch = [{i for batch in part[4:10] for i in indices(batch)} for part in parts]  # batches 6..11
    assert sum(map(len, epoch)) == 48 and set.union(*epoch) == set(range(48))


def test_broken_examples_are_replaced_and_named():
    found = loader(Levels(200, broken={7, 120}), 10)
    taken = [indices(batch) for batch in batches(found, 0, 20)]
    assert found.broken == {7: "7.png: is cut off", 120: "120.png: is cut off"}
    counts = np.bincount(np.concatenate(taken), minlength=200)
    assert counts[[7, 120]].tolist() == [0, 0]
    assert counts.sum() == 200 and (counts[counts.nonzero()] >= 1).all() and (counts == 0).sum() == 2


def test_a_broken_share_that_is_too_large_ends_the_run():
    """Three in 200, judged after the epoch; in 2000 the same share, judged after 1000."""
    few = loader(Levels(200, broken={7, 120, 121}), 10)
    with pytest.raises(
        DataError,
        match=r"^3 of 200 examples are broken, more than data\.max_broken = 0\.01 allows: .*\.png: is",
    ):
        batches(few, 0, 30)
    assert len(batches(loader(Levels(200, broken={7, 120, 121}), 10), 0, 19)) == 19  # before the epoch's end
    many = loader(Levels(2000, broken=range(0, 2000, 50)), 10, max_broken=0.015)
    with closing(many.iterate(0, 200)) as iterator:
        for _ in range(JUDGED_FROM // 10 - 1):
            next(iterator)
        with pytest.raises(DataError, match=r"of 1000 examples are broken"):
            next(iterator)
    assert batches(loader(Levels(200, broken={7, 120, 121}), 10, max_broken=0.02), 0, 40)


def test_where_nothing_can_be_read_the_first_batch_says_so():
    with pytest.raises(
        DataError, match=rf"^{ATTEMPTS} of {ATTEMPTS} examples tried .* first being: \d+\.png: is cut"
    ):
        batches(loader(Levels(50, broken=range(50))), 0, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_fails_is_one_error_wherever_it_happens(workers):
    with pytest.raises(DataError) as error:
        batches(loader(Levels(40, failing={31}), workers=workers), 0, 10)
    assert str(error.value) == "example 31 of the source: OSError: the disk is gone"
    assert not multiprocessing.active_children()


def test_a_worker_that_dies_is_an_error_and_no_wait():
    with closing(loader(Levels(40), workers=2).iterate(0, 10**9)) as iterator:
        next(iterator)
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(DataError, match="a data worker ended .*; if memory ran out, lower data.workers"):
            for _ in range(1000):
                next(iterator)
    assert not multiprocessing.active_children()


ENDLESS = """
import multiprocessing, os
from tests.data.test_loader import Levels, loader
if __name__ == "__main__":
    iterator = loader(Levels(40), workers=2).iterate(0, 10**9)
    next(iterator)
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    input()
    while True:
        next(iterator)
        print(flush=True)
"""
# More batches than workers have made before they are asked.
MANY = 300


@pytest.mark.slow
def test_a_killed_run_leaves_no_process(tmp_path):
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    run = subprocess.Popen([sys.executable, script], env=environment, **pipes)
    assert run.stdin is not None and run.stdout is not None
    workers = [psutil.Process(int(pid)) for pid in run.stdout.readline().split()]
    assert len(workers) == 2
    for worker in workers:  # Ctrl-C in a terminal reaches all: the main process decides
        worker.send_signal(signal.SIGINT)
        worker.send_signal(signal.SIGTERM)
    run.stdin.write("go on\n")
    run.stdin.flush()
    assert all(run.stdout.readline() for _ in range(MANY))
    assert all(worker.is_running() for worker in workers)
    run.kill()
    run.communicate()
    _, alive = psutil.wait_procs(workers, timeout=300)
    assert not alive


def test_bytes_are_rounded_floats():
    as_bytes, as_floats = (loader(Levels(9), dtype=dtype)(1) for dtype in ("uint8", "float32"))
    for name in ("hq", "lq"):
        assert as_floats[name].dtype == np.float32 and as_bytes[name].dtype == np.uint8
        np.testing.assert_array_equal(np.rint(255 * as_floats[name]), as_bytes[name])
    assert (as_floats["lq"][..., 2] * 255 % 1 != 0).any()


def encoded(mode="RGB", size=(24, 32), kind="PNG", **options):
    grey = np.asarray(Image.effect_noise(size, 50))
    image = (
        Image.fromarray(grey.astype(np.uint16) * 257)
        if mode == "I;16"
        else Image.fromarray(grey).convert(mode)
    )
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "JPEG"), ("CMYK", "JPEG"), ("RGB", "WEBP")]
    + [(mode, "PNG") for mode in ("RGB", "RGBA", "L", "LA", "P", "I;16")],
)
def test_files_of_all_kinds_become_rgb(mode, kind):
    image = pixels(encoded(mode, kind=kind))
    assert (image.shape, image.dtype) == ((32, 24, 3), np.uint8)
    assert 40 < image.std() < 60


def test_files_are_turned_upright_and_laid_over_white():
    turned = Image.Exif()
    turned[0x0112] = 6
    assert pixels(encoded(kind="PNG", exif=turned)).shape == (24, 32, 3)
    file = io.BytesIO()
    Image.new("RGBA", (16, 16), (0, 0, 0, 51)).save(file, "PNG")
    assert (pixels(file.getvalue()) == 204).all()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (encoded(kind="JPEG")[:-200], "cut off"),
        (encoded()[:-30], "cut off"),
        (b"\xff\xd8\xff" + bytes(100), "is a damaged JPEG"),
        (b"no image at all", "is not a PNG, JPEG"),
        (b"", "is not a PNG, JPEG"),
        (encoded(size=(8, 8)), "is 8x8 pixels"),
        (np.zeros((8, 8), np.uint8), r"is uint8 of shape \(8, 8\); store"),
        (np.zeros((8, 8, 3)), "is float64"),
    ],
)
def test_what_is_no_whole_image_is_broken(image, message):
    with pytest.raises(BrokenExampleError, match=message):
        pixels(image)


def test_a_photo_that_does_not_fit_the_crop_is_broken_by_name():
    class Odd(Levels):
        def __getitem__(self, index):
            example = super().__getitem__(index)
            return Example(example.name, example.image[:, : SIZE - (index == 5)])

    found = loader(Odd(30), 10, max_broken=0.1)
    batches(found, 0, 3)
    assert found.broken.keys() == {5}
    assert found.broken[5].startswith("5.png: is 15x16 pixels, must be 16x16")


@pytest.mark.parametrize("count", [3, 10, 31])
def test_a_split_parts_the_source(count):
    parts = [Split(Levels(count), 3, held_out) for held_out in (False, True)]
    named = [[part[i].name for i in range(len(part))] for part in parts]
    assert sorted(named[0] + named[1]) == sorted(f"{i}.png" for i in range(count))
    assert named[1] == [f"{i}.png" for i in range(2, count, 3)]
    prints = {
        part.fingerprint for part in (*parts, Split(Levels(count), 2, False), Split(Levels(99), 3, False))
    }
    assert len(prints) == 4


@pytest.mark.parametrize("every", [0, 1, 11])
def test_a_split_leaves_something_on_both_sides(every):
    with pytest.raises(DataError, match=rf"held_out_every is {every}, must be in 2\.\.10"):
        Split(Levels(10), every, True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0, "workers": -1}, "batch_size is 0, must be at least 1; data.workers is -1"),
        ({"batch_size": 6, "hosts": 4}, "batch_size is 6, must be a multiple of the 4 hosts"),
        ({"max_broken": 1.5}, "max_broken is 1.5"),
        ({"seed": -1}, "seed is -1"),
        ({"dtype": "float16"}, "dtype is 'float16', allowed are uint8, float32"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        loader(Levels(9), **settings)


def test_an_empty_source_is_refused():
    with pytest.raises(DataError, match="holds no example"):
        loader(Levels(0))


def test_a_run_is_identified_by_what_its_batches_are_made_of():
    same = loader(Levels(40), threads=7, workers=3, ahead=1).identity
    assert same == loader(Levels(40)).identity
    for other in (loader(Levels(41)), loader(Levels(40), seed=1), loader(Levels(40), 8)):
        assert other.identity != same
