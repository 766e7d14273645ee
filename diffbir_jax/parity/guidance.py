"""Region-adaptive guidance: the weight map, and the gradient step through the small autoencoder."""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

from diffbir_jax.conversion.engine import Params
from diffbir_jax.models.apply import apply
from diffbir_jax.parity import networks
from diffbir_jax.parity.case import IMAGE, NETWORK, Arrays, Case, Values, matching, nchw, nhwc
from diffbir_jax.sampling.guidance import GuidanceInputs, Loss, PixelGuidance, fidelity_weight
from diffbir_jax.sampling.tables import GUIDANCE_UNIT

LOSSES: tuple[Loss, ...] = ("mse", "w_mse")


def cases(file: str, keys: Sequence[str], salt: str) -> Iterator[Case]:
    """Yield the cases of guidance.npz: the weight, and each loss with its gradient steps."""

    def weight(golden: Arrays) -> Values:
        return {"weight": nchw(fidelity_weight(nhwc(golden["target"])))}

    yield Case(file, "weight", ["weight"], ["target"], IMAGE, weight)
    for loss in LOSSES:
        outputs = matching(keys, f"{loss}|s=*|delta_z0", f"{loss}|s=*|loss")

        def steps(golden: Arrays, loss: Loss = loss, outputs: list[str] = outputs) -> Values:
            return gradient_steps(loss, outputs, golden, networks.weights("vae", "small", salt))

        yield Case(file, loss, outputs, ["target", "z0", "scale_factor"], NETWORK, steps)


def gradient_steps(loss: Loss, outputs: Sequence[str], golden: Arrays, vae: Params) -> Values:
    """Return the loss and the step of z0, -3000 s dL/dz0, at the scales s of the keys LOSS|s=S|..."""
    # The scale is a traced parameter, because it is stored in the golden file.
    params = {"vae": vae, "scale_factor": jnp.float32(golden["scale_factor"])}
    inputs = PixelGuidance(_decode, loss).prepare(params, nhwc(golden["target"]))
    # Loss and step of one scale come from one computation.
    scales = {key.split("|")[1]: float(key.split("|")[1].removeprefix("s=")) for key in outputs}
    z0 = nhwc(golden["z0"])
    steps = {name: _step(inputs, z0, jnp.float32(GUIDANCE_UNIT * scale)) for name, scale in scales.items()}
    values = {}
    for key in outputs:
        _, scale, kind = key.split("|")
        values[key] = nchw(steps[scale][0]) if kind == "delta_z0" else steps[scale][1]
    return values


def _decode(params: Params, z: jax.Array) -> jax.Array:
    return apply(networks.module("vae", "small"), params["vae"], z / params["scale_factor"], method="decode")


@jax.jit
def _step(inputs: GuidanceInputs, z0: jax.Array, strength: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the step and the loss. The kind of loss acts only through the weight, so one program serves both kinds."""
    guidance = PixelGuidance(_decode)
    return guidance(inputs, z0, strength) - z0, guidance.value(inputs, z0)
