"""Captioners of transformers: tiny ones, drawn at random, from folders and from transformers' cache."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from diffbir_jax.console import extras
from diffbir_jax.console.errors import UserError
from diffbir_jax.console.extras import MissingExtraError
from diffbir_jax.restoration import captioner
from diffbir_jax.restoration.captioner import Captioner
from diffbir_jax.weights import MissingWeightsError
from tests.micro import picture
from tests.restoration import tiny_captioner

PHOTO = Image.fromarray(picture(40, 48))


class Chat:
    """A model that chats, and its processor, without networks: two tokens of the answer follow the question."""

    chat_template = "a template"
    given: tuple[object, ...] = ()

    def apply_chat_template(self, turns: list[dict], add_generation_prompt: bool) -> str:
        assert add_generation_prompt
        [image, text] = turns[0]["content"]
        assert image == {"type": "image"}
        return f"user: <image> {text['text']} model:"

    def __call__(self, images: Image.Image, text: str, return_tensors: str) -> dict[str, np.ndarray]:
        self.given = (images.size, text, return_tensors)
        return {"input_ids": np.array([[7, 8, 9]])}

    def generate(self, input_ids: np.ndarray, do_sample: bool, max_new_tokens: int) -> np.ndarray:
        assert not do_sample and max_new_tokens == captioner.TOKENS
        return np.concatenate([input_ids, [[4, 5]]], axis=1)

    def batch_decode(self, tokens: np.ndarray, skip_special_tokens: bool) -> list[str]:
        assert skip_special_tokens
        return [f" tokens\n{tokens[0].tolist()} "]


def test_models_that_chat_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Chat()
    assert Captioner("x", chat, chat)._described(PHOTO) == "tokens [4, 5]"
    assert chat.given == ((48, 40), f"user: <image> {captioner.QUESTION} model:", "pt")
    Captioner("x", chat, chat, "Give tags.")._described(PHOTO)
    assert chat.given[1] == "user: <image> Give tags. model:"


def test_large_photos_are_reduced() -> None:
    """Models that cut photos into patches of a fixed size would take gigabytes."""
    assert captioner.reduced(PHOTO) is PHOTO
    large = Image.new("RGB", (4096, 100))
    assert captioner.reduced(large).size == (1024, 25) and large.size == (4096, 100)


def test_an_old_version_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda name: True)
    monkeypatch.setattr(
        captioner, "importlib", SimpleNamespace(import_module=lambda _: SimpleNamespace(__version__="4.57.1"))
    )
    with pytest.raises(MissingExtraError, match=r"transformers is 4.57.1, 5 is needed: pip install"):
        Captioner.load("x")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    return tiny_captioner.make(tmp_path_factory.mktemp("blip"), "blip")


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Where programs tried to connect to, on a machine without network."""
    monkeypatch.delenv("DIFFBIR_OFFLINE", raising=False)
    return tiny_captioner.no_network(monkeypatch)


@pytest.mark.parametrize("kind", ["blip", "git"])
def test_the_words_are_those_of_transformers(tmp_path: Path, kind: str, network: list[object]) -> None:
    pytest.importorskip("torch")
    t = pytest.importorskip("transformers")
    folder = tiny_captioner.make(tmp_path, kind)
    describe = Captioner.load(folder, download=True)
    words = describe(PHOTO)
    model = t.AutoModelForImageTextToText.from_pretrained(folder)
    processor = t.AutoProcessor.from_pretrained(folder)
    inputs = processor(images=PHOTO, return_tensors="pt")
    tokens = model.generate(**inputs, do_sample=False, max_new_tokens=captioner.TOKENS)
    assert words == processor.decode(tokens[0], skip_special_tokens=True)
    assert {*words.split()} & {*tiny_captioner.WORDS[6:]}
    assert describe(PHOTO) == words and not network


def copied(folder: Path, place: Path) -> Path:
    return Path(shutil.copytree(folder, place))


def test_only_whole_safetensors_weights_are_read(folder: Path, tmp_path: Path, network: list[object]) -> None:
    torch = pytest.importorskip("torch")
    pickled = copied(folder, tmp_path / "pickled")
    torch.save({}, pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be loaded .*model.safetensors.*give an image-to-text model"):
        Captioner.load(pickled)
    assert not network


def test_code_of_a_model_does_not_run(folder: Path, tmp_path: Path) -> None:
    foreign = copied(folder, tmp_path / "foreign")
    ran = tmp_path / "ran"
    (foreign / "code.py").write_text(
        f"open({str(ran)!r}, 'w')\nclass Config: pass\nclass Model: pass\n", "utf-8"
    )
    told = json.loads((foreign / "config.json").read_text())
    places = {
        "AutoConfig": "code.Config",
        "AutoModelForImageTextToText": "code.Model",
        "AutoProcessor": "code.Config",
    }
    (foreign / "config.json").write_text(
        json.dumps(told | {"model_type": "mine", "auto_map": places}), "utf-8"
    )
    with pytest.raises(UserError, match="cannot be loaded"):
        Captioner.load(foreign)
    assert not ran.exists()


@pytest.fixture
def cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model some/tiny in transformers' cache."""
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model = tmp_path / "hub" / "models--some--tiny"
    (model / "refs").mkdir(parents=True)
    (model / "refs/main").write_text("0" * 40)
    return copied(folder, model / "snapshots" / ("0" * 40))


def test_a_name_is_read_from_the_cache(cache: Path, folder: Path, network: list[object]) -> None:
    assert Captioner.load("some/tiny")(PHOTO) == Captioner.load(folder)(PHOTO)
    assert not network


def test_nothing_is_downloaded_unasked(
    cache: Path, monkeypatch: pytest.MonkeyPatch, network: list[object]
) -> None:
    """Not even what an interrupted download lacks."""
    (cache / "model.safetensors").unlink()
    for name in ("some/tiny", "some/other"):
        with pytest.raises(
            MissingWeightsError, match=f"{name}: from huggingface.co.* Pass download=True, or the"
        ):
            Captioner.load(name)
    monkeypatch.setenv("DIFFBIR_OFFLINE", "1")
    with pytest.raises(MissingWeightsError, match="DIFFBIR_OFFLINE forbids a download"):
        Captioner.load("some/other", download=True)
    assert not network


def test_a_model_in_parts_is_here_with_all_of_them(cache: Path) -> None:
    whole = cache / "model.safetensors"
    parts = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (cache / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    shutil.move(whole, cache / parts["a"])
    assert not captioner.is_cached("some/tiny")
    (cache / parts["b"]).touch()
    assert captioner.is_cached("some/tiny")


def test_with_yes_it_is_downloaded(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("DIFFBIR_OFFLINE", raising=False)
    asked: list[tuple[str, bool]] = []
    monkeypatch.setattr(captioner, "loaded", lambda name, _, local: asked.append((name, local)))
    for name in ("some/tiny", "some/other"):
        Captioner.load(name, download=True)
    assert asked == [("some/tiny", True), ("some/other", False)]
    assert "downloading Captioner some/other: from huggingface.co" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a/b/c", "missing/", "file"])
def test_what_is_no_name_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(cache)
    Path("file").touch()
    with pytest.raises(UserError, match=f"the captioner {name} is no folder, and no name of a model"):
        Captioner.load(name)


def test_weights_that_are_missing_are_not_drawn(folder: Path, tmp_path: Path) -> None:
    partly = copied(folder, tmp_path / "partly") / "model.safetensors"
    weights = load_file(partly)
    gone = sorted(name for name in weights if "layer.1" in name or "layers.1" in name)
    save_file({name: value for name, value in weights.items() if name not in gone}, partly, {"format": "pt"})
    with pytest.raises(
        UserError, match=f"lacks {len(gone)} weights, such as {gone[0]}; give a model for captions"
    ):
        Captioner.load(partly.parent)


def test_a_prompt_begins_the_caption_of_blip(folder: Path) -> None:
    assert Captioner.load(folder, "a red")(PHOTO).startswith("a red")


def test_a_model_that_fails_is_one_line(folder: Path) -> None:
    describe = dataclasses.replace(Captioner.load(folder), model=None)
    with pytest.raises(
        UserError, match=r"the captioner .* fails \(AttributeError: .*\); give another prompt for it"
    ):
        describe(PHOTO)
