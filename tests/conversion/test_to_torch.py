"""Weights of ours as checkpoints of the reference: a round trip changes no bit."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import diffbir_jax
from diffbir_jax.conversion.abstract import abstract_controlnet
from diffbir_jax.conversion.architectures import CONTROL, SWINIR
from diffbir_jax.conversion.engine import convert
from diffbir_jax.conversion.from_torch import convert_file
from diffbir_jax.conversion.to_torch import export_files, swinir_buffers
from diffbir_jax.models.presets import PRESETS
from diffbir_jax.models.swinir import SwinIRConfig
from diffbir_jax.weights.safetensors import flatten, load_weights, save_weights
from tests.conversion import small
from tests.models import reference

# The networks here are small.
pytestmark = pytest.mark.filterwarnings("ignore:.*right for a network of your own")

REFERENCE = {title: small.FAMILIES[title] for title in ("IRControlNet", "SwinIR", "BSRNet", "SCUNet")}
TINY = Path(diffbir_jax.__file__).parent / "pretrained" / "tiny"


def assert_identical(a, b):
    assert a.keys() == b.keys()
    for key, x in a.items():
        assert (x.dtype, x.shape) == (b[key].dtype, b[key].shape), key
        assert x.tobytes() == b[key].tobytes(), key


def there_and_back(state, folder, file_format="safetensors", **options):
    save_file(state, folder / "x.safetensors")
    (entry,) = convert_file(folder / "x.safetensors", folder / "ours")
    export_files(folder / "ours" / f"{entry.module}.safetensors", folder / "back", file_format, **options)
    return folder / "back" / f"{options.get('name', entry.module)}.{file_format}"


@pytest.mark.parametrize("title", REFERENCE)
def test_a_round_trip_is_bit_exact(tmp_path, title):
    state = REFERENCE[title][0]()
    assert_identical(load_file(there_and_back(state, tmp_path)), state)


@pytest.mark.parametrize("title", REFERENCE)
def test_a_round_trip_through_pytorch_is_bit_exact(tmp_path, title):
    torch = pytest.importorskip("torch")
    state = REFERENCE[title][0]()
    torch.save({"state_dict": {key: torch.tensor(x) for key, x in state.items()}}, tmp_path / "x.ckpt")
    (entry,) = convert_file(tmp_path / "x.ckpt", tmp_path / "ours")
    export_files(tmp_path / "ours", tmp_path / "back")
    loaded = torch.load(tmp_path / "back" / f"{entry.module}.pth", weights_only=True)
    assert_identical({key: x.numpy() for key, x in loaded.items()}, state)


def test_realesrgan_goes_back_under_the_names_of_bsrnet(tmp_path):
    state = load_file(there_and_back(small.FAMILIES["Real-ESRGAN"][0](), tmp_path))
    assert state.keys() == small.FAMILIES["BSRNet"][0]().keys()


def test_constants_of_swinir():
    """The first and the last entry, computed by hand, and the symmetry of both."""
    buffers = swinir_buffers(SwinIRConfig(num_layers=1, depth=2))
    block = "layers.0.residual_group.blocks"
    assert buffers.keys() == {
        f"{block}.0.attn.relative_position_index",
        f"{block}.1.attn.relative_position_index",
        f"{block}.1.attn_mask",
    }
    index, mask = buffers[f"{block}.1.attn.relative_position_index"], buffers[f"{block}.1.attn_mask"]
    assert (index.dtype, index.shape) == (np.int64, (64, 64))
    # Offsets run from (-7, -7) to (7, 7), row by row.
    assert (index[0, 63], index[0, 0], index[63, 0]) == (0, 7 * 15 + 7, 224)
    np.testing.assert_array_equal(index + index.T, 224)
    assert (mask.dtype, mask.shape) == (np.float32, (64, 64, 64))
    np.testing.assert_array_equal(mask, mask.transpose(0, 2, 1))
    # Inner windows see all of themselves; of the last one, each quarter sees itself.
    assert not mask[0].any()
    assert (mask[63] == 0).sum() == 4 * 16**2
    assert (mask[7] == 0).sum() == 2 * 32**2
    assert set(np.unique(mask)) == {-100.0, 0.0}


def test_folders(tmp_path):
    """Every network that the reference has a layout for is taken, others stay and are named."""
    save_file(small.all_in_one(), tmp_path / "x.safetensors")
    convert_file(tmp_path / "x.safetensors", tmp_path / "ours")
    with pytest.warns(
        UserWarning, match="left out, .*: text.safetensors, unet.safetensors, vae.safetensors$"
    ):
        entries = export_files(tmp_path / "ours", tmp_path / "back", "safetensors")
    assert [entry.module for entry in entries] == ["control", "swinir"]
    state = load_file(tmp_path / "back" / "swinir.safetensors")
    assert_identical(state, small.swinir())
    trained = sum(x.size for x in load_file(tmp_path / "ours" / "swinir.safetensors").values())
    assert (entries[1].arrays, entries[1].parameters) == (len(state), trained)
    assert trained < sum(x.size for x in state.values())  # it has buffers


@pytest.mark.parametrize("module, kind", [("rm", SWINIR), ("control", CONTROL)])
@pytest.mark.parametrize("stem", ["", "renamed"])
@pytest.mark.parametrize("written", ["now", "before", "at first"])
def test_what_train_py_wrote(tmp_path, module, kind, stem, written, monkeypatch):
    """Its header describes the network; once it named the preset and the stage, and at first the preset alone."""
    preset = PRESETS["v1"].__class__("small", reference.SWINIR, reference.VAE, small.UNET_CONFIG)
    monkeypatch.setitem(PRESETS, "small", preset)
    header = {"preset": "small"} | ({} if written == "at first" else {"objective": module})
    header |= preset.header(module) if written == "now" else {}
    config = preset.rm if module == "rm" else preset.unet
    params = jax.tree.map(lambda x: np.full(x.shape, 0.5, np.float32), kind.abstract(config))
    path = save_weights(tmp_path / f"{stem or module}.safetensors", params, header)
    if stem and written == "at first":
        with pytest.raises(ValueError, match="does not say its family"):
            export_files(path, tmp_path / "back", "safetensors")
        return
    export_files(path, tmp_path / "back", "safetensors", name="mine")
    state = load_file(tmp_path / "back" / "mine.safetensors")
    wanted = small.swinir() if module == "rm" else small.weights(CONTROL, config)
    assert {key: x.shape for key, x in state.items()} == {key: x.shape for key, x in wanted.items()}


def test_precision(tmp_path):
    state = load_file(there_and_back(small.swinir(), tmp_path, dtype="bfloat16"))
    assert {str(x.dtype) for x in state.values()} == {"bfloat16", "float32", "int64"} - {"float32"}


def test_existing_files_are_kept(tmp_path):
    path = there_and_back(small.FAMILIES["BSRNet"][0](), tmp_path)
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="bsrnet.safetensors exists: give --overwrite"):
        export_files(tmp_path / "ours", tmp_path / "back", "safetensors")
    assert path.read_bytes() == b"precious"


def test_a_folder_in_the_place_of_an_output(tmp_path):
    path = there_and_back(small.FAMILIES["BSRNet"][0](), tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError, match="bsrnet.safetensors is a folder: remove it, or give another"):
        export_files(tmp_path / "ours", tmp_path / "back", "safetensors", overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_source_is_never_replaced(tmp_path, overwrite):
    there_and_back(small.FAMILIES["BSRNet"][0](), tmp_path)
    path = tmp_path / "ours" / "bsrnet.safetensors"
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match="bsrnet.safetensors would be replaced while it is read: give another"
    ):
        export_files(tmp_path / "ours", tmp_path / "ours", "safetensors", overwrite=overwrite)
    assert path.read_bytes() == before


def test_the_tiny_preset(tmp_path):
    """Its IRControlNet, of 16 hint channels, goes there and back; its restoration module has no layout."""
    with pytest.warns(UserWarning, match="left out, .*: rm.safetensors, unet.safetensors, vae.safetensors$"):
        (entry,) = export_files(TINY, tmp_path, "safetensors")
    preset = PRESETS["tiny"]
    target = abstract_controlnet(preset.unet, preset.vae.embed_dim)
    ours = load_weights(TINY / "control.safetensors", target)
    back = convert(load_file(tmp_path / "control.safetensors"), list(CONTROL.rules(preset.unet)), target)
    assert entry.module == "control"
    assert_identical(flatten(back), flatten(ours))


def test_what_has_no_layout_in_the_reference(tmp_path):
    path = save_weights(tmp_path / "in" / "rm.safetensors", {"a": np.zeros(1)}, {"preset": "tiny"})
    with pytest.raises(ValueError, match="has no layout in the reference.*known are control, swinir"):
        export_files(path, tmp_path / "out", "safetensors")
    with pytest.raises(ValueError, match="holds no restoration module and no IRControlNet"):
        export_files(path.parent, tmp_path / "out", "safetensors")
    with pytest.raises(FileNotFoundError, match="no weights at .*absent"):
        export_files(tmp_path / "absent", tmp_path / "out")


@pytest.mark.parametrize(
    "header, message",
    [
        ({"family": "swinir", "config": json.dumps({"side": 3})}, "does not describe a SwinIRConfig"),
        ({"family": "swinir", "config": "{"}, "does not describe a SwinIRConfig"),
        (
            {"family": "swinir", "config": json.dumps({"num_heads": 7})},
            "its header gives sizes that no network has",
        ),
        ({"family": "control", "config": "{}", "hint_channels": "many"}, "invalid literal .* 'many'"),
    ],
)
def test_damaged_headers(tmp_path, header, message):
    """A folder of many files: the message tells which one."""
    path = save_weights(tmp_path / "in" / "x.safetensors", {}, header)
    for source in (path, path.parent):
        with pytest.raises(ValueError, match=f"^{path}: .*{message}") as error:
            export_files(source, tmp_path / "out", "safetensors")
        assert "\n" not in str(error.value)
