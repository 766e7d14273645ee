"""The pickle machine, without PyTorch: it runs nothing, and no number in a file takes memory."""

import io
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from diffbir_jax.conversion.files import CheckpointError, read_contents, read_tensors
from diffbir_jax.conversion.pickled_arrays import Inert, storage_dtype
from diffbir_jax.conversion.pickles import load
from diffbir_jax.conversion.torch_files import MAGIC, PROTOCOL
from diffbir_jax.conversion.torch_writing import Call, Pickle, write_torch
from diffbir_jax.conversion.zips import entries
from scripts.checkpoint_forms import torch_script
from tests.conversion import made
from tests.conversion.made import X

VALUES = X.tobytes()
NAMES = ("archive/data.pkl", "archive/data/0")


def read(data: bytes):
    return load(io.BytesIO(data), {})


def archive(path, data, values=VALUES, names=NAMES, **more):
    with zipfile.ZipFile(path, "w", **more) as file:
        for name, content in zip(names, (data, values), strict=True):
            file.writestr(name, content)
    return path


class Evil:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_every_protocol(protocol):
    value = {
        "a": [1, -2, 1 << 70, 2.5, True, None],
        "b": ("t\u00e4xt\n", b"\x00\xff", (), (1, 2, 3, 4)),
        "c": {"x": {1, 2}, "y": frozenset({"z"}), 3: {}},
        "d": np.float64(0.5),
        "e": np.arange(6, dtype="<i2").reshape(2, 3),
        "f": np.asfortranarray(X).astype(">f4"),
    }
    found = read(pickle.dumps(value, protocol))
    assert {key: found[key] for key in "abcd"} == {key: value[key] for key in "abcd"}
    for key in "ef":
        np.testing.assert_array_equal(found[key].value, value[key])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_code_runs(tmp_path, protocol):
    found = read(pickle.dumps([Evil(tmp_path / "written"), 7], protocol))
    assert isinstance(found[0], Inert) and found[0].name.endswith("open")
    assert found[1] == 7
    assert not (tmp_path / "written").exists()


def test_inert_objects_keep_quiet():
    """Whatever a pickle does with them: calls, states, items, attributes of lists and dicts."""
    code = b"\x80\x02cnowhere\nThing\n)R}(K\x01K\x02ub(K\x01K\x02e(K\x01K\x02u(K\x05\x90K\x01a."
    assert read(code).name == "nowhere.Thing"
    for made_by in (
        b"(cnowhere\nThing\nK\x01o.",
        b"(K\x01inowhere\nThing\n.",
        b"cnowhere\nThing\n)}\x92.",
        b"cnowhere\nThing\n)\x81.",
    ):
        assert read(b"\x80\x04" + made_by).name == "nowhere.Thing"
    assert read(b"\x80\x04\x82\x07)R.").name == "extension 7"
    assert read(b"\x80\x02K\x01)R.").name == "?"


@pytest.mark.parametrize(
    "code",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02.",
        b"\x80\x02}",
        b"\x80\x02t.",
        b"\x80\x02}(K\x01u.",
        b"\x80\x02h\x05.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0fab.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fab.",
        b"\x80\x02\x8b\xff\xff\xff\x7fab.",
        b"\x80\x02T\xff\xff\xff\x7fab.",
        b"L" + b"9" * 5000 + b"L\n.",
        b"\x80\x02(" + b"K\x01" * 9 + b"00000000000t.",
        b"\x80\x02cos\nsystem\n",
        b"\xff\xff",
        b"\x80\x02)\x85R0000.",
    ],
)
def test_malformed_pickles_are_one_line(code):
    with pytest.raises(ValueError, match="^malformed pickle: ") as error:
        read(code)
    assert "\n" not in str(error.value)


def test_an_absurd_memo_takes_no_memory():
    tracemalloc.start()
    assert read(b"\x80\x02K\x07r\xff\xff\xff\x7f0j\xff\xff\xff\x7f.") == 7
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    "call", [b"ccollections\nOrderedDict\n", b"c__builtin__\nlist\n", b"c_codecs\nencode\n"]
)
def test_data_cannot_be_multiplied(call):
    """A long value that is named thousands of times, and copied each time."""
    text = b"X" + (60_000).to_bytes(4, "little") + b"a" * 60_000
    items = b"(" + b"K\x01" * 60_000 + b"l"
    value = text + b"X\x06\0\0\0latin1\x86" if b"codecs" in call else items + b"\x85"
    code = b"\x80\x02" + value + b"q\x000(" + (call + b"h\x00R") * 5000 + b"l."
    with pytest.raises(ValueError, match="the same data is used over and over"):
        read(code)


def test_keys_of_deep_tuples_do_not_end_the_process():
    deep = b")" + b"\x85" * 300_000
    found = read(b"\x80\x02}(" + deep + b"K\x01K\x02K\x03u.")
    assert found[2] == 3 and len(found) == 2


@pytest.mark.parametrize(
    "tensor, reason",
    [
        (made.tensor((2, 4), (4, 1)), "reaches element 7 of a storage with 6"),
        (made.tensor((2, 3), (3, 1), start=1), "reaches element 6 of a storage with 6"),
        (made.tensor((2,), (-1,)), "-1 is no size"),
        (made.tensor((-2,), (1,)), "-2 is no size"),
        (made.tensor((2,), (1,), start=-1), "-1 is no size"),
        (made.tensor((2, 3), (1,)), "differ in length"),
        (made.tensor((1,) * 40, (1,) * 40), "differ in length"),
        (made.tensor((1 << 80,), (0,)), "is no size"),
        (made.tensor(("a",), (1,)), "a is no size"),
        (made.tensor((1 << 40,), (0,)), "larger than the file"),
        (
            made.tensor((1 << 40,), (1,), count=1 << 40),
            "storage 0 has 24 bytes, 4,398,046,511,104 are needed",
        ),
        (made.tensor((7,), (1,), count=7), "storage 0 has 24 bytes, 28 are needed"),
        (made.tensor((1,), (1,), kind="system"), "is no storage"),
        (made.tensor((2,), (1,), count=2, kind="ComplexFloatStorage"), "a is stored as complex64"),
        (made.tensor((2,), (1,), kind="Float8_e4m3fnStorage"), "a is stored as Float8_e4m3fnStorage"),
        (Call("torch._utils", "_rebuild_tensor_v2", (1, 0, (), ())), "a tensor without a storage"),
        (Call("torch._utils", "_rebuild_sparse_tensor", ()), "holds no state dict"),
    ],
)
def test_tensors_that_cannot_be(tmp_path, tensor, reason):
    path = archive(tmp_path / "w.pth", made.Described().dump({"a": tensor}))
    with pytest.raises(CheckpointError, match=reason) as error:
        read_tensors(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("keys", [[], ["0", "0"], ["1"], 7])
def test_old_files_with_other_storages(tmp_path, keys):
    whole = made.write(tmp_path / "whole.pth", {"a": X}, modern=False).read_bytes()
    wanted = Pickle().dump(["0"])
    assert whole.count(wanted) == 1
    (tmp_path / "w.pth").write_bytes(whole.replace(wanted, Pickle().dump(keys)))
    with pytest.raises(CheckpointError, match="storage"):
        read_tensors(tmp_path / "w.pth")


def views() -> dict[str, Call]:
    return {
        "a": made.tensor((2, 3), (3, 1)),
        "b": made.tensor((3, 2), (1, 3)),
        "c": made.tensor((2,), (3,), 1),
    }


def test_views_share_their_storage(tmp_path):
    state = read_tensors(archive(tmp_path / "w.pth", made.Described().dump(views())))
    a, b, c = (np.asarray(state[key]) for key in "abc")
    np.testing.assert_array_equal(a, X)
    np.testing.assert_array_equal(b, X.T)
    np.testing.assert_array_equal(c, X[:, 1])
    assert np.shares_memory(a, b) and not a.flags.writeable


def test_the_other_byte_order(tmp_path):
    path, data = tmp_path / "w.pth", made.Described().dump(views())
    with zipfile.ZipFile(path, "w") as file:
        for name, content in zip((*NAMES, "archive/byteorder"), (data, X.astype(">f4").tobytes(), b"big")):
            file.writestr(name, content)
    np.testing.assert_array_equal(np.asarray(read_tensors(path)["b"]), X.T)


class TestZips:
    @pytest.fixture
    def data(self):
        return made.Described().dump({"a": made.tensor((2, 3), (3, 1))})

    def refused(self, path, reason):
        with pytest.raises(CheckpointError, match=reason) as error:
            read_tensors(path)
        assert "\n" not in str(error.value)

    def test_compressed(self, tmp_path, data):
        path = archive(tmp_path / "w.pth", data, compression=zipfile.ZIP_DEFLATED)
        self.refused(path, "data.pkl' is compressed in the zip archive, which PyTorch never does")

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_duplicated(self, tmp_path, data):
        names = (NAMES[0], NAMES[0])
        self.refused(archive(tmp_path / "w.pth", data, names=names), "two entries of one name")

    @pytest.mark.parametrize(
        "field, value, reason",
        [
            (20, 10_000, "has two sizes"),
            (24, 10_000, "has two sizes"),
            (42, 1, "not where the zip archive says"),
            (42, 0, "two entries at one place"),
        ],
    )
    def test_a_lying_directory(self, tmp_path, data, field, value, reason):
        """Sizes and places of the second entry, in the directory at the end."""
        path = archive(tmp_path / "w.pth", data)
        content = bytearray(path.read_bytes())
        at = content.rindex(b"PK\x01\x02") + field
        content[at : at + 4] = value.to_bytes(4, "little")
        path.write_bytes(content)
        self.refused(path, reason)

    def test_sizes_that_reach_into_the_next_entry(self, tmp_path, data):
        path = archive(tmp_path / "w.pth", data)
        content = bytearray(path.read_bytes())
        at = content.index(b"PK\x01\x02") + 20
        content[at : at + 8] = (len(data) + 20).to_bytes(4, "little") * 2
        path.write_bytes(content)
        self.refused(path, "lie over each other, or their sizes are wrong")

    def test_a_directory_of_another_version(self, tmp_path, data):
        path = archive(tmp_path / "w.pth", data)
        content = bytearray(path.read_bytes())
        content[content.index(b"PK\x01\x02") + 6] = 200
        path.write_bytes(content)
        self.refused(path, "damaged directory of the zip archive, zip file version 20.0")

    def test_a_missing_storage(self, tmp_path, data):
        names = (NAMES[0], "archive/data/1")
        self.refused(archive(tmp_path / "w.pth", data, names=names), "storage 0 is missing")

    @pytest.mark.parametrize(
        "names", [("a.txt", "b.txt"), ("x/y/data.pkl", "x/y/data/0"), ("a/data.pkl", "b/data.pkl")]
    )
    def test_other_archives(self, tmp_path, data, names):
        self.refused(
            archive(tmp_path / "w.pth", data, names=names), "a zip archive, but not one of PyTorch: it holds"
        )

    def test_programs(self, tmp_path, data):
        names = (NAMES[0], "archive/constants.pkl")
        self.refused(
            archive(tmp_path / "w.pth", data, names=names), "is a TorchScript program, not a state dict"
        )

    def test_programs_have_compressed_code(self, tmp_path):
        torch_script(tmp_path / "w.pt")
        self.refused(tmp_path / "w.pt", "is a TorchScript program, not a state dict")

    @pytest.mark.parametrize(
        "name, reason",
        [
            (
                b"data/1",
                "is damaged at b: the bytes of 'archive/data/1' do not have the checksum .* fetch it",
            ),
            (b"data.pkl", "is damaged: the bytes of 'archive/data.pkl' do not have the checksum"),
        ],
    )
    def test_a_bit_that_changed_on_the_way(self, tmp_path, name, reason):
        """The bit is in the middle of the entry; other entries stay readable."""
        write_torch(tmp_path / "w.pth", {"a": np.zeros(50, np.float32), "b": np.zeros(50, np.float32)})
        with zipfile.ZipFile(tmp_path / "w.pth") as file:
            info = file.getinfo(f"archive/{name.decode()}")
        at = entries(tmp_path / "w.pth")[info.filename].start + info.file_size // 2
        content = bytearray((tmp_path / "w.pth").read_bytes())
        content[at] ^= 16
        (tmp_path / "w.pth").write_bytes(content)
        with pytest.raises(CheckpointError, match=reason):
            np.asarray(read_tensors(tmp_path / "w.pth")["b"])
        if name == b"data/1":
            np.testing.assert_array_equal(np.asarray(read_tensors(tmp_path / "w.pth")["a"]), np.zeros(50))

    def test_a_file_without_checksums(self, tmp_path):
        """PyTorch writes zeros in their place, if it is told so."""
        write_torch(tmp_path / "w.pth", {"a": X})
        content = (tmp_path / "w.pth").read_bytes()
        with zipfile.ZipFile(tmp_path / "w.pth") as file:
            for info in file.infolist():
                content = content.replace(info.CRC.to_bytes(4, "little"), bytes(4))
        (tmp_path / "w.pth").write_bytes(content)
        np.testing.assert_array_equal(np.asarray(read_tensors(tmp_path / "w.pth")["a"]), X)

    def test_an_archive_in_an_archive(self, tmp_path, data):
        inner = archive(tmp_path / "inner.pth", data).read_bytes()
        self.refused(archive(tmp_path / "w.pth", inner, names=("inner.pth", "b")), "it holds b, inner.pth")

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
    def test_truncated(self, tmp_path, share):
        write_torch(tmp_path / "whole", {"a": np.zeros(1000, np.float32)})
        whole = (tmp_path / "whole").read_bytes()
        (tmp_path / "w.pth").write_bytes(whole[: int(share * len(whole))])
        self.refused(
            tmp_path / "w.pth", "w.pth is truncated, or damaged at its end: a zip archive without its"
        )


@pytest.mark.parametrize("modern", [True, False])
def test_objects_beside_the_weights_are_named(tmp_path, modern):
    callback = Call("pytorch_lightning.callbacks", "ModelCheckpoint")
    value = {
        "epoch": 3,
        "callbacks": {callback: {"best": 0.5}},
        "hyper_parameters": Call("argparse", "Namespace", (), {"lr": 1e-4}),
        "state_dict": {"a": X},
    }
    found = read_contents(made.write(tmp_path / "w.ckpt", value, modern))
    np.testing.assert_array_equal(np.asarray(found.state["a"]), X)
    assert found.notes == (
        "left out beside the weights: epoch, callbacks, hyper_parameters",
        "objects of these classes were not built: argparse.Namespace, pytorch_lightning.callbacks.ModelCheckpoint",
    )


@pytest.mark.parametrize(
    "name, dtype",
    [
        ("torch.FloatStorage", "float32"),
        ("torch.cuda.HalfStorage", "float16"),
        ("torch.storage.UntypedStorage", "uint8"),
        ("torch.BFloat16Storage", "bfloat16"),
    ],
)
def test_storages_of_any_device(name, dtype):
    assert storage_dtype(name) == dtype


def dumped(count: int = X.size, inner: bytes = b"") -> bytes:
    """A tensor as `pickle.dump` writes it: its storage is a file of the old format inside."""
    storage = made.Reference(("storage", Call("torch", "FloatStorage"), "7", "cpu", X.size, None))
    head = b"".join(Pickle().dump(x) for x in (MAGIC, PROTOCOL, {"little_endian": True}))
    body = made.Described().dump(storage) + Pickle().dump(["7"])
    stored = head + body + struct.pack("<q", count) + VALUES
    rest = (0, X.shape, (3, 1), False, Call("collections", "OrderedDict", ()))
    span = Call("torch.storage", "_load_from_bytes", (inner or stored,))
    return Pickle().dump({"a": Call("torch._utils", "_rebuild_tensor_v2", (span, *rest))})


def test_tensors_that_were_pickled_without_pytorchs_help(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(dumped())
    assert np.array_equal(read_tensors(path)["a"], X)
    for damaged in (dumped(count=5), dumped(inner=b"x"), dumped(inner=dumped())):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="is not a PyTorch checkpoint, or it is truncated"):
            read_tensors(path)


@pytest.mark.parametrize("lost", [1, 40, 300])
def test_a_lost_piece_of_a_zip_file_is_damage(tmp_path, lost):
    """Not an error of the system: entries would lie before the file."""
    data = made.write(tmp_path / "w.pth", {"a": X}).read_bytes()
    (tmp_path / "w.pth").write_bytes(data[:70] + data[70 + lost :])
    with pytest.raises(CheckpointError, match="w.pth is not a PyTorch checkpoint, or it is truncated"):
        read_tensors(tmp_path / "w.pth")
