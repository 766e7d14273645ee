"""LoRA files that are merged into the networks as they are loaded."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.console.errors import UserError, one_line
from diffbir_jax.conversion.lora import places, to_peft
from diffbir_jax.models.lora import merge
from diffbir_jax.restoration.lora_flag import Lora, lora_of
from diffbir_jax.restoration.loras import merged, merging
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.weights.loading import abstract_params, load_params
from diffbir_jax.weights.safetensors import flatten, save_weights, unflatten
from tests.command import call, complaint, save
from tests.micro import FEW, MICRO, picture, random_params

RANK = 2
LAYERS = ("encoder/down_0_stage_0/block/conv1", "encoder/mid_stage_0/transformer/block_0/self_attention/q")


def factors(network: str, layers: tuple[str, ...] = LAYERS, seed: int = 0) -> dict[str, Any]:
    """A tree of random factors for layers of a network of `MICRO`."""
    rng, kernels = np.random.default_rng(seed), flatten(abstract_params(MICRO, [network])[network])
    flat = {}
    for layer in layers:
        *front, inputs, outputs = kernels[f"{layer}/kernel"].shape
        flat[f"{layer}/a"] = rng.standard_normal((*front, inputs, RANK), np.float32)
        flat[f"{layer}/b"] = rng.standard_normal((RANK, outputs), np.float32)
    return unflatten(flat)


def peft(networks: Mapping[str, Any], path: Path) -> Path:
    """Write trees by PEFT's names."""
    state = {
        f"{network}.{key}": x
        for network, tree in networks.items()
        for key, x in to_peft(tree, network, MICRO.unet).items()
    }
    return save_weights(path, state, {})


def kept(networks: Mapping[str, Any], path: Path, alpha: float) -> Path:
    """Write trees as diffbir convert keeps factors."""
    flat = flatten(networks)
    flat |= {key[:-1] + "alpha": np.float32(alpha) for key in flat if key.endswith("/a")}
    return save_weights(path, unflatten(flat), {"family": "lora"})


def close(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    assert flatten(one).keys() == flatten(other).keys()
    for path, x in flatten(other).items():
        np.testing.assert_allclose(flatten(one)[path], x, atol=1e-5, err_msg=path)


@pytest.fixture(scope="module")
def base() -> dict[str, Any]:
    return {name: params for name, params in random_params(MICRO).items() if name != "rm"}


@pytest.fixture
def trees() -> dict[str, Any]:
    """Of both networks; the control's first and last convolutions have shapes of their own."""
    own = ("encoder/conv_in", "zero_conv_0", "zero_conv_4")
    return {"unet": factors("unet"), "control": factors("control", (*LAYERS, *own), 1)}


@pytest.mark.parametrize(
    "given, path, scale",
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.5", "a.safetensors", 0.5),
        ("a.safetensors:-1", "a.safetensors", -1.0),
        ("C:/a.safetensors", "C:/a.safetensors", 1.0),
        ("a:b.safetensors:2", "a:b.safetensors", 2.0),
        (Path("a:2"), "a:2", 1.0),
        (Lora(Path("a"), 3.0), "a", 3.0),
    ],
)
def test_what_a_flag_names(given, path, scale) -> None:
    assert lora_of(given) == Lora(Path(path), scale)


def test_a_scale_is_finite() -> None:
    with pytest.raises(UserError, match=r"the scale of a\.safetensors is nan; give a finite number"):
        lora_of("a.safetensors:nan")


def test_files_of_any_origin_are_merged_as_the_formula_says(base, trees, tmp_path) -> None:
    """PEFT's names have no alpha, which is 8 then; files of ours have one for each layer."""
    wanted = {name: merge(base[name], tree, 0.5 * 8 / RANK) for name, tree in trees.items()}
    files = peft(trees, tmp_path / "peft.safetensors"), kept(trees, tmp_path / "kept.safetensors", 8.0)
    for file in files:
        found = merged(base, MICRO, [Lora(file, 0.5)])
        for name in trees:
            close(found[name], wanted[name])
        assert found["vae"] == base["vae"]


def test_several_files_add_up(base, trees, tmp_path) -> None:
    one = kept({"unet": trees["unet"]}, tmp_path / "one.safetensors", RANK)
    other = kept({"unet": factors("unet", LAYERS[:1], 5)}, tmp_path / "other.safetensors", RANK)
    found = merged(base, MICRO, [Lora(one), Lora(other, -2.0)])
    once = merge(base["unet"], trees["unet"], 1.0)
    close(found["unet"], merge(once, factors("unet", LAYERS[:1], 5), -2.0))


def test_a_scale_of_0_changes_nothing(base, trees, tmp_path) -> None:
    file = peft(trees, tmp_path / "a.safetensors")
    close(merged(base, MICRO, [Lora(file, 0.0)]), base)


def test_kernels_are_merged_before_they_lose_digits(trees, tmp_path, pretrained) -> None:
    """In bfloat16 the sum of two rounded numbers would differ."""
    file = kept({"unet": trees["unet"]}, tmp_path / "a.safetensors", 0.02)
    folder, change = pretrained / "micro", merging(MICRO, [Lora(file)])
    whole = load_params(MICRO, folder, modules=["unet"], change=change)["unet"]
    half = load_params(MICRO, folder, jnp.bfloat16, ["unet"], change)["unet"]
    kernel = "encoder/down_0_stage_0/block/conv1/kernel"
    assert flatten(half)[kernel].dtype == jnp.bfloat16
    np.testing.assert_array_equal(flatten(half)[kernel], flatten(whole)[kernel].astype(jnp.bfloat16))


def test_networks_that_are_not_loaded_are_left_out(base, trees, tmp_path) -> None:
    """Faces load some networks a second time."""
    file = peft(trees, tmp_path / "a.safetensors")
    assert merged({"unet": base["unet"]}, MICRO, [Lora(file)]).keys() == {"unet"}


def test_the_names_of_a_control_are_those_of_diffusers() -> None:
    table = places("control", MICRO.unet)
    assert table["controlnet_mid_block"].path == "zero_conv_4"
    assert table["controlnet_down_blocks.3"].path == "zero_conv_3"
    assert table["down_blocks.0.resnets.0.conv1"].path == LAYERS[0]
    assert table.keys() - {f"controlnet_down_blocks.{i}" for i in range(4)} - {"controlnet_mid_block"} < (
        places("unet", MICRO.unet).keys()
    )


def other_network(path: Path) -> Path:
    tree = {"encoder": {"conv_in": {"a": np.ones((3, 3, 9, 2)), "b": np.ones((2, 16))}}}
    return kept({"unet": tree}, path, 8.0)


def no_such_layer(path: Path) -> Path:
    tree = {"encoder": {"other": {"a": np.ones((3, 2)), "b": np.ones((2, 4))}}}
    return kept({"unet": tree}, path, 8.0)


def no_such_network(path: Path) -> Path:
    return kept({"text": {"x": {"a": np.ones((3, 2)), "b": np.ones((2, 4))}}}, path, 8.0)


def unknown_names(path: Path) -> Path:
    return save_weights(path, {f"x.lora_{name}.weight": np.ones((2, 2)) for name in "AB"}, {})


def unfit_factors(path: Path) -> Path:
    names = {f"conv_in.lora_{name}.weight": np.ones(shape) for name, shape in (("A", (2, 3)), ("B", (4, 5)))}
    return save_weights(path, names, {})


def no_lora(path: Path) -> Path:
    return save_weights(path, {"conv_in.weight": np.ones((2, 2))}, {})


def a_leaf(path: Path) -> Path:
    return save_weights(path, {"unet": {"x": np.ones(3)}}, {"family": "lora"})


def text(path: Path) -> Path:
    path.write_text("these are no weights at all, but a text of some length")
    return path


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def nothing(path: Path) -> Path:
    return path


@pytest.mark.parametrize(
    "make, told",
    [
        (other_network, r"unet/encoder/conv_in/kernel is \(3, 3, 4, 16\), the LoRA makes \(3, 3, 9, 16\)"),
        (no_such_layer, "of other networks than version micro: unet has no encoder/other/kernel"),
        (no_such_network, "it changes text, the version has rm, vae, unet, control"),
        (unknown_names, r"the LoRA does not fit the network \(2 problems\): no layer x.lora_A.weight"),
        (unfit_factors, r"the factors of conv_in do not fit: \(2, 3\) and \(4, 5\)"),
        (no_lora, "is no LoRA: give a LoRA"),
        (a_leaf, "the LoRA is damaged"),
        (text, "text, not weights|is no|not a safetensors"),
        (pipe, "is a pipe, not a file"),
        (nothing, "no LoRA at .*: give a .safetensors file"),
    ],
)
def test_a_file_that_does_not_fit_gets_one_line(base, tmp_path, make, told) -> None:
    file = make(tmp_path / "a.safetensors")
    with pytest.raises(
        (UserError, FileNotFoundError), match=told.replace(": no layer", ":\n  no layer")
    ) as error:
        merged(base, MICRO, [Lora(file)])
    line = one_line(error.value)
    assert str(file) in line and "\n" not in line


def test_another_scale_compiles_nothing(trees, tmp_path, pretrained, compilations) -> None:
    file = kept(trees, tmp_path / "a.safetensors", 0.1)
    image, found = picture(16, 16), []
    for loras in ((), (f"{file}:0.5",), (Lora(file, 2.0), file)):
        restorer = Restorer.load(MICRO, pretrained / "micro", lora=loras)
        found.append(restorer.restore(image, 1.0, FEW).image)
        if not loras:
            assert compilations
            compilations.clear()
    assert not compilations
    assert not np.array_equal(found[0], found[1]) and not np.array_equal(found[1], found[2])


def test_the_command_says_what_is_wrong_in_one_line(inputs, tmp_path, capsys) -> None:
    save(inputs / "a.png")
    run = ("in/a.png", "-o", "out", "--version", "micro", "--upscale", "1", "--lora")
    assert call(*run, other_network(tmp_path / "a.safetensors")) == 1
    assert "a.safetensors is a LoRA of other networks than version micro" in complaint(capsys)
    assert call(*run, "gone.safetensors:0.5") == 1
    assert "no LoRA at gone.safetensors" in complaint(capsys)
    assert call(*run, "a.safetensors", "--stage1-only") == 2
    assert "--stage1-only runs no network that --lora changes" in complaint(capsys)
    assert call(*run, "a.safetensors:inf") == 2
    assert not Path("out").exists()
