"""LoRAs and published one-step restorers: names, merging, factors there and back, every key of the published files."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffbir_jax.conversion import lora as names
from diffbir_jax.conversion.abstract import abstract_unet, abstract_vae
from diffbir_jax.conversion.adapted import convert_adapted, lora_state
from diffbir_jax.conversion.engine import ConversionError, check
from diffbir_jax.conversion.families import recognise
from diffbir_jax.conversion.from_torch import convert_file, make_plans
from diffbir_jax.conversion.lora import adapters, places, to_peft, tree
from diffbir_jax.conversion.one_step import MODULATION
from diffbir_jax.conversion.published import METHODS, method_of
from diffbir_jax.conversion.stored import CheckpointError
from diffbir_jax.conversion.to_torch import export_files
from diffbir_jax.conversion.torch_writing import write_torch
from diffbir_jax.models.lora import merge
from diffbir_jax.models.unet import UNetConfig
from diffbir_jax.models.vae import VAEConfig
from diffbir_jax.parity.runner import misses
from diffbir_jax.weights.safetensors import flatten
from tests.conversion import small
from tests.models.reference import GOLDEN

FULL = {"unet": UNetConfig(), "vae": VAEConfig()}
ABSTRACT = {"unet": abstract_unet, "vae": abstract_vae}
QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = QUERY.replace("to_q", "to_out.0")
RNG = np.random.default_rng(0)
FACTORS = {"a": RNG.standard_normal((4, 32), np.float32), "b": RNG.standard_normal((32, 4), np.float32)}


def published(name: str) -> dict[str, np.ndarray]:
    """Arrays without memory, with the keys and shapes of a published file."""
    shapes = json.loads(gzip.decompress((GOLDEN / "one_step" / f"{name}.json.gz").read_bytes()))
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}


@pytest.mark.parametrize(
    "name, version, sizes",
    [
        ("hypir_sd2", "hypir", {"unet": 257}),
        ("osediff", "osediff", {"unet": 258, "vae": 32}),
        ("pisa_sr", "pisa-sr", {"unet": 516}),
        ("s3diff", "s3diff", {"unet": 257, "vae": 31}),
    ],
)
def test_every_key_of_a_published_file_fits_full_size_networks(name: str, version: str, sizes: dict) -> None:
    state = published(name)
    method = method_of(state)
    assert method is not None and method.version == version
    found = adapters({key: x for key, x in state.items() if names.is_lora(key)}, FULL)
    method.check(found)
    counted = {n: sum(len(a.layers) for a in found if a.network == n) for n in sizes}
    assert counted == sizes
    for adapter in found:
        config = FULL[adapter.network]
        # Fails unless every factor fits its kernel.
        jax.eval_shape(
            lambda base, factors: merge(base, factors, 1.0),
            ABSTRACT[adapter.network](config),
            tree(adapter, config),
        )
    rest = {key: x for key, x in state.items() if not names.is_lora(key)}
    trained = {key for key in rest if key.rsplit(".", 1)[0] in method.trained}
    assert len(trained) == 2 * len(method.trained)
    others = {key: x for key, x in rest.items() if key not in trained}
    assert bool(others) == method.modulated
    if others:
        config, target = MODULATION.published()
        check(others, list(MODULATION.rules(config)), target)


@pytest.mark.parametrize(
    "name, stem", [("s3diff_de_net", "degradation"), ("invsr_noise_predictor", "noise_predictor")]
)
def test_networks_beside_have_the_published_keys(name: str, stem: str) -> None:
    state = published(name)
    (plan,) = make_plans(state, recognise(state), [stem], exact=True)
    assert plan.config == plan.architecture.config()


@pytest.mark.parametrize("index", range(len(METHODS)))
def test_a_file_that_lacks_a_layer_is_refused(index: int) -> None:
    name = {"s3diff": "s3diff", "pisa-sr": "pisa_sr", "osediff": "osediff"}[METHODS[index].version]
    state = {key: x for key, x in published(name).items() if names.is_lora(key)}
    gone = next(key for key in state if "unet" in key).split(".lora_")[0]
    kept = {key: x for key, x in state.items() if not key.startswith(f"{gone}.lora_")}
    with pytest.raises(ConversionError, match="layers of unet have an adapter"):
        METHODS[index].check(adapters(kept, FULL))


def spelled(style: str) -> dict[str, np.ndarray]:
    """One LoRA of two layers in the spelling of a library."""
    a, b = FACTORS["a"], FACTORS["b"]
    kohya = {layer: "lora_unet_" + layer.replace(".", "_") for layer in (QUERY, OUT)}
    processor = QUERY.removesuffix(".to_q") + ".processor"
    return {
        "peft": {
            f"base_model.model.{x}.lora_{k}.default.weight": v for x in (QUERY, OUT) for k, v in zip("AB", (a, b))
        },
        "peft saved": {f"{x}.lora_{k}.weight": v for x in (QUERY, OUT) for k, v in zip("AB", (a, b))},
        "diffusers": {f"unet.{x}.lora_{k}.weight": v for x in (QUERY, OUT) for k, v in zip("AB", (a, b))},
        "diffusers before": {
            f"unet.{x}.lora.{k}.weight": v for x in (QUERY, OUT) for k, v in zip(("down", "up"), (a, b))
        },
        "processors": {
            f"unet.{processor}.{x}_lora.{k}.weight": v
            for x in ("to_q", "to_out")
            for k, v in zip(("down", "up"), (a, b))
        },
        "kohya": {
            f"{x}.{k}": v
            for x in kohya.values()
            for k, v in zip(("lora_down.weight", "lora_up.weight", "alpha"), (a, b, np.float32(2)))
        },
        "kohya, convolutions": {
            f"{x}.{k}": v
            for x in kohya.values()
            for k, v in zip(("lora_down.weight", "lora_up.weight"), (a[..., None, None], b[..., None, None]))
        },
    }[style]  # fmt: skip


STYLES = ("peft", "peft saved", "diffusers", "diffusers before", "processors", "kohya", "kohya, convolutions")


@pytest.mark.parametrize("style", STYLES)
def test_all_spellings_name_the_same_layers(style: str) -> None:
    state = {key: np.asarray(x) for key, x in spelled(style).items()}
    assert all(map(names.is_lora, state))
    (adapter,) = adapters(state, {"unet": small.UNET_CONFIG})
    assert adapter.network == "unet" and adapter.name == "default"
    assert {*adapter.layers} == {QUERY, OUT}
    found = flatten(tree(adapter, small.UNET_CONFIG))
    path = places("unet", small.UNET_CONFIG)[QUERY].path
    np.testing.assert_array_equal(found[f"{path}/a"], FACTORS["a"].T)
    np.testing.assert_array_equal(found[f"{path}/b"], FACTORS["b"].T)
    assert (f"{path}/alpha" in found) == (style == "kohya")


def test_back_to_peft_bit_for_bit() -> None:
    """A convolution and dense layers, with an adapter per layer."""
    convolution = "down_blocks.0.resnets.0.conv1"
    state = {
        f"{QUERY}.lora_A.x.weight": FACTORS["a"],
        f"{QUERY}.lora_B.x.weight": FACTORS["b"],
        f"{convolution}.lora_A.y.weight": RNG.standard_normal((4, 32, 3, 3), np.float32),
        f"{convolution}.lora_B.y.weight": RNG.standard_normal((32, 4, 1, 1), np.float32),
    }
    one, two = adapters(state, {"unet": small.UNET_CONFIG})
    back = {}
    for adapter in (one, two):
        back |= to_peft(tree(adapter, small.UNET_CONFIG), "unet", small.UNET_CONFIG, adapter.name)
    assert back.keys() == state.keys()
    assert all(back[key].tobytes() == state[key].tobytes() for key in state)


def test_problems_are_listed() -> None:
    state = {f"{QUERY}.lora_A.weight": FACTORS["a"], "nothing.lora_B.weight": FACTORS["b"]}
    with pytest.raises(ConversionError) as error:
        adapters(state, {"unet": small.UNET_CONFIG})
    assert "no layer nothing.lora_B.weight" in str(error.value) and f"missing b of {QUERY}" in str(
        error.value
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Stable Diffusion as one file."""
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    save_file(small.stable_diffusion(), path)
    return path


@pytest.fixture(scope="module")
def converted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, converted."""
    folder = tmp_path_factory.mktemp("converted")
    convert_file(base, folder)
    return folder


def added(folder: Path, stem: str, converted: Path) -> Mapping[str, np.ndarray]:
    """What a conversion added to the arrays of a base's network."""
    before, after = (
        load_file(converted / f"{stem.split('_')[0]}.safetensors"),
        load_file(folder / f"{stem}.safetensors"),
    )
    assert before.keys() == after.keys()
    return {path: after[path] - before[path] for path in before if np.any(after[path] != before[path])}


@pytest.mark.parametrize("alpha, scale", [(None, 2.0), (1.0, 0.25)])
def test_a_lora_is_merged_with_alpha_over_rank(
    tmp_path: Path, base: Path, converted: Path, alpha: float | None, scale: float
) -> None:
    """Of a checkpoint and of converted weights alike; a block of the text tower, whose parts are joined, too."""
    text = "text_encoder.text_model.encoder.layers.1.self_attn.k_proj"
    wide = {k: RNG.standard_normal(s, np.float32) for k, s in (("A", (4, 64)), ("B", (64, 4)))}
    state = spelled("diffusers") | {f"{text}.lora_{k}.weight": x for k, x in wide.items()}
    save_file(state, tmp_path / "style.safetensors")
    for number, source in enumerate((base, converted)):
        folder = tmp_path / str(number)
        entries = convert_adapted(tmp_path / "style.safetensors", source, folder, alpha=alpha)
        assert [entry.module for entry in entries] == ["unet_style", "text_style"]
        unet, tower = (added(folder, entry.module, converted) for entry in entries)
        path = places("unet", small.UNET_CONFIG)[QUERY].path
        assert len(unet) == 2
        wanted = scale * (FACTORS["b"] @ FACTORS["a"]).T
        np.testing.assert_allclose(unet[f"{path}/kernel"], wanted, atol=1e-5)
        (joined,) = tower.values()
        np.testing.assert_allclose(joined[1, :, 64:128], scale * (wide["B"] @ wide["A"]).T, atol=1e-5)
        assert not joined[0].any() and not joined[1, :, :64].any() and not joined[1, :, 128:].any()


def test_factors_are_kept_and_become_the_same_file_again(tmp_path: Path, converted: Path) -> None:
    state = {f"{QUERY}.lora_{k}.mine.weight": x for k, x in zip("AB", FACTORS.values())}
    write_torch(tmp_path / "mine.pth", state)
    (entry,) = convert_adapted(tmp_path / "mine.pth", converted, tmp_path, keep=True)
    assert entry.module == "lora_mine" and entry.arrays == 3
    back = lora_state(tmp_path / "lora_mine.safetensors")
    assert {key: x.tobytes() for key, x in back.items()} == {key: x.tobytes() for key, x in state.items()}
    export_files(tmp_path / "lora_mine.safetensors", tmp_path / "out", "safetensors")
    again = load_file(tmp_path / "out" / "lora_mine.safetensors")
    assert {key: x.tobytes() for key, x in again.items()} == {key: x.tobytes() for key, x in state.items()}


def test_what_cannot_be_converted_is_refused(tmp_path: Path, base: Path, converted: Path) -> None:
    save_file(spelled("peft"), tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match="give that network as --base"):
        convert_file(tmp_path / "lora.safetensors", tmp_path)
    save_file({**load_file(base), **spelled("peft")}, tmp_path / "both.safetensors")
    with pytest.raises(CheckpointError, match="give that network as --base"):
        convert_file(tmp_path / "both.safetensors", tmp_path)
    with pytest.raises(CheckpointError, match=r"--base .*lora.safetensors: a LoRA"):
        convert_adapted(tmp_path / "lora.safetensors", tmp_path / "lora.safetensors", tmp_path)
    with pytest.raises(CheckpointError, match="is no LoRA and no known one-step restorer"):
        convert_adapted(base, converted, tmp_path)
    with pytest.raises(CheckpointError, match="has no unet.safetensors"):
        convert_adapted(tmp_path / "lora.safetensors", tmp_path, tmp_path)
    with pytest.raises(FileNotFoundError):
        convert_adapted(tmp_path / "absent.pth", base, tmp_path)
    other = {key: np.ones((4, 16) if "_A." in key else (16, 4), np.float32) for key in spelled("peft")}
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(ConversionError, match="is it of another"):
        convert_adapted(tmp_path / "other.safetensors", converted, tmp_path)
    assert not list(tmp_path.glob("unet*"))


@pytest.mark.slow
def test_merged_kernels_are_the_reference_s() -> None:
    assert misses(GOLDEN, "onestep_small:hypir|merged|*") == []
