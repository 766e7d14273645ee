"""Published one-step restorers as users run them: HYPIR from a small image to bytes, in tiles, with small networks."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from diffbir_jax.imaging.bytes import to_depth
from diffbir_jax.models.presets import PRESETS, Preset
from diffbir_jax.parity.case import NETWORK, Arrays, Case, Limit, Values, absolute, matching, nchw
from diffbir_jax.parity.lora import HYPIR
from diffbir_jax.parity.networks import NETWORKS
from diffbir_jax.parity.one_step import FACTOR, Make, adapted_weights, base
from diffbir_jax.restoration import autoencoder, diffusion, stage1
from diffbir_jax.restoration.candidates import default_plan
from diffbir_jax.restoration.executor import Executor
from diffbir_jax.restoration.image import Frame, Request, padded_whole
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.restoration.results import Wanted
from diffbir_jax.sampling.options import Options

# Sides of tiles and how far they lie apart; the smallest side that the networks see.
TILE, STRIDE, UPSCALE = 64, 32, 2.0
NAMES = ("enhance_large", "enhance_small")
BYTES = Limit(1.0, absolute)


def small_preset(version: str) -> Preset:
    """Return a published version with the small networks."""
    sizes = {"vae": "vae", "unet": "unet", "text": "clip"}
    return replace(PRESETS[version], **{part: NETWORKS[name].small for part, name in sizes.items()})


def cases(make: Make, keys: Sequence[str], salt: str) -> Iterator[Case]:
    """Yield two cases per image: floats at every stage, and bytes."""
    for name in NAMES:
        prefix = f"hypir|{name}"
        outputs = matching(keys, *(f"{prefix}|{part}" for part in ("input", "z_lq", "z0", "decoded", "out")))
        inputs = [f"{prefix}|lq", f"{prefix}|noise"]

        def floats(golden: Arrays, prefix: str = prefix, outputs: list[str] = outputs) -> Values:
            found = enhanced(golden[f"{prefix}|lq"], golden[f"{prefix}|noise"], salt)
            return {key: found[key.split("|")[-1]] for key in outputs}

        def written(golden: Arrays, prefix: str = prefix) -> Values:
            found = enhanced(golden[f"{prefix}|lq"], golden[f"{prefix}|noise"], salt)["out"]
            return {f"{prefix}|bytes": nchw(to_depth(np.moveaxis(found[0], 0, -1), np.uint8)[None])}

        yield make(prefix, outputs, inputs, NETWORK, floats)
        yield make(f"{prefix}|bytes", [f"{prefix}|bytes"], inputs, BYTES, written)


def enhanced(lq: np.ndarray, noise: np.ndarray, salt: str) -> dict[str, np.ndarray]:
    """Run HYPIR on one image (1, 3, h, w) with given noise per tile; arrays of all stages in PyTorch's layout."""
    preset = replace(small_preset("hypir"), min_side=TILE)
    params = {"vae": base("vae", salt), "text": base("clip", salt)}
    restorer = Restorer(preset, params | {"unet": adapted_weights([HYPIR], "unet", salt)})
    options = Options(steps=1, tile=TILE, tile_stride=STRIDE)
    plan = default_plan(preset, options)
    executor = Executor(restorer, restorer.programs, plan, Wanted(options))
    request = Request(np.moveaxis(lq[0], 0, -1), noise=np.moveaxis(noise[:, 0], 1, -1))
    frame = Frame(0, request, UPSCALE, preset, plan)
    stage1.clean(executor, [frame])
    found = {"input": 2.0 * padded_whole(frame, frame.clean_tile) - 1.0}
    autoencoder.encode(executor, [frame])
    found["z_lq"] = frame.latent / FACTOR
    latents = diffusion.generate(executor, [frame], 0)
    found["z0"] = latents[0] / FACTOR
    (found["out"],) = autoencoder.decode(executor, [frame], latents)
    # The golden has what is decoded before it is cropped.
    frame.sides = frame.sides._replace(work=frame.sides.padded)
    (decoded,) = autoencoder.decode(executor, [frame], latents, Frame.take_decoded)
    found["decoded"] = 2.0 * decoded - 1.0
    return {name: nchw(value[None]) for name, value in found.items()}
