"""The diffusers layout, from folders written here; tests/peers has folders that diffusers writes."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffbir_jax.conversion.diffusers import read_folder, weight_files
from diffbir_jax.conversion.engine import ConversionError
from diffbir_jax.conversion.files import CheckpointError
from diffbir_jax.conversion.from_torch import convert_file
from diffbir_jax.conversion.report import sha256_of
from tests.conversion import small

# The networks here are small.
pytestmark = pytest.mark.filterwarnings("ignore:.*right for a network of your own")

MODELS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


def save(state, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: np.ascontiguousarray(x) for key, x in state.items()}, path)


@pytest.fixture
def folder(tmp_path):
    for name, state in small.diffusers_parts().items():
        save(state, tmp_path / "sd" / name / f"{MODELS[name]}.safetensors")
    return tmp_path / "sd"


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """The same weights, converted from the original layout."""
    path = tmp_path_factory.mktemp("original")
    save_file(small.stable_diffusion(), path / "x.safetensors")
    convert_file(path / "x.safetensors", path)
    return {name: load_file(path / f"{name}.safetensors") for name in ("unet", "vae", "text")}


def assert_converts(folder, wanted):
    out = folder.parent / "out"
    entries = convert_file(folder, out)
    assert [entry.module for entry in entries] == list(wanted)
    for name, arrays in wanted.items():
        stored = load_file(out / f"{name}.safetensors")
        assert stored.keys() == arrays.keys()
        for key, x in arrays.items():
            np.testing.assert_array_equal(stored[key], x)


def edit(path, change):
    """Rewrite a file with changed keys."""
    save({change(key): x for key, x in load_file(path).items()}, path)


def test_both_layouts_give_the_same(folder, wanted):
    assert_converts(folder, wanted)


def test_shards(folder, wanted):
    """As diffusers writes them, beside stale copies in other precisions, which are left alone."""
    part = folder / "unet"
    whole = part / "diffusion_pytorch_model.safetensors"
    state = load_file(whole)
    weight_map = {key: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, key in enumerate(state)}
    for name in set(weight_map.values()):
        save({key: state[key] for key, shard in weight_map.items() if shard == name}, part / name)
    index = part / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    whole.unlink()
    save({"conv_in.weight": np.zeros(1)}, part / "diffusion_pytorch_model.fp16.safetensors")
    assert_converts(folder, wanted)
    (part / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match="index.json names model-00001-of-00002.safetensors, which is missing"
    ):
        read_folder(folder)
    index.unlink()  # without the index, the keys tell
    with pytest.raises(ConversionError, match="missing unet."):
        convert_file(folder, folder / "out")


def shard(part, names, index):
    """Split the weights of a folder into files of these names, and write their index."""
    state = load_file(part / f"{MODELS[part.name]}.safetensors")
    weight_map = {key: names[i % len(names)] for i, key in enumerate(state)}
    for name in names:
        save({key: state[key] for key in state if weight_map[key] == name}, part / name)
    (part / index).write_text(json.dumps({"weight_map": weight_map}))
    return names


def test_an_index_stands_for_its_files(tmp_path):
    state = small.swinir()
    save(state, tmp_path / "unet" / f"{MODELS['unet']}.safetensors")
    names = shard(tmp_path / "unet", ["m-1.safetensors", "m-2.safetensors"], "m.safetensors.index.json")
    index = tmp_path / "unet" / "m.safetensors.index.json"
    (entry,) = convert_file(index, tmp_path / "out")
    convert_file(tmp_path / "unet" / f"{MODELS['unet']}.safetensors", tmp_path / "whole")
    parts, whole = (load_file(tmp_path / place / "swinir.safetensors") for place in ("out", "whole"))
    assert all(np.array_equal(parts[key], x) for key, x in whole.items()) and parts.keys() == whole.keys()
    origin = entry.details["source"]
    assert origin == {
        "file": index.name,
        "sha256": sha256_of(*(tmp_path / "unet" / name for name in names)),
    } | {"family": "SwinIR"}
    index.write_text(json.dumps({"weight_map": {"a": "m" * 300}}))
    with pytest.raises(CheckpointError, match=r"index.json names mmm.*\.\.\., which is missing"):
        convert_file(index, tmp_path / "out")
    index.write_text(json.dumps({"weight_map": {"a": "../m-1.safetensors"}}))
    with pytest.raises(
        CheckpointError, match="index.json names files in other folders; their place is beside"
    ):
        convert_file(index, tmp_path / "out")


# As different versions of diffusers and transformers call it.
INDICES = [
    "m.fp16.safetensors.index.json",
    "m.safetensors.index.fp16.json",
    "m.safetensors.fp16.index.json",
]


@pytest.mark.parametrize("index", INDICES)
def test_full_precision_comes_before_the_shards_of_a_variant(folder, index):
    part = folder / "unet"
    names = shard(part, ["m.fp16-00001-of-00002.safetensors", "m.fp16-00002-of-00002.safetensors"], index)
    whole = part / f"{MODELS['unet']}.safetensors"
    assert weight_files(part) == [whole]
    full = shard(part, ["z-00001-of-00001.safetensors"], "z.safetensors.index.json")
    assert weight_files(part) == [part / name for name in full]
    (part / "z.safetensors.index.json").unlink()
    for path in (whole, *(part / name for name in full)):
        path.unlink()
    save({"conv_in.weight": np.zeros(1)}, part / "m.non_ema.safetensors")
    assert weight_files(part) == [part / name for name in names]


def test_a_variant_is_read_where_there_is_nothing_else(folder, wanted):
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert_converts(folder, wanted)


def test_old_names_of_attention(folder, wanted):
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def old(key):
        for new, name in names.items():
            key = key.replace(f".attentions.0.{new}.", f".attentions.0.{name}.")
        return key

    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    edit(path, old)
    assert any(".proj_attn." in key for key in load_file(path))
    assert_converts(folder, wanted)


def test_names_of_transformers_5(folder, wanted):
    edit(folder / "text_encoder" / "model.safetensors", lambda key: key.removeprefix("text_model."))
    assert_converts(folder, wanted)


def test_what_is_missing_is_named(folder):
    edit(
        folder / "text_encoder" / "model.safetensors", lambda key: key.replace("1.self_attn.k_proj", "1.lost")
    )
    with pytest.raises(ConversionError) as error:
        convert_file(folder, folder / "out")
    assert "missing text_encoder.text_model.encoder.layers.1.self_attn.in_proj_weight (192, 64)" in str(
        error.value
    )
    assert "unexpected text_encoder.text_model.encoder.layers.1.lost.bias (64,)" in str(error.value)


def test_integers_do_not_hide_where_arrays_are_joined(folder):
    path, key = (
        folder / "text_encoder" / "model.safetensors",
        "text_model.encoder.layers.1.self_attn.k_proj.bias",
    )
    state = load_file(path)
    save(state | {key: np.ones(64, np.int8)}, path)
    with pytest.raises(ConversionError, match=r"layers.1.self_attn.in_proj_bias: stored as int8"):
        convert_file(folder, folder / "out")


def test_incomplete_folders(folder, tmp_path):
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="vae holds no .safetensors and no .bin file"):
        read_folder(folder)
    with pytest.raises(
        CheckpointError, match="is not a diffusers folder: it has no unet/, vae/, text_encoder/"
    ):
        read_folder(tmp_path / "sd" / "unet")


@pytest.mark.parametrize("text", ["{}", "[]", "<html>", '{"weight_map": 3}'])
def test_damaged_indices(folder, text):
    (folder / "unet" / "m.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match="unet/m.safetensors.index.json is no index of shards"):
        read_folder(folder)


@pytest.mark.parametrize("name, suffix", [("sd2.1-zsnr", "_zsnr"), ("SD2.1-zsnr", "_zsnr"), ("sd2", "")])
def test_a_folder_goes_by_the_name_of_the_published_file(folder, name, suffix, monkeypatch):
    """The zero-SNR fine-tune must not pass for Stable Diffusion 2.1."""
    small.publish(monkeypatch)
    published = {"sd2.1-zsnr.ckpt": ("unet_zsnr", "vae_zsnr", "text_zsnr")}
    entries = convert_file(folder.rename(folder.parent / name), folder.parent / "out", published=published)
    assert [entry.module for entry in entries] == [f"{stem}{suffix}" for stem in ("unet", "vae", "text")]


def test_a_part_of_the_folder_is_never_replaced(folder):
    path = folder / "unet" / f"{MODELS['unet']}.safetensors"
    path = path.rename(path.with_name("unet.safetensors"))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="unet.safetensors would be replaced while it is read"):
        convert_file(folder, folder / "unet", overwrite=True)
    assert path.read_bytes() == before
