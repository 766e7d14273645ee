import hashlib
import json
import weakref

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffbir_jax.console.errors import UserError
from diffbir_jax.conversion import from_torch
from diffbir_jax.conversion.architectures import SWINIR
from diffbir_jax.conversion.engine import ConversionError, convert
from diffbir_jax.conversion.files import CheckpointError
from diffbir_jax.conversion.from_torch import convert_file
from diffbir_jax.conversion.to_torch import export_files
from diffbir_jax.weights.safetensors import load_weights, read_metadata
from tests.conversion import small
from tests.models import reference

# The networks here are small.
pytestmark = pytest.mark.filterwarnings("ignore:.*right for a network of your own")

BSRNET = small.FAMILIES["BSRNet"][0]


@pytest.fixture
def source(tmp_path):
    """A BSRNet."""
    save_file(BSRNET(), tmp_path / "BSRNet.safetensors")
    return tmp_path / "BSRNet.safetensors"


# Stable Diffusion's networks are converted in other tests, too.
SLOW = {"Stable Diffusion 2.1"}


@pytest.mark.parametrize(
    "title",
    [pytest.param(each, marks=[pytest.mark.slow] if each in SLOW else []) for each in small.FAMILIES],
)
def test_files_of_every_family(tmp_path, title):
    make, stems = small.FAMILIES[title]
    save_file(make(), tmp_path / "x.safetensors")
    entries = convert_file(tmp_path / "x.safetensors", tmp_path / "out")
    assert [entry.module for entry in entries] == stems
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.json",
        *(f"{stem}.safetensors" for stem in stems),
    }
    for entry in entries:
        path = tmp_path / "out" / f"{entry.module}.safetensors"
        stored = load_file(path)
        assert entry.arrays == len(stored)
        assert entry.parameters == sum(x.size for x in stored.values())
        assert entry.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert {str(x.dtype) for x in stored.values()} == {entry.dtype} == {"float32"}


def test_values_are_those_of_the_engine(tmp_path):
    """Stacked blocks included, which are written one by one."""
    save_file(small.swinir(), tmp_path / "x.safetensors")
    convert_file(tmp_path / "x.safetensors", tmp_path)
    config = reference.SWINIR
    target = SWINIR.abstract(config)
    wanted = convert(small.swinir(), list(SWINIR.rules(config)), target, SWINIR.ignore(config))
    read = load_weights(tmp_path / "swinir.safetensors", target)
    np.testing.assert_array_equal(
        read["groups"]["block_0"]["fc1"]["kernel"], wanted["groups"]["block_0"]["fc1"]["kernel"]
    )
    np.testing.assert_array_equal(read["conv_first"]["kernel"], wanted["conv_first"]["kernel"])


def test_the_header_describes_the_network(tmp_path):
    save_file(small.swinir(), tmp_path / "x.safetensors")
    convert_file(tmp_path / "x.safetensors", tmp_path)
    header = read_metadata(tmp_path / "swinir.safetensors")
    assert header["family"] == "swinir"
    assert SWINIR.revive(header["config"]) == reference.SWINIR


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_precision(tmp_path, source, dtype):
    convert_file(source, tmp_path / "out", dtype=dtype)
    stored = load_file(tmp_path / "out" / "bsrnet.safetensors")
    assert {str(x.dtype) for x in stored.values()} == {dtype}
    bias = BSRNET()["conv_first.bias"]
    np.testing.assert_array_equal(
        stored["conv_first/bias"].astype(np.float32), bias.astype(dtype).astype(np.float32)
    )


def test_half_precision_sources(tmp_path):
    save_file({key: x.astype("bfloat16") for key, x in BSRNET().items()}, tmp_path / "x.safetensors")
    convert_file(tmp_path / "x.safetensors", tmp_path / "a")
    convert_file(tmp_path / "x.safetensors", tmp_path / "b", dtype="bfloat16")
    a, b = (load_file(tmp_path / name / "bsrnet.safetensors") for name in "ab")
    assert str(a["conv_last/bias"].dtype) == "float32"
    for key, x in a.items():
        np.testing.assert_array_equal(x, b[key].astype(np.float32))


@pytest.mark.parametrize(
    "name, published, wanted",
    [
        (None, {"other.safetensors": ("bsrnet_other",)}, "bsrnet"),
        (None, {"bsrnet.safetensors": ("bsrnet_known",)}, "bsrnet_known"),
        (None, {"bsrnet.pth": ("bsrnet_known",)}, "bsrnet_known"),
        ("mine", {"bsrnet.safetensors": ("bsrnet_known",)}, "mine"),
    ],
)
def test_published_files_and_the_user_give_names(tmp_path, source, name, published, wanted, monkeypatch):
    small.publish(monkeypatch)
    assert [entry.module for entry in convert_file(source, tmp_path, name, published)] == [wanted]
    assert (tmp_path / f"{wanted}.safetensors").is_file()


@pytest.mark.parametrize(
    "title, block", [("BSRNet", "RRDB_trunk.1."), ("SwinIR", "layers.1."), ("SCUNet", "m_body.1.")]
)
def test_published_files_must_be_whole(tmp_path, title, block, monkeypatch):
    """Without its last block a file looks like a smaller network."""
    small.publish(monkeypatch)
    make, (stem,) = small.FAMILIES[title]
    whole = make()
    state = {key: x for key, x in whole.items() if not key.startswith(block)}
    assert len(state) < len(whole)
    save_file(state, tmp_path / "Known.safetensors")
    with pytest.raises(ConversionError) as error:
        convert_file(tmp_path / "Known.safetensors", tmp_path, published={"known.pth": (stem,)})
    head, *problems = str(error.value).splitlines()
    assert "does not fit the published network (rename the file if it is another one)" in head
    assert all(line.startswith(f"  missing {block}") for line in problems)
    with pytest.warns(UserWarning, match=f"{stem} has .* right for a network of your own"):
        convert_file(tmp_path / "Known.safetensors", tmp_path)


def test_names_of_other_published_networks_demand_nothing(tmp_path, source):
    (entry,) = convert_file(source, tmp_path, published={"bsrnet.pth": ("swinir_known",)})
    assert entry.module == "bsrnet"


def test_reports_of_one_folder_add_up(tmp_path, source):
    save_file(small.swinir(), tmp_path / "x.safetensors")
    convert_file(source, tmp_path / "out")
    entry = convert_file(tmp_path / "x.safetensors", tmp_path / "out")[0]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report) == ["bsrnet", "swinir"]
    origin = hashlib.sha256((tmp_path / "x.safetensors").read_bytes()).hexdigest()
    assert report["swinir"]["source"] == {"file": "x.safetensors", "sha256": origin, "family": "SwinIR"}
    assert report["swinir"]["sha256"] == entry.sha256
    assert report["swinir"]["config"]["embed_dim"] == 24
    (tmp_path / "out" / "report.json").write_text("{")
    with pytest.raises(ValueError, match="report.json is damaged .*: remove it"):
        convert_file(source, tmp_path / "out", overwrite=True)


def test_existing_files_are_kept(tmp_path, source):
    convert_file(source, tmp_path / "out")
    (tmp_path / "out" / "bsrnet.safetensors").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="bsrnet.safetensors exists: give --overwrite"):
        convert_file(source, tmp_path / "out")
    assert (tmp_path / "out" / "bsrnet.safetensors").read_bytes() == b"precious"
    convert_file(source, tmp_path / "out", overwrite=True)
    assert load_file(tmp_path / "out" / "bsrnet.safetensors")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_source_is_never_replaced(tmp_path, source, overwrite):
    before = source.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(
        ValueError, match="BSRNet.safetensors would be replaced while it is read: give another"
    ):
        convert_file(source, tmp_path / "link", "BSRNet", overwrite=overwrite)
    assert source.read_bytes() == before


def test_an_output_that_is_a_file(tmp_path, source):
    with pytest.raises(NotADirectoryError, match="BSRNet.safetensors is a file: give a folder"):
        convert_file(source, source)


@pytest.mark.parametrize("name", ["report.json", "bsrnet.safetensors"])
def test_a_folder_in_the_place_of_an_output(tmp_path, source, name):
    (tmp_path / "out" / name).mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match=f"{name} is a folder: remove it, or give another --output"):
        convert_file(source, tmp_path / "out", overwrite=True)
    assert [path.name for path in (tmp_path / "out").rglob("*")] == [name]


def test_nothing_is_left_if_the_report_cannot_be_written(tmp_path, source, monkeypatch):
    def fails(folder, report):
        raise OSError("disk full")

    monkeypatch.setattr(from_torch, "write_report", fails)
    with pytest.raises(OSError, match="disk full"):
        convert_file(source, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_home_folder_is_understood(tmp_path, source, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    convert_file(source, "~/out")
    export_files(tmp_path / "out" / "bsrnet.safetensors", "~/back", "safetensors")
    assert (tmp_path / "back" / "bsrnet.safetensors").is_file()


def test_nothing_is_written_unless_everything_fits(tmp_path):
    state = small.stable_diffusion()
    del state["cond_stage_model.model.ln_final.bias"]
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(ConversionError, match="missing cond_stage_model.model.ln_final.bias"):
        convert_file(tmp_path / "x.safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_values_must_be_finite(tmp_path):
    """In whichever network; nothing moves before all values were seen."""
    state = {key: x.copy() for key, x in small.stable_diffusion().items()}
    damaged = (
        "first_stage_model.quant_conv.bias",
        "cond_stage_model.model.transformer.resblocks.1.ln_1.bias",
    )
    for key in damaged:
        state[key][0] = np.nan
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(ConversionError) as error:
        convert_file(tmp_path / "x.safetensors", tmp_path / "out")
    assert str(error.value).splitlines()[1:] == [
        f"  not finite {key}: 1 of {state[key].size} values" for key in damaged
    ]
    assert list((tmp_path / "out").iterdir()) == []


def test_nothing_is_left_of_what_fails_midway(tmp_path, monkeypatch):
    """The first network is complete when the second one fails."""
    save_file(small.stable_diffusion(), tmp_path / "x.safetensors")

    def fails(state, rule, read=convert.__globals__["read"]):
        if rule.key.startswith("first_stage_model.decoder"):
            raise OSError("disk full")
        return read(state, rule)

    monkeypatch.setattr("diffbir_jax.conversion.from_torch.read", fails)
    with pytest.raises(OSError, match="disk full"):
        convert_file(tmp_path / "x.safetensors", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_arrays_are_forgotten_when_they_are_written(tmp_path, monkeypatch):
    """What bounds the memory: hardly more than the largest array is held, whatever the file's size."""
    save_file(small.all_in_one(), tmp_path / "x.safetensors")
    alive: list[weakref.ref] = []

    def watched(state, rule, read=from_torch.read):
        assert sum(ref() is not None for ref in alive) <= 2
        array = read(state, rule)
        alive.append(weakref.ref(array))
        return array

    monkeypatch.setattr(from_torch, "read", watched)
    convert_file(tmp_path / "x.safetensors", tmp_path / "out")
    assert len(alive) > 1000


@pytest.mark.parametrize("name", ["../escaped", "a/b", "/tmp/absolute", "..", ".hidden"])
def test_names_are_no_paths(tmp_path, source, name):
    with pytest.raises(ValueError, match="is no name of a file: give --name without folders"):
        convert_file(source, tmp_path / "out", name)
    assert not (tmp_path / "out").exists()


def test_a_name_too_long_is_told_first(tmp_path, source):
    with pytest.raises(UserError, match="too long for the file system; give a shorter --name"):
        convert_file(source, tmp_path / "out", "x" * 240)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("header", [None, {"preset": "tiny", "objective": "rm"}])
def test_what_is_converted_is_not_converted_again(tmp_path, source, header):
    """By the header of a conversion, and of a training."""
    convert_file(source, tmp_path / "out", "rm")
    path = tmp_path / "out" / "rm.safetensors"
    if header:
        save_file(load_file(path), path, header)
    with pytest.raises(
        CheckpointError, match="rm.safetensors is converted already: use it as it is; --to-torch"
    ):
        convert_file(path, tmp_path / "again")


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file and no folder .*absent.pth$"):
        convert_file(tmp_path / "absent.pth", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no file and no folder absent; .* pip install --no-deps"):
        convert_file("absent", tmp_path / "out")
    save_file({"a": np.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="unknown family of weights"):
        convert_file(tmp_path / "x.safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()
