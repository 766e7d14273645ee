"""What there is to do, before anything is computed."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffbir_jax.batch.flags import parse
from diffbir_jax.batch.jobs import Job, find_jobs, noise_index
from diffbir_jax.batch.names import remove_leftovers
from diffbir_jax.batch.settings import FlagError, settings_from
from diffbir_jax.files.errors import ImageFileError
from tests.command import save

GUIDED = ("--guidance-scale", "1", "--fidelity-mask")


def jobs(*flags: str) -> list[Job]:
    return find_jobs(settings_from(parse(["--output", "out", *flags])))[0]


def refusal(*flags: str) -> str:
    with pytest.raises(ImageFileError) as error:
        jobs(*flags)
    return str(error.value)


def names(found: list[Job]) -> dict[str, list[str]]:
    """What is written for each input."""
    return {str(job.path): [str(path) for path in job.outputs.all()] for job in found}


def test_a_folder_is_mirrored(here: Path) -> None:
    for name in ("in/b.jpg", "in/a/b.png", "in/a/deep/c.webp"):
        save(Path(name))
    assert names(jobs("--input", "in", "--no-sidecar")) == {
        "in/a/b.png": ["out/a/b.png"],
        "in/a/deep/c.webp": ["out/a/deep/c.png"],
        "in/b.jpg": ["out/b.png"],
    }


def test_every_file_of_an_input(here: Path) -> None:
    """The main result comes last."""
    save(Path("in/a.jpg"))
    flags = ("--n-samples", "2", "--std-map", "--compare", "--save-stages", "--guidance-map", "maps")
    assert names(jobs("--input", "in", "--format", "jpeg", *flags))["in/a.jpg"] == [
        "out/a_1_compare.jpg",
        "out/a_2_compare.jpg",
        "out/a_stage1.jpg",
        "out/a_std.png",
        "maps/a.png",
        "out/a.json",
        "out/a_2.jpg",
        "out/a_1.jpg",
    ]


def test_own_folders_are_no_inputs(here: Path) -> None:
    """Results, maps and masks that lie below the inputs; not a folder whose name begins alike."""
    for name in ("in/a.png", "in/out/old.png", "in/maps/a.png", "in/masks/a.png", "in/masks/outer.png"):
        save(Path(name))
    save(Path("in/outer.png"))
    more = ("--guidance-map", "in/maps", *GUIDED, "in/masks")
    found = jobs("--input", "in", "--output", "in/out", *more)
    assert [str(job.path) for job in found] == ["in/a.png", "in/outer.png"]


def test_a_list_of_paths(here: Path) -> None:
    """Mirrored below the common parent, in the order of the list, each once; what is missing stays in it."""
    Path("list.txt").write_text("x/b/two.jpg\r\n\n  \nx/a/one.png\nx/none.png\n./x/b/two.jpg\n")
    found = names(jobs("--list", "list.txt", "--no-sidecar"))
    assert list(found) == ["x/b/two.jpg", "x/a/one.png", "x/none.png"]
    assert sum(found.values(), []) == ["out/b/two.png", "out/a/one.png", "out/none.png"]


@pytest.mark.parametrize(
    "data",
    [
        b"x/a\nb.png\0x/c.png\0",
        "x/\u00e9.png\r\nx/c.png\r\n".encode("utf-16"),
        b"\xef\xbb\xbfx/b.png\nx/c.png",
    ],
    ids=["find -print0", "PowerShell", "Notepad"],
)
def test_lists_of_other_programs(here: Path, data: bytes) -> None:
    Path("list.txt").write_bytes(data)
    found = [str(job.path) for job in jobs("--list", "list.txt")]
    assert found[0] in ("x/a\nb.png", "x/\u00e9.png", "x/b.png") and found[1:] == ["x/c.png"]


@pytest.mark.parametrize("line", ["..", ".", "/", "../.."])
def test_a_folder_in_a_list_is_no_bug(here: Path, line: str) -> None:
    """It fails when it is read."""
    Path("list.txt").write_text(f"{line}\n")
    assert [str(job.path) for job in jobs("--list", "list.txt")] == [line]


def test_a_list_on_standard_input(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of files are bytes."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x/\xff.png\nx/b.png")))
    found = jobs("--list", "-")
    assert [os.fsencode(job.path) for job in found] == [b"x/\xff.png", b"x/b.png"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    assert refusal("--list", "-") == "-: names no image; put one path on each line"
    assert "none.txt: cannot be read (No such file or directory)" in refusal("--list", "none.txt")


@pytest.mark.parametrize(
    "kind, wanted",
    [("png", "a.png"), ("jpeg", "a.jpg"), ("webp", "a.webp"), ("tiff", "a.tif"), ("same", "a.jpeg")],
)
def test_formats(here: Path, kind: str, wanted: str) -> None:
    save(Path("in/a.JPEG"))
    results = jobs("--input", "in/a.JPEG", "--format", kind)[0].outputs.results
    assert results == (Path("out") / wanted,)


def test_formats_kept_tell_inputs_apart(here: Path) -> None:
    Path("list.txt").write_text("a.png\na.tif\na.bmp\n")
    assert "a.png and a.bmp: both would be written as out/a.png" in refusal(
        "--list", "list.txt", "--format=same"
    )
    Path("list.txt").write_text("a.jpg\na.tif\na.bmp\n")
    assert sum(names(jobs("--list", "list.txt", "--format", "same")).values(), []) == [
        *("out/a.jpg.json", "out/a.jpg", "out/a.tif.json", "out/a.tif", "out/a.bmp.json", "out/a.png")
    ]


@pytest.mark.parametrize(
    "files, flags, message",
    [
        (
            "in/a.jpg in/a.png",
            "",
            "in/a.jpg and in/a.png: both would be written as out/a.png; give --format same, or rename one",
        ),
        ("in/a.png in/a_stage1.jpg", "--save-stages", "both would be written as out/a_stage1.png; rename one"),
        ("in/a.png in/A.png", "--no-sidecar", "in/A.png and in/a.png: both would be written as out/a.png; rename one"),
        ("in/s/a.jpg in/s/a.png", "", "in/s/a.jpg and in/s/a.png: both would be written as out/s/a.png"),
        ("in/a.png in/a_1.png", "--n-samples 2 --guidance-map out", "or give another --guidance-map"),
        ("in/a.png", "--output in", "in: is the folder of the inputs; give another --output"),
        ("in/a.png", "--output link", "link: is the folder of the inputs; give another --output"),
        ("in/in/a.png in/b.png", "--output .", "in: is the folder of the inputs; give another --output"),
        ("in/a.png", "--guidance-map in", "in/a.png: would be overwritten; give another --output or --guidance-map"),
        ("in/a.png", "--guidance-map out", "out/a.png: would be overwritten; give another"),
        ("in/a.png", "--guidance-map out --report out/a.json", "out/a.json, out/a.png: would be overwritten"),
        ("in/a.jpg masks/a.png", "--guidance-scale 1 --fidelity-mask masks --output masks", "the folder of the masks"),
        (
            "in/a.jpg masks/a.png",
            "--guidance-scale 1 --fidelity-mask masks --guidance-map masks",
            "masks/a.png: would be overwritten",
        ),
        ("in/a.JPG", "--format same --bit-depth 16", "in/a.JPG: this format holds 8 bits; give --bit-depth same"),
        ("none/a.png", "", "in: no such file or folder; give an image or a folder of images as --input"),
        ("in/notes.txt", "", "holds no image"),
    ],
)  # fmt: skip
def test_nothing_is_overwritten(here: Path, files: str, flags: str, message: str) -> None:
    for name in files.split():
        if name.endswith("txt"):
            Path(name).parent.mkdir()
            Path(name).touch()
        else:
            save(Path(name))
    Path("link").symlink_to("in")
    assert message in refusal("--input", "in", *flags.split())
    assert not Path("out").exists()


def test_accents_in_one_or_two_characters_are_one_name(here: Path) -> None:
    """A mask from a Mac belongs to an input from Linux; a result would replace an input of the other spelling."""
    save(Path("in/\u00e9.jpg"))
    save(Path("masks/e\u0301.png"))
    (job,) = jobs("--input", "in", "--guidance-scale", "1", "--fidelity-mask", "masks")
    assert job.mask == Path("masks/e\u0301.png")


def test_a_result_may_not_replace_a_mask(here: Path) -> None:
    save(Path("in/a.jpg"))
    save(Path("masks/a.png"))
    assert "masks/a.png: would be" in refusal(
        "--input", "in/a.jpg", "--output", "masks", *GUIDED, "masks/a.png"
    )


@pytest.mark.parametrize("flag", ["--stage1", "--fidelity-mask"])
def test_companions_are_mirrored(here: Path, flag: str) -> None:
    for name in ("in/a.jpg", "in/s/a.jpg", "made/a.png", "made/s/a.webp"):
        save(Path(name))
    found = jobs("--input", "in", flag, "made", "--guidance-scale", "1")
    companions = [job.clean if flag == "--stage1" else job.mask for job in found]
    assert companions == [Path("made/a.png"), Path("made/s/a.webp")]
    Path("made/s/a.webp").unlink()
    what = "stage-1 image" if flag == "--stage1" else "mask"
    wanted = f"made: holds no {what}, or several, named s/a; give one each"
    assert refusal("--input", "in", flag, "made", "--guidance-scale", "1") == wanted


def test_one_mask_for_all(here: Path) -> None:
    save(Path("in/a.jpg"))
    save(Path("in/b.jpg"))
    save(Path("mask.png"))
    assert [job.mask for job in jobs("--input", "in", *GUIDED, "mask.png")] == [Path("mask.png")] * 2


def test_noise_follows_the_stem(here: Path) -> None:
    for name in ("in/a.png", "in/b.png", "in/s/b.jpg"):
        save(Path(name))
    a, b, other = (job.index for job in jobs("--input", "in"))
    assert a == noise_index(Path("elsewhere/a.webp")) and b == other != a


@pytest.mark.parametrize(
    "source, where, wanted", [("in", "m.png", "a folder"), ("in/a.png", "m", "a .png file")]
)
def test_guidance_maps_go_where_there_is_room(here: Path, source: str, where: str, wanted: str) -> None:
    save(Path("in/a.png"))
    with pytest.raises(FlagError, match=f"--guidance-map is {where}; give {wanted}"):
        jobs("--input", source, "--guidance-map", where)


def test_leftovers_of_killed_runs(here: Path) -> None:
    """Of dead processes, if all run here; elsewhere another host may be writing what is not old."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [f".{dead.pid}-1.tmp", f".{os.getpid()}-1.tmp", f".{os.getpid()}-2.tmp", ".mine.tmp"]
    for name in names:
        Path(name).touch()
    os.utime(names[2], (0, 0))
    os.utime(names[3], (0, 0))
    remove_leftovers([Path("."), Path("none")], alone=False)
    assert sorted(os.listdir()) == sorted([names[0], names[1], names[3]])
    remove_leftovers([Path(".")], alone=True)
    assert sorted(os.listdir()) == sorted([names[1], names[3]])
