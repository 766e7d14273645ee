"""CLIP's ConvNeXt and DINOv2: every key of the published files, files there and back, and what is refused."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from diffbir_jax.conversion.engine import ConversionError, export, torch_shapes
from diffbir_jax.conversion.families import recognise
from diffbir_jax.conversion.features import CONVNEXT, DINO_VIT
from diffbir_jax.conversion.from_torch import convert_file, make_plans
from diffbir_jax.models.convnext import ConvNeXtConfig
from diffbir_jax.models.dino import DINOConfig
from diffbir_jax.training.critic import features_of
from tests.golden.weights import fill
from tests.models.reference import GOLDEN

SIZES = {
    "convnext": ConvNeXtConfig((1, 2, 1, 1), (4, 4, 8, 8), 6),
    "dino": DINOConfig(64, 3, 14, 2, registers=1),
}
KINDS = {"convnext": CONVNEXT, "dino": DINO_VIT}
# What else lies in the published files: CLIP's tower for texts; what stands in for hidden patches.
BESIDE = {
    "convnext": {"logit_scale": (), "text_projection": (4, 6), "transformer.resblocks.0.ln_1.bias": (4,)},
    "dino": {"mask_token": (1, 64)},
}
warns = pytest.mark.filterwarnings("ignore:.*right for a network of your own")


def state(name: str) -> dict[str, np.ndarray]:
    """A small file, by the published names."""
    kind, prefix = KINDS[name], {"convnext": "visual.", "dino": ""}[name]
    shapes = torch_shapes(list(kind.rules(SIZES[name])), kind.abstract(SIZES[name]))
    arrays = {prefix + key: fill(name, key, shape) for key, shape in shapes.items()}
    return arrays | {key: np.zeros(shape, np.float32) for key, shape in BESIDE[name].items()}


@pytest.mark.parametrize(
    "name, config",
    [
        ("convnext_xxlarge", ConvNeXtConfig()),
        ("dinov2_vitb14", DINOConfig()),
        ("dinov2_vits14_reg4", DINOConfig(width=384, registers=4)),
    ],
)
def test_full_networks_have_the_published_keys(name: str, config: object) -> None:
    shapes = json.loads(gzip.decompress((GOLDEN / "one_step" / f"{name}.json.gz").read_bytes()))
    arrays = {k.removeprefix("visual."): np.broadcast_to(np.float32(0), x) for k, x in shapes.items()}
    (plan,) = make_plans(arrays, recognise(arrays), [name])
    assert plan.config == config and config in (plan.architecture.config(), *plan.architecture.others)


@warns
@pytest.mark.parametrize("name", SIZES)
def test_a_file_is_converted_and_loaded(name: str, tmp_path: Path) -> None:
    given, notes = state(name), []
    save_file(given, tmp_path / "published.safetensors")
    (entry,) = convert_file(tmp_path / "published.safetensors", tmp_path / "out", say=notes.append)
    assert entry.module == name
    path = tmp_path / "out" / f"{name}.safetensors"
    params = features_of(name).load(path)
    assert type(SIZES[name]).of(params) == SIZES[name]
    back = export(params, list(KINDS[name].rules(SIZES[name])))
    prefix = "visual." if name == "convnext" else ""
    assert {prefix + key for key in back} == given.keys() - BESIDE[name].keys()
    assert all(x.tobytes() == given[prefix + key].tobytes() for key, x in back.items())
    if name == "convnext":
        assert any("left out: logit_scale, text_projection, transformer.* (3 keys)" in note for note in notes)


@warns
@pytest.mark.parametrize(
    "name, gone",
    [("convnext", "visual.trunk.stages.1.blocks.0.mlp.fc2.bias"), ("dino", "blocks.1.ls2.gamma")],
)
def test_a_file_that_lacks_a_key_is_refused(name: str, gone: str, tmp_path: Path) -> None:
    save_file({k: x for k, x in state(name).items() if k != gone}, tmp_path / "published.safetensors")
    with pytest.raises(ConversionError, match=rf"missing {gone.removeprefix('visual.')}"):
        convert_file(tmp_path / "published.safetensors", tmp_path / "out")


@warns
def test_files_of_other_networks_are_refused_in_one_line(tmp_path: Path) -> None:
    for name in SIZES:
        save_file(state(name), tmp_path / f"{name}.pub.safetensors")
        convert_file(tmp_path / f"{name}.pub.safetensors", tmp_path)
    for name, other in (("convnext", "dino"), ("dino", "convnext")):
        with pytest.raises(ValueError) as error:
            features_of(name).load(tmp_path / f"{other}.safetensors")
        message = str(error.value)
        assert f"holds another network ({other}), config.critic.features" in message and "\n" not in message
    with pytest.raises(ValueError, match="holds another network \\(none that says its name\\)"):
        features_of("dino").load(tmp_path / "dino.pub.safetensors")
    with pytest.raises(FileNotFoundError, match="make it of the published one with diffbir convert"):
        features_of("convnext").load(tmp_path / "absent.safetensors")
