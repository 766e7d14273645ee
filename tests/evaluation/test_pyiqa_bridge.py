"""The bridge to pyiqa on a stand-in of its interface, which notes how it is called; pyiqa itself is not needed."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from diffbir_jax.conversion.files import CheckpointError
from diffbir_jax.evaluation import pyiqa_bridge
from diffbir_jax.evaluation.metric import SetScore, Setup, UnavailableError
from diffbir_jax.metrics.frechet import frechet_distance

METRICS = {metric.name: metric for metric in pyiqa_bridge.PYIQA}
ADDRESSES = {name: f"weights://{name}" for name in METRICS}
PHOTO = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)


class Tensor(np.ndarray):
    """The few methods of PyTorch's that the bridge calls."""

    def to(self, device: str) -> "Tensor":
        assert device == "here"
        return self

    def cpu(self) -> "Tensor":
        return self

    def numpy(self) -> np.ndarray:
        return np.asarray(self)


class Network:
    """One parameter, "bias"; its score is the mean of the image plus that, its features are means by channel."""

    def __init__(self) -> None:
        self.bias = float("nan")

    def load_state_dict(self, state: dict[str, Any], strict: bool) -> None:
        assert strict
        if set(state) != {"bias"}:
            raise RuntimeError("Error(s) in loading state_dict")
        self.bias = float(state["bias"])

    def model(self, batch: Tensor) -> list[Tensor]:
        assert batch.shape == (1, 3, 299, 299) and batch.dtype == np.float32
        return [batch.mean((2, 3))[..., None, None] + np.float32(self.bias)]


class InferenceModel:
    device = "here"

    def __init__(self, net: Network) -> None:
        self.net = net

    def __call__(self, image: Tensor) -> Tensor:
        assert image.shape == (1, 3, *PHOTO.shape[:2]) and image.dtype == np.float32
        assert 0 <= image.min() <= image.max() <= 1
        return image.mean()[None, None] + self.net.bias


def module(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> ModuleType:
    made = ModuleType(name)
    made.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, made)
    return made


def downloading(*_: object, **__: object) -> None:
    raise AssertionError("a download")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """The calls of `create_metric` and of `timm.create_model`; modules laid out as those of pyiqa 0.1.16."""
    found: list[tuple[str, dict[str, Any]]] = []

    def create_metric(name: str, **options: Any) -> InferenceModel:
        found.append((name, options))
        net = Network()
        if name == "maniqa":
            sys.modules["timm"].create_model("vit_base_patch8_224", pretrained=True)
        if name == "fid":
            inception = sys.modules["pyiqa.archs.inception"]
            inception.load_pretrained_network(net, inception.FID_WEIGHTS_URL)
        if name == "clipiqa":
            net.bias = float(Path(options["backbone"]).read_text())
        return InferenceModel(net)

    def create_model(name: str, pretrained: bool) -> None:
        found.append((name, {"pretrained": pretrained}))

    module(monkeypatch, "pyiqa", create_metric=create_metric)
    module(monkeypatch, "pyiqa.archs")
    koniq = {"koniq10k": ADDRESSES["musiq"]}, {"koniq": ADDRESSES["maniqa"]}
    module(monkeypatch, "pyiqa.archs.musiq_arch", default_model_urls=koniq[0])
    module(monkeypatch, "pyiqa.archs.maniqa_arch", default_model_urls=koniq[1])
    module(monkeypatch, "pyiqa.archs.clip_model", _MODELS={"RN50": ADDRESSES["clipiqa"]})
    urls = {"FID_WEIGHTS_URL": ADDRESSES["fid"], "load_pretrained_network": downloading}
    module(monkeypatch, "pyiqa.archs.inception", **urls)
    module(monkeypatch, "timm", create_model=create_model)
    tensors: dict[str, Callable[..., Any]] = {"tensor": np.asarray, "from_numpy": lambda x: x.view(Tensor)}
    module(monkeypatch, "torch", inference_mode=nullcontext, **tensors)
    monkeypatch.setattr(pyiqa_bridge, "read_tensors", read)
    return found


def read(path: Path) -> dict[str, Any]:
    """Files are of text here: a number is a network, other words are keys of another one."""
    text = path.read_text()
    if not text:
        raise CheckpointError(f"{path} is not a PyTorch checkpoint")
    return {text: np.zeros(1)} if text.isalpha() else {"bias": float(text)}


def setup(folder: Path, name: str, content: str = "0.25") -> Setup:
    (folder / METRICS[name].files[0]).write_text(content)
    return Setup(weights=folder)


@pytest.mark.parametrize("name", METRICS)
def test_without_pyiqa_its_name_and_licence_are_told(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(UnavailableError, match=r"pip install pyiqa \(for non-commercial use only: PolyForm"):
        METRICS[name].load(setup(tmp_path, name))


@pytest.mark.parametrize("name", METRICS)
def test_without_weights_their_address_and_place_are_told(name: str, calls: list, tmp_path: Path) -> None:
    (file,) = METRICS[name].files
    with pytest.raises(UnavailableError) as error:
        METRICS[name].load(Setup(weights=tmp_path))
    assert str(error.value).startswith(f"{tmp_path / file} is missing. It comes from {ADDRESSES[name]};")
    assert not calls


@pytest.mark.parametrize("name", ["musiq", "maniqa", "clipiqa"])
def test_scores_are_those_of_the_local_weights(name: str, calls: list, tmp_path: Path) -> None:
    score = METRICS[name].load(setup(tmp_path, name))
    options = {"backbone": str(tmp_path / "clip_rn50.pt")} if name == "clipiqa" else {"pretrained": False}
    assert calls[0] == (name, options)
    found = score(PHOTO)
    assert isinstance(found, float)
    assert found == pytest.approx(PHOTO.mean() / 255 + 0.25, abs=1e-6)


def test_maniqa_takes_no_trained_vit_from_timm(calls: list, tmp_path: Path) -> None:
    METRICS["maniqa"].load(setup(tmp_path, "maniqa"))
    assert calls[1] == ("vit_base_patch8_224", {"pretrained": False})
    # Others get timm as it was.
    sys.modules["timm"].create_model("resnet50", pretrained=True)
    assert calls[2] == ("resnet50", {"pretrained": True})


def test_fid_is_of_inceptions_features_with_the_local_weights(calls: list, tmp_path: Path) -> None:
    score = METRICS["fid"].load(setup(tmp_path, "fid"))
    assert isinstance(score, SetScore)
    features, distance = score
    assert sys.modules["pyiqa.archs.inception"].load_pretrained_network is downloading
    flat = np.full((50, 40, 3), (0, 128, 192), np.uint8)
    found = features(flat)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [-1 + 0.25, 0.25, 0.5 + 0.25], atol=1e-6)
    sets = np.random.default_rng(0).standard_normal((2, 6, 3))
    assert distance(*sets) == frechet_distance(*sets)


@pytest.mark.parametrize("name", ["musiq", "maniqa", "fid"])
@pytest.mark.parametrize("content, reason", [("", "CheckpointError"), ("another", "loading state_dict")])
def test_files_of_other_things_are_told(
    name: str, content: str, reason: str, calls: list, tmp_path: Path
) -> None:
    with pytest.raises(UnavailableError, match=f"is not the file that is needed: .*{reason}"):
        METRICS[name].load(setup(tmp_path, name, content))


def test_resizing_for_inception_neither_rounds_nor_leaves_the_range() -> None:
    assert np.array_equal(
        pyiqa_bridge.clean_resized(np.full((7, 5, 3), 100, np.uint8)), np.full((299, 299, 3), 100)
    )
    as_is = np.random.default_rng(0).integers(0, 256, (299, 299, 3), np.uint8)
    assert np.array_equal(pyiqa_bridge.clean_resized(as_is), as_is)
    edge = np.zeros((600, 600, 3), np.uint8)
    edge[:, 299:] = 255
    found = pyiqa_bridge.clean_resized(edge)
    assert found.dtype == np.float32
    assert (found.min(), found.max()) == (0, 255)
    assert np.any(found % 1)
