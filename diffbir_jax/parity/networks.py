"""The networks one by one, in small and full size."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.conversion import abstract as shapes
from diffbir_jax.conversion import restoration as modules
from diffbir_jax.conversion import stable_diffusion as tables
from diffbir_jax.conversion.engine import Params
from diffbir_jax.conversion.rules import Rules
from diffbir_jax.files.trees import Tree
from diffbir_jax.models.apply import Module, apply
from diffbir_jax.models.bsrnet import BSRNet, BSRNetConfig
from diffbir_jax.models.clip import CLIPText, CLIPTextConfig
from diffbir_jax.models.controlnet import IRControlNet
from diffbir_jax.models.scunet import SCUNet, SCUNetConfig
from diffbir_jax.models.swinir import SwinIR, SwinIRConfig
from diffbir_jax.models.unet import UNet, UNetConfig
from diffbir_jax.models.vae import AutoencoderKL, VAEConfig
from diffbir_jax.parity.case import EXACT, FULL_SIZE, NETWORK, Arrays, Case, Values, nchw, nhwc
from diffbir_jax.parity.weights import filled
from diffbir_jax.text.tokenizer import tokenize

# Equal modules share a compiled program, for example SwinIR's in all cases of training.
run = jax.jit(apply, static_argnums=0, static_argnames="method")

Config = TypeVar("Config")


class Network(NamedTuple, Generic[Config]):
    """One network of the golden files.

    Attributes:
        build: config -> Flax module.
        rules: config -> key table.
        shapes: config -> abstract parameters.
        small: configuration in the `*_small` files, in training and pipeline. Full size is the type's default.
    """

    build: Callable[[Config], Module]
    rules: Callable[[Config], Rules]
    shapes: Callable[[Config], Params]
    small: Config

    def config(self, size: str) -> Config:
        """Return the configuration of a size, "small" or "full"."""
        return self.small if size == "small" else type(self.small)()


_SWINIR = SwinIRConfig(embed_dim=24, num_layers=2, depth=2, num_heads=2)
_BSRNET = BSRNetConfig(num_feat=16, num_blocks=2, growth=8)
_SCUNET = SCUNetConfig(depths=(2, 2, 2, 2, 2, 2, 2))
_UNET = UNetConfig(model_channels=32, num_head_channels=16, context_dim=64)
_CLIP = CLIPTextConfig(width=64, heads=4, layers=3)
NETWORKS = {
    "unet": Network(UNet, tables.unet_rules, shapes.abstract_unet, _UNET),
    "controlnet": Network(IRControlNet, tables.controlnet_rules, shapes.abstract_controlnet, _UNET),
    "vae": Network(AutoencoderKL, tables.vae_rules, shapes.abstract_vae, VAEConfig(ch=32)),
    "clip": Network(CLIPText, tables.clip_rules, shapes.abstract_clip, _CLIP),
    "swinir": Network(SwinIR, modules.swinir_rules, shapes.abstract_swinir, _SWINIR),
    "bsrnet": Network(BSRNet, modules.bsrnet_rules, shapes.abstract_bsrnet, _BSRNET),
    "scunet": Network(SCUNet, modules.scunet_rules, shapes.abstract_scunet, _SCUNET),
}
RESTORATION = ("swinir", "bsrnet", "scunet")


def weights(name: str, size: str, salt: str) -> Params:
    """Return the parameters of a network of `NETWORKS`, "small" or "full"."""
    network = NETWORKS[name]
    config = network.config(size)
    return filled(name, network.rules(config), network.shapes(config), salt)


def module(name: str, size: str) -> Module:
    """Return the Flax module of a network of `NETWORKS`, "small" or "full"."""
    network = NETWORKS[name]
    return network.build(network.config(size))


def cases(file: str, keys: Sequence[str], salt: str) -> Iterator[Case]:
    """Yield the cases of a file NAME_small or NAME_full; none for an unknown NAME."""
    name, size = file.rsplit("_", 1)
    makers = {"vae": _vae, "clip": _clip, "cldm": _cldm, **dict.fromkeys(RESTORATION, _restoration)}
    if name in makers:
        limit = NETWORK if size == "small" else FULL_SIZE
        make = functools.partial(Case, file, limit=limit, full_size=size == "full")
        yield from makers[name](make, functools.partial(_Sized, size=size, salt=salt), name)


class _Sized(NamedTuple):
    """A network of one size. Its weights are made in each call and released afterwards, to save memory."""

    name: str
    size: str
    salt: str

    def __call__(self, *inputs: Tree, method: str | None = None) -> Tree:
        # Not kept: the full-size networks together would not fit into memory.
        params = weights(self.name, self.size, self.salt)
        return jax.block_until_ready(run(module(self.name, self.size), params, *inputs, method=method))


Make = Callable[..., Case]
Networks = Callable[[str], _Sized]


def _restoration(make: Make, network: Networks, name: str) -> Iterator[Case]:
    def restore(golden: Arrays) -> Values:
        return {"out": nchw(network(name)(nhwc(golden["lq"])))}

    yield make("out", ["out"], ["lq"], compute=restore)


def _vae(make: Make, network: Networks, name: str) -> Iterator[Case]:
    def encode(golden: Arrays) -> Values:
        mean, logvar = network(name)(nhwc(golden["image"]), method="encode")
        return {"moments_mean": nchw(mean), "moments_logvar": nchw(logvar)}

    def decode(golden: Arrays) -> Values:
        return {"decoded": nchw(network(name)(nhwc(golden["latent"]), method="decode"))}

    yield make("encode", ["moments_mean", "moments_logvar"], ["image"], compute=encode)
    yield make("decode", ["decoded"], ["latent"], compute=decode)


def _clip(make: Make, network: Networks, name: str) -> Iterator[Case]:
    """Yield the cases of tokenizer and text tower; at full size the golden keeps every 8th channel."""
    step = 1 if network(name).size == "small" else 8

    def read(golden: Arrays) -> Values:
        return {"tokens": tokenize(golden["prompts"].tolist())}

    def embed(golden: Arrays) -> Values:
        return {"embedding": network(name)(_narrow(golden["tokens"]))[..., ::step]}

    # Tokens are integers, so they must be equal. The tokenizer needs little memory at any size.
    yield make("tokens", ["tokens"], ["prompts"], compute=read, limit=EXACT, full_size=False)
    yield make("embedding", ["embedding"], ["tokens"], compute=embed)


def _cldm(make: Make, network: Networks, _: str) -> Iterator[Case]:
    """Yield the cases of UNet and IRControlNet, separately and together."""
    size = network("unet").size
    unet_inputs = ["latent", "timesteps", "context"]
    control_inputs = ["latent", "hint", "timesteps", "context"]
    # At full size the goldens keep statistics and a corner: whole controls would take gigabytes.
    names = ["control_{}"] if size == "small" else ["control_{}_stats", "control_{}_slice"]
    controls = [name.format(i) for i in range(13) for name in names]

    def inputs(golden: Arrays, keys: list[str]) -> list[jax.Array]:
        return [nhwc(x) if x.ndim == 4 else _narrow(x) for x in (golden[key] for key in keys)]

    def control(golden: Arrays) -> Values:
        values = map(nchw, network("controlnet")(*inputs(golden, control_inputs)))
        summaries = [[x] if size == "small" else [_statistics(x), x[0, :8, :4, :4]] for x in values]
        return dict(zip(controls, itertools.chain(*summaries)))

    def unet(golden: Arrays) -> Values:
        return {"unet_out": nchw(network("unet")(*inputs(golden, unet_inputs)))}

    # The controls are computed first and their network released, so both are never in memory together.
    def controlled(golden: Arrays) -> Values:
        added = network("controlnet")(*inputs(golden, control_inputs))
        return {"controlled_out": nchw(network("unet")(*inputs(golden, unet_inputs), added))}

    yield make("control", controls, control_inputs, compute=control)
    yield make("unet", ["unet_out"], unet_inputs, compute=unet)
    yield make("controlled", ["controlled_out"], control_inputs, compute=controlled)


def _statistics(x: np.ndarray) -> np.ndarray:
    return np.array([x.mean(), x.std(), np.abs(x).max()])


def _narrow(x: np.ndarray) -> jax.Array:
    """Convert 64-bit integers to 32 bits, in which JAX computes."""
    return jnp.asarray(x, jnp.int32 if x.dtype.kind == "i" else x.dtype)
