"""--captions: words for each input, from text files or a table."""

import json
from pathlib import Path

import pytest

from diffbir_jax.batch import captions, settings
from diffbir_jax.batch.captions import captions_of
from diffbir_jax.batch.flags import parse
from diffbir_jax.batch.jobs import find_jobs
from diffbir_jax.batch.settings import FlagError, settings_from
from diffbir_jax.files.errors import ImageFileError
from tests.batch.fake import Fake
from tests.command import call, complaint, save

NAMES = {Path("in/a.jpg"): Path("a.jpg"), Path("in/b/c.jpg"): Path("b/c.jpg")}


def test_without_the_flag_there_are_none() -> None:
    assert captions_of(None, NAMES) == {}


def test_text_files_have_the_names_of_the_inputs(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_text("a boat\nin fog \n", "utf-8")
    (tmp_path / "b/c.txt").write_text("Schnee in \u00d6sterreich", "utf-16")
    assert captions_of(tmp_path, NAMES) == {
        Path("in/a.jpg"): "a boat in fog",
        Path("in/b/c.jpg"): "Schnee in \u00d6sterreich",
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("words.csv", "file_name,caption\na.jpg,a boat\nb/c.jpg,snow\nother.jpg,x\n"),
        ("words.jsonl", '{"file": "a.jpg", "text": "a boat"}\n{"file": "c.jpg", "long": "snow"}\n'),
    ],
)
def test_a_table_names_inputs_with_or_without_folder(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    assert [*captions_of(tmp_path / name, NAMES).values()] == ["a boat", "snow"]


def test_inputs_without_a_caption_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 5000, "utf-8")
    with pytest.warns(UserWarning, match="no caption for in/b/c.jpg; restored with --pos-prompt alone"):
        found = captions_of(tmp_path, NAMES)
    assert [len(text) for text in found.values()] == [captions.LONGEST]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("words.csv", b"file,caption\nother.jpg,boat\n", "has no caption for any input"),
        ("words.csv", b"", "has no caption for any input"),
        ("words.csv", b"file,label\na.jpg,boat\n", "has nothing but empty captions for these inputs"),
        ("words.csv", b"picture,text\na.jpg,boat\n", "row 1 names no image; give file_name"),
        (
            "words.csv",
            b"file,text\na.jpg,a boat, red\n",
            "row 1 has more cells than the first line; put texts",
        ),
        ("words.csv", b"file,text\na.jpg,x\nb/c.jpg,y\na.jpg,z\n", "rows 1 and 3 are both for in/a.jpg"),
        ("words.csv", b"file,text\nb/c.jpg,x\nc.jpg,y\n", "rows 1 and 2 are both for in/b/c.jpg"),
        ("words.jsonl", b"[" * 100_000, "line 1 is nested too deeply"),
        (
            "words.jsonl",
            b'{"file": "a.jpg", "text": {"en": "x"}}',
            "text of row 1 is .*, but a caption is a text",
        ),
        ("words.jsonl", rb'{"file": "a.jpg", "text": "\ud800 x"}', "in/a.jpg has a half of a character"),
        ("words.json", b"[]", "no table of captions; give a .csv or .jsonl file, or a folder"),
        ("words.jsonl", b"{", "line 1 is no JSON"),
        ("words.jsonl", b'{"file": 3, "text": "x"}', "a path is a text"),
        ("words.csv", b"\xff\xfa\x00", "words.csv: is no UTF-8 text .*save it as UTF-8$"),
        ("missing.csv", None, r"missing.csv: cannot be read \(No such file or directory\)$"),
    ],
)
def test_what_has_no_captions_is_one_line(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageFileError, match=said):
        captions_of(tmp_path / name, NAMES)


@pytest.mark.parametrize("name", ("words.csv", "words.jsonl"))
def test_names_without_folders_are_for_one_input(tmp_path: Path, name: str) -> None:
    def told(*files: str) -> dict[Path, str]:
        lines = [json.dumps({"file": file, "text": file}) for file in files]
        text = "\n".join(
            lines if name.endswith("l") else ["file,text", *(f"{file},{file}" for file in files)]
        )
        (tmp_path / name).write_text(text, "utf-8")
        return captions_of(tmp_path / name, inputs)

    inputs = {Path("in") / each: Path(each) for each in ("b/c.jpg", "d/c.jpg")}
    with pytest.raises(
        ImageFileError, match="row 1 names c.jpg, and inputs are in/b/c.jpg, in/d/c.jpg: give it with"
    ):
        told("c.jpg")
    assert [*told("b/c.jpg", "d/c.jpg").values()] == ["b/c.jpg", "d/c.jpg"]
    inputs[Path("in/c.jpg")] = Path("c.jpg")
    with pytest.warns(UserWarning, match="no caption for in/b/c.jpg, in/d/c.jpg"):
        assert told("c.jpg") == {Path("in/c.jpg"): "c.jpg"}


def test_one_text_for_two_inputs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a boat")
    with pytest.raises(ImageFileError, match="a.txt: is the caption of several inputs, in/a.jpg, in/a.png"):
        captions_of(tmp_path, NAMES | {Path("in/a.png"): Path("a.png")})


def test_accents_are_compared_as_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "words.csv").write_text("file,text\n\u00e4.jpg,ice\n", "utf-8")
    assert [*captions_of(tmp_path / "words.csv", {Path("a\u0308.jpg"): Path("a\u0308.jpg")}).values()] == [
        "ice"
    ]


def flags(*more: str) -> list[str]:
    return ["in", "-o", "out", "--captions", "words", *more]


def test_a_job_has_its_caption(here: Path) -> None:
    save(Path("in/a.jpg"))
    Path("words").mkdir()
    Path("words/a.txt").write_text("a boat", "utf-8")
    (job,), _ = find_jobs(settings_from(parse(flags("--version", "v2.1"))))
    assert job.caption == "a boat"


@pytest.mark.parametrize("word", ["auto", "sidecars", "none"])
def test_a_file_may_be_named_as_a_word(here: Path, word: str) -> None:
    save(Path("in/a.jpg"))
    Path(word).mkdir()
    Path(word, "a.txt").write_text("a boat", "utf-8")
    (job,), _ = find_jobs(
        settings_from(parse(["in", "-o", "out", "--version", "v2.1", "--captions", f"./{word}"]))
    )
    assert job.caption == "a boat"


def test_none_is_no_captions_for_any_version(here: Path) -> None:
    save(Path("in/a.jpg"))
    (job,), _ = find_jobs(settings_from(parse(["in", "-o", "out", "--captions", "none"])))
    assert job.caption == ""


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--version", "tiny"), "reads no text"),
        (("--version", "realesrgan"), "reads no text"),
        (("--version", "v2", "--stage1-only"), "reads no text"),
        (("--version", "v2", "--task", "faces"), "--task faces"),
    ],
)
def test_captions_that_no_network_reads_are_refused(here: Path, more: tuple[str, ...], said: str) -> None:
    with pytest.raises(FlagError, match=said):
        settings_from(parse(flags(*more)))


def test_a_sidecar_has_the_caption_and_repeats_it(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(settings, "check_captions", lambda *_: None)  # the shipped versions read no text
    save(Path("in/a.png"))
    Path("words.csv").write_text("file,caption\na.png,a boat\n", "utf-8")
    assert call("in/a.png", "-o", "out", "--captions", "words.csv") == 0
    assert json.loads(Path("out/a.json").read_text())["caption"] == "a boat"
    Path("words.csv").unlink()
    assert call("--from-sidecar", "out/a.json", "-o", "again") == 0
    assert [request.caption for request, *_ in fake.seen] == ["a boat", "a boat"]
    assert call("--from-sidecar", "out/a.json", "-o", "again", "--captions", "words.csv") == 2
    assert "--from-sidecar decides --captions" in complaint(capsys)


def sidecars(*more: str) -> list[str]:
    return ["-o", "out", "--captions", "sidecars", *more]


def test_captions_of_an_earlier_run(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings may change, and its results may be restored again."""
    monkeypatch.setattr(settings, "check_captions", lambda *_: None)  # the shipped versions read no text
    save(Path("in/a.png"))
    save(Path("in/b.png"))
    Path("words.csv").write_text("file,caption\na.png,a boat\nb.png,snow\n", "utf-8")
    assert call("in", "-o", "out", "--captions", "words.csv") == 0
    Path("words.csv").unlink()
    assert call("in", "-o", "out", "--captions", "sidecars", "--seed", "5") == 0
    assert call("in", "-o", "out", "--captions", "sidecars", "--no-sidecar") == 0
    assert call("out", "-o", "twice", "--captions", "sidecars") == 0
    said = [request.caption for request, *_ in fake.seen]
    assert [sorted(said[start : start + 2]) for start in range(0, 8, 2)] == [["a boat", "snow"]] * 4
    assert json.loads(Path("twice/a.json").read_text())["caption"] == "a boat"


def test_json_of_others_is_no_sidecar_of_the_image(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Nor is the sidecar of another image."""
    monkeypatch.setattr(settings, "check_captions", lambda *_: None)
    save(Path("in/a.png"))
    told = {"format": 1, "name": "b.png", "outputs": ["b.png"], "caption": "a boat"}
    for folder in ("in", "out"):
        Path(folder).mkdir(exist_ok=True)
        Path(folder, "a.json").write_text(json.dumps(told), "utf-8")
    Path("in/a.png.json").write_text('{"title": "a.png", "description": "my house"}', "utf-8")
    assert call("in/a.png", *sidecars()) == 1
    assert "no input has a sidecar of an earlier run with a caption" in complaint(capsys)
    Path("in/a.json").write_text(json.dumps(told | {"outputs": ["a.png"]}), "utf-8")
    save(Path("in/c.png"))
    assert call("in", *sidecars()) == 0
    assert sorted(request.caption for request, *_ in fake.seen) == ["", "a boat"]
    assert "--captions sidecars: no caption for in/c.png" in capsys.readouterr().err
