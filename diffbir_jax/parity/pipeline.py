"""The whole pipeline from a photo to a result, with the small networks."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from diffbir_jax.imaging.bytes import resize_bytes, to_depth
from diffbir_jax.imaging.canvas import from_depth
from diffbir_jax.models.presets import PRESETS
from diffbir_jax.parity import networks
from diffbir_jax.parity.case import PIPELINE, Arrays, Case, Values, matching, nchw
from diffbir_jax.restoration import autoencoder, diffusion, stage1
from diffbir_jax.restoration.candidates import default_plan
from diffbir_jax.restoration.executor import Executor
from diffbir_jax.restoration.image import Frame, Request
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.restoration.results import Wanted
from diffbir_jax.sampling.options import Options

TEXT = Options(
    steps=4, cfg_scale=4.0, pos_prompt="a photo of a person, sharp", neg_prompt="low quality, blurry"
)


class Path(NamedTuple):
    """The preset, the restoration module and the options of a case."""

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
    """Yield the cases of pipeline.npz, or of a part of it: for each path, stage 1 alone and the whole pipeline."""
    for name in dict.fromkeys(key.split("|")[0] for key in matching(keys, "*|clean_every6")):
        inputs = ["lq", *matching(keys, f"{name}|input_size", f"{name}|out_size")]

        def first(golden: Arrays, name: str = name) -> Values:
            rm = {"rm": networks.weights(PATHS[name].rm, "small", salt)}
            return stage_1(name, golden, restorer(PATHS[name], rm))

        def whole(golden: Arrays, name: str = name) -> Values:
            return whole_path(name, golden, restorer(PATHS[name], all_weights(PATHS[name], salt)))

        # An unknown path is listed as not implemented.
        known = name in PATHS
        yield Case(
            file, f"{name} stage 1", [f"{name}|clean_every6"], inputs, PIPELINE, first if known else None
        )
        if outputs := matching(keys, f"{name}|sample_every6", f"{name}|out_every3"):
            inputs = [*inputs, f"{name}|noise_seed", f"{name}|noise_shapes"]
            yield Case(file, name, outputs, inputs, PIPELINE, whole if known else None)


def restorer(path: Path, params: dict) -> Restorer:
    """Return the restorer of a path's small networks, with the given parameters."""
    small = {part: networks.NETWORKS[name].small for part, name in _parts(path).items() if part != "control"}
    return Restorer(replace(PRESETS[path.preset], **small), params)


def all_weights(path: Path, salt: str) -> dict:
    """Return the parameters of all networks of a path."""
    return {part: networks.weights(name, "small", salt) for part, name in _parts(path).items()}


def begin(name: str, golden: Arrays, restorer: Restorer) -> tuple[Executor, Frame]:
    """Prepare the users' pipeline for one photo; as in the reference, only the diffusion model uses tiles."""
    preset, options = restorer.preset, PATHS[name].options
    whole = default_plan(preset, replace(options, tile=None, tile_stride=None))
    # The reference processes stage 1 and the autoencoder whole.
    plan = replace(whole, sample=default_plan(preset, options).sample)
    noise = _noise(name, golden) if f"{name}|noise_seed" in golden else None
    request = Request(from_depth(photo(name, golden)), noise=noise)
    upscale = float(golden[f"{name}|out_size"][0] / golden[f"{name}|input_size"][0])
    executor = Executor(restorer, restorer.programs, plan, Wanted(options))
    return executor, Frame(0, request, upscale, preset, plan)


def photo(name: str, golden: Arrays) -> np.ndarray:
    """Return the photo, enlarged by Pillow to the case's input size, (H, W, 3) uint8."""
    return resize_bytes(golden["lq"], _sides(golden[f"{name}|input_size"]))


def stage_1(name: str, golden: Arrays, restorer: Restorer) -> Values:
    """Return every 6th pixel of the stage-1 image (1, 3, h, w) in about [0, 1]."""
    executor, frame = begin(name, golden, restorer)
    stage1.clean(executor, [frame])
    return {f"{name}|clean_every6": nchw(frame.clean[None, ::6, ::6])}


def whole_path(name: str, golden: Arrays, restorer: Restorer) -> Values:
    """Return every 6th pixel of the decoded sample (1, 3, h, w) in [-1, 1], and every 3rd of the result, uint8."""
    executor, frame = begin(name, golden, restorer)
    stage1.clean(executor, [frame])
    autoencoder.encode(executor, [frame])
    latents = diffusion.generate(executor, [frame], 0)
    (picture,) = autoencoder.decode(executor, [frame], latents)
    # The golden sample has stage 2's size and no colour correction.
    frame.sides = frame.sides._replace(output=frame.sides.work, trained=frame.sides.work)
    uncorrected = Restorer(replace(restorer.preset, colour_levels=0), restorer.params)
    (sample,) = autoencoder.decode(replace(executor, generator=uncorrected), [frame], latents)
    return {
        f"{name}|sample_every6": nchw(2.0 * sample[None, ::6, ::6] - 1.0),
        f"{name}|out_every3": to_depth(picture[::3, ::3], np.uint8),
    }


def _parts(path: Path) -> dict[str, str]:
    return {"rm": path.rm, "vae": "vae", "unet": "unet", "control": "controlnet", "text": "clip"}


def _sides(size: np.ndarray) -> tuple[int, int]:
    height, width = size
    return int(height), int(width)


def _noise(name: str, golden: Arrays) -> np.ndarray:
    """Return the reference's noise (1 + steps, h, w, c): the start's, then one per step; zeros for steps without."""
    shapes = json.loads(str(golden[f"{name}|noise_shapes"]))
    rng = np.random.default_rng(int(golden[f"{name}|noise_seed"]))
    drawn = [rng.standard_normal(shape, np.float32)[0].transpose(1, 2, 0) for shape in shapes]
    # Zeros at the end stand for steps without noise.
    missing = 1 + PATHS[name].options.steps - len(drawn)
    return np.stack([*drawn, *[np.zeros_like(drawn[0])] * missing])
