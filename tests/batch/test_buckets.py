"""Runs that read from buckets and write to them, with a restorer without networks and file systems in memory."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from diffbir_jax.batch import buckets, manifest
from diffbir_jax.console import extras
from diffbir_jax.restoration import auto
from diffbir_jax.restoration.estimate import Estimate
from tests.batch.fake import Fake
from tests.command import call, complaint, save, written

ROOT = Path(__file__).parents[2]
MEMORY = MemoryFileSystem()


class Disk(MemoryFileSystem):
    """Shows files while they are written, as HDFS does, renames to no name that is taken, and fails on demand."""

    protocol = "disk"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    broken: ClassVar[set[str]] = set()
    moved: ClassVar[list[str]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.replace("disk://", "memory://"))

    def _check(self, path: str) -> None:
        if any(path.endswith(name) for name in self.broken):
            raise RuntimeError(f"403 {path}\nForbidden\nby the bucket")

    def _open(self, path: str, mode: str = "rb", **options: object) -> object:
        self._check(path)
        return super()._open(path, mode, **options)

    def cat_file(self, path: str, *limits: object, **options: object) -> bytes:
        self._check(path)
        return super().cat_file(path, *limits, **options)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: object) -> None:
        self._check(path)
        super().pipe_file(path, value, mode, **options)

    def put_file(self, lpath: str, rpath: str, **options: object) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def mv(self, path1: str, path2: str, **options: object) -> None:
        if self.exists(path2):
            raise FileExistsError(path2)
        self.moved.append(path2)
        super().mv(path1, path2, **options)


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    """File systems without files, before and after."""
    fsspec.register_implementation("disk", Disk, clobber=True)

    def clean() -> None:
        for system in (MemoryFileSystem, Disk):
            system.store.clear()
            system.pseudo_dirs[:] = [""]
        Disk.broken.clear()
        Disk.moved.clear()

    clean()
    yield
    clean()


def filled(*names: str, where: str = "memory://b/in") -> None:
    """Pictures in a bucket, of 16x16 pixels and with other contents each."""
    for seed, name in enumerate(names):
        file = save(Path("made") / name, seed=seed)
        system, path = fsspec.core.url_to_fs(f"{where}/{name}")
        system.pipe_file(path, file.read_bytes())


def inside(system: MemoryFileSystem, folder: str = "/b/out") -> list[str]:
    """Files of a folder but the manifest."""
    found = [path.removeprefix(f"{folder}/") for path in system.find(folder)]
    return sorted(path for path in found if not path.startswith(".diffbir/"))


def restore(*flags: str, source: str = "memory://b/in", output: str = "memory://b/out") -> int | str | None:
    return call(source, "-o", output, "--upscale", "2", *flags)


def test_from_bucket_to_bucket_as_from_folder_to_folder(fake: Fake, capsys: pytest.CaptureFixture) -> None:
    filled("a.png", "s/b.png")
    assert call("made", "-o", "local", "--upscale", "2") == 0
    capsys.readouterr()
    assert restore() == 0
    assert inside(MEMORY) == written("local") == ["a.json", "a.png", "s/b.json", "s/b.png"]
    for name in ("a.png", "s/b.png"):
        assert MEMORY.cat_file(f"/b/out/{name}") == (Path("local") / name).read_bytes()
    out = capsys.readouterr().out
    assert "memory://b/out/s/b.png" in out and "2 restored, 0 failed" in out
    record = json.loads(MEMORY.cat_file("/b/out/s/b.json"))
    assert record["input"]["path"] == "memory://b/in/s/b.png" and record["outputs"] == ["b.png"]


@pytest.mark.parametrize("source", ("memory://b/in", "made"))
@pytest.mark.parametrize("output", ("memory://b/out", "out"))
def test_one_end_may_be_local(fake: Fake, source: str, output: str) -> None:
    filled("a.png", "s/b.png")
    assert restore("--no-sidecar", source=source, output=output) == 0
    assert (written() if output == "out" else inside(MEMORY)) == ["a.png", "s/b.png"]
    assert restore("--no-sidecar", "--skip-existing", source=source, output=output) == 0
    assert len(fake.seen) == 2


def test_through_fsspec_to_the_disk(fake: Fake, here: Path) -> None:
    """Another scheme of the disk is a file system like all others."""
    filled("a.png", "s/b.png")
    for _ in range(2):
        assert restore(source=f"local://{here}/made", output=f"local://{here}/out") == 0
    notes = [name for name in written() if name.startswith(".diffbir/")]
    assert written() == [*notes, "a.json", "a.png", "s/b.json", "s/b.png"] and len(notes) == 2


def test_a_single_photo(fake: Fake) -> None:
    filled("s/b.png")
    assert restore(source="memory://b/in/s/b.png", output="memory://b/out/") == 0
    assert inside(MEMORY) == ["b.json", "b.png"]


def test_file_urls_are_local(fake: Fake, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled("a.png")
    monkeypatch.setattr(extras, "is_installed", lambda name: name != "fsspec")
    assert restore(source=f"file://{here}/made", output=f"file://{here}/out") == 0
    assert written() == ["a.json", "a.png"]


def test_a_sidecar_repeats_from_a_bucket(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffbir_jax.batch import run

    monkeypatch.setattr(run, "check_weights", lambda *_: None)
    filled("a.png")
    assert restore("--seed", "3", output="out") == 0
    again = call("--from-sidecar", "out/a.json", "--input", "memory://b/in/a.png", "-o", "memory://b/again")
    assert again == 0
    assert MEMORY.cat_file("/b/again/a.png") == Path("out/a.png").read_bytes()


def test_a_clean_photo_is_copied_from_bucket_to_bucket(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """--auto leaves it alone; the manifest knows the copy, and the sidecar repeats it."""
    monkeypatch.setattr(auto, "estimate", lambda image: Estimate(0.1, 0.2, 100.0, 1.0))
    filled("a.jpg")
    flags = ("--auto", "--format", "same")
    assert call("memory://b/in", "-o", "memory://b/out", "--upscale", "1", *flags) == 0
    assert MEMORY.cat_file("/b/out/a.jpg") == Path("made/a.jpg").read_bytes()
    again = ("--from-sidecar", "a.json", "--input", "memory://b/in/a.jpg", "-o", "memory://b/again")
    Path("a.json").write_bytes(MEMORY.cat_file("/b/out/a.jpg.json"))
    assert call(*again) == 0
    assert MEMORY.cat_file("/b/again/a.jpg") == Path("made/a.jpg").read_bytes()
    capsys.readouterr()
    assert call("memory://b/in", "-o", "memory://b/out", "--upscale", "1", *flags, "--skip-existing") == 0
    assert "0 restored, 0 failed, 1 skipped" in capsys.readouterr().out


def test_existing_results_are_those_of_the_manifest(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image without a line, or with a file that is gone or has another length, is restored again."""
    monkeypatch.setattr(manifest, "LINES", 2)
    names = [f"{letter}.png" for letter in "abcde"]
    filled(*names)
    assert restore() == 0
    assert len(MEMORY.find("/b/out/.diffbir")) == 3, (
        "parts of at most two lines, and each only as its last version"
    )
    MEMORY.rm_file("/b/out/a.json")
    MEMORY.pipe_file("/b/out/b.png", b"cut")
    filled("f.png")
    MEMORY.pipe_file("/b/out/f.png", b"by another program")
    fake.seen.clear()
    assert restore("--skip-existing") == 0
    assert len(fake.seen) == 3
    assert restore("--skip-existing") == 0
    assert restore("--skip-existing", "--save-stages") == 0
    assert len(fake.seen) == 3 + 6, "pictures of stage 1 are missing"


def test_hosts_share_a_bucket(fake: Fake) -> None:
    filled(*[f"{letter}.png" for letter in "abcde"])
    for host in ("0", "1"):
        assert restore("--hosts", "2", "--host-index", host, "--skip-existing") == 0
    assert len(fake.seen) == 5
    assert [name for name in inside(MEMORY) if name.endswith(".png")] == [
        f"{letter}.png" for letter in "abcde"
    ]


def test_errors_are_one_line_and_the_run_goes_on(fake: Fake, capsys: pytest.CaptureFixture) -> None:
    """Of a bucket that refuses some files: the others are there, the manifest too, and the run can be repeated."""
    filled("a.png", "b.png", "c.png", where="disk://b/in")
    before = dict(Disk.store)
    Disk.broken |= {"in/a.png", ".c.png.tmp"}
    bucket = {"source": "disk://b/in", "output": "disk://b/out"}
    assert restore("--report", "report.json", **bucket) == 1
    assert inside(Disk()) == ["b.json", "b.png", "c.json"]
    errors = capsys.readouterr().err.splitlines()
    assert sorted(errors) == [
        "diffbir restore: disk://b/in/a.png: cannot be read (403 /b/in/a.png Forbidden by the bucket); "
        "check the address and the access to it",
        "diffbir restore: disk://b/out/c.png: cannot be written (403 /b/out/.c.png.tmp Forbidden by the bucket); "
        "check the address and the access to it",
    ]
    report = json.loads(Path("report.json").read_text())
    assert {entry["input"] for entry in report["failed"]} == {"disk://b/in/a.png", "disk://b/in/c.png"}
    Disk.broken.clear()
    fake.seen.clear()
    assert restore("--skip-existing", **bucket) == 0
    assert len(fake.seen) == 2
    assert inside(Disk()) == [f"{letter}.{end}" for letter in "abc" for end in ("json", "png")]
    assert before.items() <= Disk.store.items(), "inputs stay"
    assert "/b/out/c.png" in Disk.moved, (
        "where files show while they are written, they are renamed at their end"
    )
    assert restore(**bucket) == 0, "renamed to names that are taken"
    assert not [path for path in Disk.store if path.endswith(".tmp")]


def test_a_lost_line_of_the_manifest_is_told(fake: Fake, capsys: pytest.CaptureFixture) -> None:
    filled("a.png", "b.png")

    def refuse(seen: int) -> None:
        if seen == 1:
            Disk.broken.add(".jsonl.tmp")

    fake.before = refuse
    assert restore("--no-sidecar", output="disk://b/out") == 1
    assert "cannot be written (403 /b/out/.diffbir/" in capsys.readouterr().err
    Disk.broken.clear()
    fake.seen.clear()
    fake.before = lambda seen: None
    assert restore("--no-sidecar", "--skip-existing", output="disk://b/out") == 0
    assert 1 <= len(fake.seen) <= 2 and inside(Disk()) == ["a.png", "b.png"]


def test_what_cannot_be_written_shows_before_the_work(fake: Fake, capsys: pytest.CaptureFixture) -> None:
    filled("a.png")
    Disk.broken.add(".jsonl.tmp")
    assert restore(output="disk://b/out") == 1
    assert not fake.seen and "disk://b/out/.diffbir/" in capsys.readouterr().err


def test_a_damaged_photo_fails_alone(fake: Fake, capsys: pytest.CaptureFixture) -> None:
    filled("a.png")
    MEMORY.pipe_file("/b/in/z.png", b"no picture")
    MEMORY.pipe_file("/b/in/notes.txt", b"about them")
    assert restore() == 1
    error = capsys.readouterr().err
    assert "memory://b/in/notes.txt: is no image and is left out" in error
    assert "memory://b/in/z.png: " in error and "diffbir-" not in error
    assert inside(MEMORY) == ["a.json", "a.png"]


def test_hostile_names_stay_out(fake: Fake, here: Path, capsys: pytest.CaptureFixture) -> None:
    filled("a.png", ".hidden/b.png")
    for name in ("../../../c.png", "s//d.png", "s\\e.png"):
        MEMORY.store[f"/b/in/{name}"] = MEMORY.store["/b/in/a.png"]
    assert restore() == 0
    assert capsys.readouterr().err.count("this name cannot be that of a file and is left out") == 3
    assert inside(MEMORY) == ["a.json", "a.png"]


def test_results_below_the_inputs_are_no_inputs(fake: Fake) -> None:
    filled("a.png")
    for _ in range(2):
        assert restore(output="memory://b/in/out") == 0
    assert inside(MEMORY, "/b/in/out") == ["a.json", "a.png"]


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (("memory://b/in", "memory://b/x", "-o", "out"), 2, "one folder or file of a bucket per run"),
        (("memory://b/in", "-o", "memory://b/in"), 1, "is the folder of the inputs; give another --output"),
        (("memory://b/photos", "-o", "out"), 1, "memory://b/photos: holds no file; check the address"),
        (("nowhere://b/in", "-o", "out"), 1, "nowhere://b/in: cannot be opened (Protocol not known: nowhere"),
        (("memory://b/in", "-o", "out", "--open"), 2, "--open shows files of this machine"),
        (
            ("memory://b/in", "-o", "out", "--report", "gs://b/r.json"),
            2,
            "--report is gs:/b/r.json; only PHOTO",
        ),
        (
            ("--list", "list.txt", "-o", "out"),
            1,
            "list.txt: names gs://b/a.png; a list has paths of this machine",
        ),
        (("memory://b/texts", "-o", "out"), 1, "memory://b/texts: holds no image file ending in"),
        (("memory://b/in", "-o", "memory://b"), 1, "memory://b/in/a.png: would be overwritten"),
    ],
)
def test_mistakes_are_one_line(
    fake: Fake, capsys: pytest.CaptureFixture, flags: tuple[str, ...], code: int, told: str
) -> None:
    filled("a.png")
    filled("in/a.png") if "would be" in told else None
    MEMORY.pipe_file("/b/texts/notes.txt", b"about them") if "texts" in told else None
    Path("list.txt").write_text("gs://b/a.png\n")
    assert call(*flags) == code
    assert told in complaint(capsys)
    assert not fake.seen


def test_a_full_disk_is_told(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    filled("a.png")
    monkeypatch.setattr(buckets.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    assert restore() == 1
    assert "bytes of inputs do not fit, 10 are free; set TMPDIR" in complaint(capsys)


def test_without_the_extra(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda name: name != "fsspec")
    assert restore() == 1
    assert complaint(capsys).endswith("fsspec missing: pip install 'diffbir-jax[buckets]'\n")


def test_local_runs_do_not_load_fsspec(here: Path) -> None:
    save(Path("in/a.png"))
    program = (
        "import sys; from tests.batch import fake; from diffbir_jax.batch import run\n"
        "run.load = lambda *_: fake.Fake(); run.planned = lambda *_: None\n"
        "from diffbir_jax.cli import sample\n"
        "try: sample.main(['in', '-o', 'out', '--upscale', '2'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert 'fsspec' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=here, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert written() == ["a.json", "a.png"]
