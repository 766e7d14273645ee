import json
import os
import socket
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from diffbir_jax.conversion.contents import WRAPPERS, unwrap
from diffbir_jax.conversion.files import CheckpointError, read_contents, read_tensors
from diffbir_jax.conversion.torch_writing import Call
from tests.conversion import made

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def values(path):
    return {key: np.asarray(x).tolist() for key, x in read_tensors(path).items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_safetensors_are_read_on_demand_without_torch(tmp_path, dtype, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    save_file({"a": X.astype(dtype), "b": np.ones((), np.float32)}, tmp_path / "w.safetensors")
    state = read_tensors(tmp_path / "w.safetensors")
    assert {key: x.shape for key, x in state.items()} == {"a": (2, 3), "b": ()}
    assert np.asarray(state["a"]).dtype == dtype
    np.testing.assert_array_equal(np.asarray(state["a"]).astype(np.float32), X)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "control_model."])
def test_prefixes_of_all_keys_are_removed(tmp_path, prefix):
    save_file({f"{prefix}a": X, f"{prefix}b.c": X}, tmp_path / "w.safetensors")
    assert read_tensors(tmp_path / "w.safetensors").keys() == {"a", "b.c"}


def test_a_prefix_of_some_keys_stays(tmp_path):
    save_file({"module.a": X, "b": X}, tmp_path / "w.safetensors")
    assert read_tensors(tmp_path / "w.safetensors").keys() == {"module.a", "b"}


def test_wrappers():
    inner, older = {"a": X}, {"a": -X}
    assert unwrap(inner) is inner
    for wrapped in (
        {"state_dict": inner, "epoch": 3},
        {"params": inner},
        {"params": older, "params_ema": inner},
        {"model": {"state_dict": inner}},
    ):
        assert unwrap(wrapped) is inner
    assert unwrap({"model": X, "a": X}).keys() == {"model", "a"}  # an array of that name is no wrapper


@pytest.mark.parametrize("size", [4, 20, 70, -4])
def test_truncated_safetensors(tmp_path, size):
    save_file({"a": X}, tmp_path / "whole.safetensors")
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:size])
    with pytest.raises(
        CheckpointError, match="not a safetensors file, or it is truncated .*: fetch it again$"
    ):
        read_tensors(tmp_path / "w.safetensors")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "w.onnx").write_bytes(b"")
    with pytest.raises(CheckpointError, match="w.onnx: unknown kind of file; give a .safetensors, .ckpt"):
        read_tensors(tmp_path / "w.onnx")
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "absent.safetensors")


def test_fp8_safetensors_are_refused(tmp_path):
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(CheckpointError, match="w.safetensors: a is stored as F8_E4M3, which is not read"):
        read_tensors(tmp_path / "w.safetensors")


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("suffix", [".ckpt", ".pth", ".pt", ".bin", ".safetensors"])
def test_torch_files_are_read_on_demand_without_torch(tmp_path, suffix, modern, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    value = {"state_dict": {"module.a": X, "module.b": X.astype(jnp.bfloat16)}, "epoch": 3}
    state = read_tensors(made.write(tmp_path / f"w{suffix}", value, modern))
    np.testing.assert_array_equal(np.asarray(state["a"]), X)
    assert np.asarray(state["b"]).dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(state["b"]).astype(np.float32), X)


@pytest.mark.parametrize("name", ["w.pth", "w.ckpt", "w.dat", "w"])
def test_safetensors_under_another_name(tmp_path, name):
    save_file({"a": X}, tmp_path / name)
    assert values(tmp_path / name) == {"a": X.tolist()}


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 5214865159\n"


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("w.ckpt", LFS, "is a Git LFS pointer to 5,214,865,159 bytes, not the file itself: run git lfs pull"),
        ("w.safetensors", LFS, "is a Git LFS pointer"),
        ("w.pth", b"<!DOCTYPE html><html>Just a moment...</html>", "is a web page, not the file"),
        ("w.pth", b"\n <HTML><body>", "is a web page, not the file"),
        ("w.pth", b"Invalid username or password.", "is text, not weights \\('Invalid username"),
        ("w.pth", b'{"error": "Entry not found"}', "is text, not weights"),
        (
            "config.json",
            b'{"_class_name": "UNet2DConditionModel"}',
            r"is a description of a model \(JSON\), not its",
        ),
        ("w.npy", b"\x93NUMPY\1\0", "is a file of NumPy: give the weights as PyTorch or safetensors"),
        ("w.pth", b"", "is empty: fetch it again"),
        ("w.pth", b"\0" * 5000, "is full of zeros at its start"),
        ("w.pth", b"\x1f\x8b" + b"x" * 50, "is a gzip archive: unpack it"),
        ("w.pth", b"w" + b"\0" * 256 + b"ustar" + b"\0" * 99, "is a tar archive: unpack it"),
        ("w.pth.crdownload", b"PK\x03\x04", "is an unfinished download by name"),
        ("w.ckpt.part", b"", "is an unfinished download by name"),
        ("w.onnx", b"\x08\x07", "unknown kind of file; give a .safetensors, .ckpt"),
        ("w.pth", b"\x89PNG\r\n", "is a picture: give the weights as PyTorch or safetensors"),
        ("w.pth", b"\x89HDF\r\n", "is an HDF5 file"),
        ("w.pth", b"\x88\x77\x66", "is not a PyTorch checkpoint, or it is truncated"),
        ("w.pth", b"PK\x05\x06" + b"\0" * 18, "is a zip archive, but not one of PyTorch: it holds nothing"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=reason) as error:
        read_tensors(tmp_path / name)
    assert "\n" not in str(error.value)


def test_pipes_sockets_devices_and_folders_are_not_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "folder.pth").mkdir()
    monkeypatch.chdir(tmp_path)  # the names of sockets are short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket.pth")
        kinds = {
            "pipe.pth": "a pipe",
            "folder.pth": "a folder",
            "socket.pth": "a socket",
            os.devnull: "a device",
        }
        for name, kind in kinds.items():
            with pytest.raises(CheckpointError, match=f"{name} is {kind}, not a file: give the file with"):
                read_tensors(Path(name))


class TestWrappers:
    @pytest.mark.parametrize("name", WRAPPERS)
    def test_every_name(self, tmp_path, name):
        assert values(made.write(tmp_path / "w.pth", {name: {"a": X}, "iter": 5})) == {"a": X.tolist()}

    @pytest.mark.parametrize("ema", WRAPPERS[:4])
    @pytest.mark.parametrize("plain", WRAPPERS[4:])
    def test_averaged_weights_come_first_and_it_is_said(self, tmp_path, ema, plain):
        path = made.write(tmp_path / "w.pth", {plain: {"a": -X}, ema: {"a": X}})
        found = read_contents(path)
        np.testing.assert_array_equal(np.asarray(found.state["a"]), X)
        assert (
            found.notes[0]
            == f"takes the weights in {ema!r}; the file also has {plain} (--key NAME takes another)"
        )
        np.testing.assert_array_equal(np.asarray(read_contents(path, plain).state["a"]), -X)

    def test_dicts_without_tensors_are_no_weights(self, tmp_path):
        value = {"params": {"lr": 1e-4}, "ema": {"decay": 0.999}, "model": {"state_dict": {"a": X}}}
        assert values(made.write(tmp_path / "w.pth", value)) == {"a": X.tolist()}

    def test_one_dict_of_any_name(self, tmp_path):
        assert values(made.write(tmp_path / "w.pth", {"weights_of_mine": {"a": X}})) == {"a": X.tolist()}

    def test_several_are_asked_for(self, tmp_path):
        path = made.write(tmp_path / "w.pth", {"one": {"a": X}, "two": {"a": -X, "b": {"c": X}}})
        with pytest.raises(
            CheckpointError, match="several dicts of tensors, one, two: choose one with --key NAME"
        ):
            read_tensors(path)
        assert list(read_contents(path, "two").state) == ["a"]
        assert list(read_contents(path, "two.b").state) == ["c"]
        with pytest.raises(CheckpointError, match="there is no --key two.d; at 'd' there are: a, b"):
            read_contents(path, "two.d")
        with pytest.raises(CheckpointError, match="--key two.a is no dict of tensors"):
            read_contents(path, "two.a")

    def test_a_key_means_nothing_in_safetensors(self, tmp_path):
        save_file({"a": X}, tmp_path / "w.safetensors")
        with pytest.raises(CheckpointError, match="no dicts inside: leave --key out"):
            read_contents(tmp_path / "w.safetensors", "params")

    def test_whole_objects(self, tmp_path):
        model = Call("basicsr.archs", "SwinIR", (), {"training": False})
        with pytest.raises(
            CheckpointError, match="model is an object of basicsr.archs.SwinIR: save its state_dict"
        ):
            read_tensors(made.write(tmp_path / "w.pth", {"model": model}))
        with pytest.raises(CheckpointError, match="holds a whole object of the class basicsr.archs.SwinIR"):
            read_tensors(made.write(tmp_path / "w.pth", model))

    def test_wrappers_in_wrappers(self, tmp_path):
        value = {"model": {"net_g": {"a": X}, "net_d": {"b": X}, "lr": 1e-4}, "iter": 5}
        found = read_contents(made.write(tmp_path / "w.pth", value))
        assert list(found.state) == ["a"]
        assert found.notes == (
            "takes the weights in 'net_g'; the file also has net_d (--key NAME takes another)",
            "left out beside the weights: iter, lr",
        )
        assert list(read_contents(tmp_path / "w.pth", "model.net_d").state) == ["b"]

    @pytest.mark.parametrize("name", ["a\nb", "a" * 501])
    def test_keys_that_are_no_names(self, tmp_path, name):
        with pytest.raises(CheckpointError, match="is no name of a weight: the file is damaged") as error:
            read_tensors(made.write(tmp_path / "w.pth", {name: X}))
        assert "\n" not in str(error.value) and len(str(error.value)) < 300

    def test_a_dict_in_itself(self):
        state: dict = {"a": X}
        state["state_dict"] = state
        assert unwrap(state) is state


class TestTorch:
    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch")

    @pytest.mark.parametrize("suffix", [".ckpt", ".pth", ".pt", ".bin"])
    @pytest.mark.parametrize("modern", [True, False])
    def test_state_dicts(self, torch, tmp_path, suffix, modern):
        tensors = {"module.a": torch.tensor(X), "module.b": torch.nn.Parameter(torch.tensor(X).T)}
        path = tmp_path / f"w{suffix}"
        torch.save({"state_dict": tensors, "global_step": 7}, path, _use_new_zipfile_serialization=modern)
        assert values(path) == {"a": X.tolist(), "b": X.T.tolist()}

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int64"])
    def test_precisions(self, torch, tmp_path, dtype):
        torch.save({"a": torch.tensor(X).to(getattr(torch, dtype)).T}, tmp_path / "w.pth")
        x = np.asarray(read_tensors(tmp_path / "w.pth")["a"])
        assert str(x.dtype) == dtype
        np.testing.assert_array_equal(x.astype(np.float32), X.T)

    @pytest.mark.parametrize("modern", [True, False])
    def test_classes_beside_the_weights(self, torch, tmp_path, modern):
        torch.save(
            {"state_dict": {"a": torch.tensor(X)}, "callbacks": {"x": json.JSONDecoder}},
            tmp_path / "w.ckpt",
            _use_new_zipfile_serialization=modern,
        )
        found = read_contents(tmp_path / "w.ckpt")
        assert list(found.state) == ["a"]
        assert found.notes[-1] == "objects of these classes were not built: json.decoder.JSONDecoder"

    @pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
    @pytest.mark.parametrize("modern", [True, False])
    def test_truncated(self, torch, tmp_path, share, modern):
        whole, path = tmp_path / "whole", tmp_path / "w.pth"
        torch.save({"a": torch.zeros(1000)}, whole, _use_new_zipfile_serialization=modern)
        data = whole.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(
            CheckpointError, match="w.pth is (not a PyTorch checkpoint, or it is )?truncated"
        ) as e:
            read_tensors(path)
        assert "\n" not in str(e.value)

    def test_no_tensors(self, torch, tmp_path):
        torch.save({"epoch": 3}, tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match="w.pth holds no state dict"):
            read_tensors(tmp_path / "w.pth")

    def test_keys_that_are_no_names(self, torch, tmp_path):
        torch.save({0: torch.zeros(1)}, tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match="w.pth holds no state dict: no tensors by name"):
            read_tensors(tmp_path / "w.pth")

    def test_fp8_is_refused(self, torch, tmp_path):
        torch.save({"a": torch.zeros(2).to(torch.float8_e4m3fn)}, tmp_path / "w.pth")
        with pytest.raises(
            CheckpointError, match="w.pth: a is stored as .*loat8_e4m3fn.*, which is not read"
        ):
            read_tensors(tmp_path / "w.pth")

    @pytest.mark.parametrize("kind", ["sparse", "meta"])
    def test_tensors_without_plain_values_are_refused(self, torch, tmp_path, kind):
        x = torch.tensor(X).to_sparse() if kind == "sparse" else torch.tensor(X, device="meta")
        torch.save({"a": torch.zeros(1), "b": x}, tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match="w.pth: b is sparse or without values: save plain tensors"):
            read_tensors(tmp_path / "w.pth")

    def test_lazy_minus_signs(self, torch, tmp_path):
        x = torch.complex(torch.zeros(2, 3), torch.tensor(X)).conj().imag
        assert x.is_neg()
        torch.save({"a": x}, tmp_path / "w.pth")
        assert values(tmp_path / "w.pth") == {"a": (-X).tolist()}


@pytest.mark.parametrize("function", ["_rebuild_qtensor", "_rebuild_meta_tensor_no_storage"])
def test_tensors_of_other_kinds_are_named_even_if_there_are_no_others(tmp_path, function):
    made.write(tmp_path / "w.pth", {"state_dict": {"b": Call("torch._utils", function, ())}})
    kind = "quantised" if function == "_rebuild_qtensor" else "sparse or without values"
    with pytest.raises(CheckpointError, match=rf"holds no state dict.* \(b is {kind}: save plain tensors\)"):
        read_tensors(tmp_path / "w.pth")


def test_weights_deep_inside_are_found_for_the_user(tmp_path):
    made.write(tmp_path / "w.pth", {"trainer": {"saved": {"best": {"a": X}}}})
    with pytest.raises(
        CheckpointError, match=r"\(tensors are in trainer.saved.best: choose with --key NAME\)"
    ):
        read_contents(tmp_path / "w.pth")
    assert np.array_equal(read_contents(tmp_path / "w.pth", "trainer.saved.best").state["a"], X)


def test_a_header_whose_length_begins_like_a_pickle_is_no_pickle(tmp_path):
    """0x0280 bytes: little-endian, the file starts with the two bytes of protocol 2."""
    path = tmp_path / "x.safetensors"
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(0x280)
    path.write_bytes(len(header).to_bytes(8, "little") + header + np.float32(3).tobytes())
    assert np.asarray(read_tensors(path)["a"]) == [3.0]


@pytest.mark.parametrize("key", ["a\n\x1b[31mevil", "x" * 501])
def test_keys_that_no_network_has(tmp_path, key):
    save_file({key: X, "b": X}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="is no name of a weight: the file is damaged") as error:
        read_tensors(tmp_path / "w.safetensors")
    assert str(error.value).isprintable() and len(str(error.value)) < 300
