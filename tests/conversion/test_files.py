import json
import pickle
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from diffbir_jax.conversion.files import CheckpointError, read_tensors, unwrap

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
    with pytest.raises(CheckpointError, match="not a safetensors file, or it is truncated"):
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


def test_torch_is_asked_for_where_it_is_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "w.pth").write_bytes(b"")
    with pytest.raises(ImportError, match=r"pip install 'diffbir-jax\[convert\]'"):
        read_tensors(tmp_path / "w.pth")


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
    def test_arbitrary_unpickling_is_refused_with_the_reason(self, torch, tmp_path, modern):
        torch.save(
            {"state_dict": {"a": torch.tensor(X)}, "callbacks": {"x": json.JSONDecoder}},
            tmp_path / "w.ckpt",
            _use_new_zipfile_serialization=modern,
        )
        with pytest.raises(CheckpointError) as error:
            read_tensors(tmp_path / "w.ckpt")
        message = str(error.value)
        assert "w.ckpt is refused: reading its json.decoder.JSONDecoder takes arbitrary unpickling" in message
        assert "\n" not in message

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
    @pytest.mark.parametrize("modern", [True, False])
    def test_truncated(self, torch, tmp_path, share, modern):
        whole, path = tmp_path / "whole", tmp_path / "w.pth"
        torch.save({"a": torch.zeros(1000)}, whole, _use_new_zipfile_serialization=modern)
        data = whole.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(
            CheckpointError, match="w.pth is not a PyTorch checkpoint, or it is truncated"
        ) as e:
            read_tensors(path)
        assert "\n" not in str(e.value)

    @pytest.mark.parametrize("content", [b"<html>not found</html>", b"\x89PNG\r\n", pickle.dumps({"a": 1})])
    def test_no_checkpoint_at_all(self, torch, tmp_path, content):
        (tmp_path / "w.pth").write_bytes(content)
        with pytest.raises(CheckpointError, match="w.pth (is not a PyTorch checkpoint|holds no state dict)"):
            read_tensors(tmp_path / "w.pth")

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
        with pytest.raises(CheckpointError, match="w.pth: a is stored as float8_e4m3fn, which is not read"):
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
