"""The whole path from a photo to a picture, with the small networks."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffbir_jax.imaging.bytes import resize_bytes, to_float
from diffbir_jax.models.presets import PRESETS
from diffbir_jax.parity import networks
from diffbir_jax.parity.case import PIPELINE, Arrays, Case, Values, matching, nchw, nhwc
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.sampling.options import Options

TEXT = Options(
    steps=4, cfg_scale=4.0, pos_prompt="a photo of a person, sharp", neg_prompt="low quality, blurry"
)


class Path(NamedTuple):
    """What a case combines: preset, restoration module and options."""

    preset: str
    rm: str
    options: Options


PATHS = {
    "swinir_v1": Path("v1", "swinir", TEXT),
    "bsrnet_v2": Path("v2", "bsrnet", TEXT),
    "scunet_v2": Path("v2", "scunet", replace(TEXT, sampler="ddim", start_point="cond")),
    "swinir_v21": Path("v2.1", "swinir", replace(TEXT, sampler="edm_dpm++_3m_sde")),
    "swinir_v21_tiled": Path("v2.1", "swinir", replace(TEXT, steps=3, tile=512, tile_stride=256)),
}


def cases(file: str, keys: Sequence[str], salt: str) -> Iterator[Case]:
    """The cases of pipeline.npz, or of a part of it: stage 1 alone and the whole path, for each combination."""
    for name in dict.fromkeys(key.split("|")[0] for key in matching(keys, "*|clean_every6")):
        inputs = ["lq", *matching(keys, f"{name}|input_size", f"{name}|out_size")]

        def first(golden: Arrays, name: str = name) -> Values:
            rm = {"rm": networks.weights(PATHS[name].rm, "small", salt)}
            clean = stage_1(name, golden, restorer(PATHS[name], rm))
            return {f"{name}|clean_every6": nchw(clean[:, ::6, ::6])}

        def whole(golden: Arrays, name: str = name) -> Values:
            return whole_path(name, golden, restorer(PATHS[name], all_weights(PATHS[name], salt)))

        known = name in PATHS
        yield Case(
            file, f"{name} stage 1", [f"{name}|clean_every6"], inputs, PIPELINE, first if known else None
        )
        if outputs := matching(keys, f"{name}|sample_every6", f"{name}|out_every3"):
            inputs = [*inputs, f"{name}|noise_seed", f"{name}|noise_shapes"]
            yield Case(file, name, outputs, inputs, PIPELINE, whole if known else None)


def restorer(path: Path, params: dict) -> Restorer:
    """The small networks of a path, with some of their parameters."""
    small = {part: networks.NETWORKS[name].small for part, name in _parts(path).items() if part != "control"}
    return Restorer(replace(PRESETS[path.preset], **small), params)


def all_weights(path: Path, salt: str) -> dict:
    """Parameters of every network of a path."""
    return {part: networks.weights(name, "small", salt) for part, name in _parts(path).items()}


def stage_1(name: str, golden: Arrays, restorer: Restorer) -> jax.Array:
    """The restoration module's output (1, H, W, 3) for the photo, enlarged by Pillow to the case's input size."""
    lq = resize_bytes(golden["lq"], _sides(golden[f"{name}|input_size"]))
    size = golden.get(f"{name}|out_size")
    return restorer.stage1(to_float(lq), None if size is None else _sides(size))


def whole_path(name: str, golden: Arrays, restorer: Restorer) -> Values:
    """Every 6th pixel of the decoded sample (1, 3, h, w) in [-1, 1], and every 3rd of the picture, uint8."""
    clean = stage_1(name, golden, restorer)
    sample = restorer.stage2(clean, PATHS[name].options, noise=_noise(name, golden))
    picture = restorer.finish(sample, clean, _sides(golden[f"{name}|out_size"]))
    return {f"{name}|sample_every6": nchw(sample[:, ::6, ::6]), f"{name}|out_every3": picture[0, ::3, ::3]}


def _parts(path: Path) -> dict[str, str]:
    return {"rm": path.rm, "vae": "vae", "unet": "unet", "control": "controlnet", "text": "clip"}


def _sides(size: np.ndarray) -> tuple[int, int]:
    height, width = size
    return int(height), int(width)


def _noise(name: str, golden: Arrays) -> jax.Array:
    """What the reference drew (1 + steps, B, h, w, c): the start's, then one per step, zeros where it drew none."""
    shapes = json.loads(str(golden[f"{name}|noise_shapes"]))
    rng = np.random.default_rng(int(golden[f"{name}|noise_seed"]))
    drawn = [rng.standard_normal(shape, np.float32) for shape in shapes]
    missing = 1 + PATHS[name].options.steps - len(drawn)
    return jnp.stack([nhwc(x) for x in [*drawn, *[np.zeros_like(drawn[0])] * missing]])
