"""A UNet with several merged LoRAs against diffusers' with PEFT's adapters, on convolutions and dense layers."""

import jax
import numpy as np
import peft
import torch
from diffusers import UNet2DConditionModel

from diffbir_jax.conversion.abstract import abstract_unet
from diffbir_jax.conversion.diffusers import unet_rules
from diffbir_jax.conversion.engine import convert
from diffbir_jax.conversion.lora import adapters, to_peft, tree
from diffbir_jax.models.lora import merge
from diffbir_jax.models.unet import UNet
from tests.golden.weights import fill
from tests.models.reference import UNET
from tests.peers.compare import assert_equal, nchw, random
from tests.peers.test_stable_diffusion import unet  # noqa: F401  (a fixture)

LAYERS = ["to_q", "to_out.0", "conv1", "conv_shortcut", "conv", "conv_in", "proj_in", "ff.net.0.proj"]
# Names of adapters, and what PEFT makes of them: rank, and alpha or its default.
ADAPTERS = {"one": {"r": 4}, "two": {"r": 2, "lora_alpha": 6}}
PEFT_ALPHA = 8


def test_merged_adapters_are_those_of_peft(unet: UNet2DConditionModel) -> None:  # noqa: F811
    base = {key: x.numpy().copy() for key, x in unet.state_dict().items()}
    for name, sizes in ADAPTERS.items():
        unet.add_adapter(peft.LoraConfig(target_modules=LAYERS, **sizes), adapter_name=name)
    unet.set_adapter([*ADAPTERS])
    state = {key: x for key, x in unet.state_dict().items() if ".lora_" in key}
    unet.load_state_dict(
        {key: torch.from_numpy(fill("peft", key, tuple(x.shape))) for key, x in state.items()}, strict=False
    )
    arrays = {key: x.numpy() for key, x in unet.state_dict().items() if ".lora_" in key}
    params = convert(base, list(unet_rules(UNET)), abstract_unet(UNET))
    back: dict[str, np.ndarray] = {}
    for adapter in adapters(arrays, {"unet": UNET}):
        sizes, factors = ADAPTERS[adapter.name], tree(adapter, UNET)
        params = jax.jit(merge, static_argnums=2)(
            params, factors, sizes.get("lora_alpha", PEFT_ALPHA) / sizes["r"]
        )
        back |= to_peft(factors, "unet", UNET, adapter.name)
    assert back.keys() == arrays.keys()
    assert all(back[key].tobytes() == arrays[key].tobytes() for key in back)
    # Sides that are no multiples of 8: both return to each level's own sides.
    x, context, t = random(2, 9, 11, 4), random(2, 77, 64), np.array([999, 200], np.int32)
    with torch.inference_mode():
        wanted = unet(nchw(x), torch.from_numpy(t), torch.from_numpy(context)).sample
    assert_equal(jax.jit(UNet(UNET).apply)({"params": params}, x, t, context), wanted)
