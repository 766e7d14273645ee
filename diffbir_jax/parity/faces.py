"""Alignment and pasting of faces, as the helper of the reference does it.

The golden values were made by OpenCV 4. Arrays `opencv5/KEY` hold what OpenCV 5 gives: the matrices themselves, and of
pictures the difference to `KEY`.
"""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from PIL import Image

from diffbir_jax.faces.align import SIDE, crop, similarity, template
from diffbir_jax.faces.reference import reference_inverse, reference_paste
from diffbir_jax.parity.case import EXACT, Arrays, Case, Limit, Values, absolute, matching

MATRIX = Limit(2e-8, absolute)
LEVEL = Limit(1.0, absolute)
Maps = Sequence[np.ndarray] | None
SINCE_5 = int(cv2.__version__.split(".")[0]) >= 5
NEW = "opencv5/"
# The helper shows this colour beyond the photo's border; DiffBIR hands it pictures of the other order of channels.
HELPER_FILL = (132, 133, 135)


def cases(file: str, keys: Sequence[str], salt: str) -> Iterator[Case]:
    """Yield the cases of faces*.npz."""
    versions = matching(keys, "opencv")
    yield Case(file, "template", ["template"], versions, EXACT, lambda golden: {"template": template()})
    scenes = [key.removesuffix("/landmarks") for key in keys if key.endswith("/landmarks")]
    for scene in scenes:
        yield from _matrices(file, keys, scene)
        if scene != "estimate":
            yield from (_flow if f"{scene}/lq" in keys else _scene)(file, keys, scene)


def restored(number: int) -> np.ndarray:
    """The restored crop of the face `number` that the golden values were made with: (512, 512, 3) uint8."""
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.stack([255 * ((x // 32 + y // 32 + number) % 2), x // 2, 255 - y // 2], -1).astype(np.uint8)


def _matrices(file: str, keys: Sequence[str], scene: str) -> Iterator[Case]:
    new, old = f"{NEW}{scene}/affine", f"{scene}/affine"
    output = new if SINCE_5 and new in keys else old
    others = [key for key in (new, old, f"{scene}/inliers") if key in keys and key != output]
    inputs = [f"{scene}/landmarks", *others]

    def estimated(golden: Arrays) -> Values:
        return {output: np.stack([similarity(points) for points in golden[f"{scene}/landmarks"]])}

    yield Case(file, f"{scene}|affine", [output], inputs, MATRIX, estimated)
    inverses = matching(keys, f"{scene}/inverse", f"{scene}/x*/inverse", f"{scene}/x*/used_inverse")

    def inverted(golden: Arrays) -> Values:
        return {key: np.stack([_inverse(key, matrix) for matrix in golden[old]]) for key in inverses}

    yield Case(file, f"{scene}|inverse", inverses, [old], MATRIX, inverted)


def _inverse(key: str, matrix: np.ndarray) -> np.ndarray:
    """The inverse that a key names: SCENE/inverse, SCENE/xS/inverse or SCENE/xS/used_inverse."""
    parts = key.split("/")
    scale = int(parts[1][1:]) if len(parts) == 3 else 1
    used = reference_inverse(matrix, scale)
    return used if parts[-1] == "used_inverse" else cv2.invertAffineTransform(matrix) * scale


def _pictures(
    file: str, keys: Sequence[str], name: str, outputs: list[str], inputs: list[str], limit: Limit, compute
):
    """A case of pictures: what OpenCV 5 adds to them is subtracted before they are compared."""
    differences = [NEW + key for key in outputs if NEW + key in keys]

    def compared(golden: Arrays) -> Values:
        found = {key: np.asarray(value, np.float64) for key, value in compute(golden).items()}
        if SINCE_5:
            found |= {
                key: value - golden[NEW + key] for key, value in found.items() if NEW + key in differences
            }
        return found

    return Case(file, name, outputs, [*inputs, *differences], limit, compared)


def _matrix_key(keys: Sequence[str], scene: str) -> str:
    new = f"{NEW}{scene}/affine"
    return new if SINCE_5 and new in keys else f"{scene}/affine"


def _scene(file: str, keys: Sequence[str], scene: str) -> Iterator[Case]:
    image, matrix = f"{scene}/image", _matrix_key(keys, scene)
    crops = matching(keys, f"{scene}/crops", f"{scene}/crops4")

    def cut(golden: Arrays) -> Values:
        whole = _crops(golden[image], golden[matrix], HELPER_FILL)
        return {key: whole if key.endswith("crops") else whole[:, 2::4, 2::4] for key in crops}

    yield _pictures(file, keys, f"{scene}|crops", crops, [image, matrix], EXACT, cut)
    labels = matching(keys, f"{scene}/labels")
    for kind in ("square", "parse"):
        outputs = matching(keys, f"{scene}/x*/{kind}", f"{scene}/x*/{kind}_weight16")

        def pasted(golden: Arrays, outputs=outputs, kind=kind) -> Values:
            parsed = list(golden[labels[0]]) if kind == "parse" else None
            return {key: _pasted(key, golden[image], golden[matrix], parsed) for key in outputs}

        inputs = [image, matrix, *(labels if kind == "parse" else [])]
        yield _pictures(file, keys, f"{scene}|{kind}", outputs, inputs, LEVEL, pasted)


def _crops(image: np.ndarray, matrices: np.ndarray, fill: tuple[int, int, int]) -> np.ndarray:
    return np.stack([crop(image, matrix, compat=True, fill=fill) for matrix in matrices])


def _pasted(key: str, image: np.ndarray, matrices: np.ndarray, labels: Maps) -> np.ndarray:
    """The picture of a key SCENE/xS/KIND, or the weight of the faces in it."""
    _, times, kind = key.split("/")
    scale = int(times[1:])
    size = (image.shape[1] * scale, image.shape[0] * scale)
    inverses = [reference_inverse(matrix, scale) for matrix in matrices]
    if kind.endswith("weight16"):
        crops = [np.full((SIDE, SIDE, 3), 65535, np.uint16)] * len(matrices)
        black = np.zeros((*size[::-1], 3), np.uint16)
        return reference_paste(black, crops, inverses, scale, labels, least=False)[..., 0]
    crops = [restored(number) for number in range(len(matrices))]
    large = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_LANCZOS4)
    return reference_paste(large, crops, inverses, scale, labels, least=False)


def _flow(file: str, keys: Sequence[str], scene: str) -> Iterator[Case]:
    """DiffBIR's own flow: the photo is enlarged first, to 512 at least, and all else happens in this frame."""
    matrix = _matrix_key(keys, scene)
    photo, labels, shape = f"{scene}/lq", f"{scene}/labels", f"{scene}/helper_input_shape"
    inputs = [photo, f"{scene}/upscale", matrix]

    def framed(golden: Arrays) -> Values:
        return {shape: np.array(_frame(golden, scene)[1].shape)}

    yield Case(file, f"{scene}|frame", [shape], inputs[:2], EXACT, framed)

    def cut(golden: Arrays) -> Values:
        whole = _crops(_frame(golden, scene)[1], golden[matrix], (135, 133, 132))
        return {f"{scene}/crops4": whole[:, 2::4, 2::4]}

    yield _pictures(file, keys, f"{scene}|crops", [f"{scene}/crops4"], inputs, EXACT, cut)

    def pasted(golden: Arrays) -> Values:
        large, frame = _frame(golden, scene)
        size = frame.shape[1::-1]
        given = large[:, ::-1]
        given = (
            given if given.shape == frame.shape else cv2.resize(given, size, interpolation=cv2.INTER_LANCZOS4)
        )
        inverses = [reference_inverse(each, 1) for each in golden[matrix]]
        crops = [restored(number) for number in range(len(inverses))]
        both = {"pasted2": list(golden[labels]), "pasted_square2": None}
        return {
            f"{scene}/{key}": reference_paste(given, crops, inverses, 1, maps)[1::2, 1::2]
            for key, maps in both.items()
        }

    outputs = [f"{scene}/pasted2", f"{scene}/pasted_square2"]
    yield _pictures(file, keys, f"{scene}|pasted", outputs, [*inputs, labels], LEVEL, pasted)


def _frame(golden: Arrays, scene: str) -> tuple[np.ndarray, np.ndarray]:
    """The enlarged photo, and the frame in which the reference looks for faces."""
    photo, upscale = golden[f"{scene}/lq"], int(golden[f"{scene}/upscale"])
    height, width = (int(side * upscale) for side in photo.shape[:2])
    large = np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BICUBIC))
    least = min(height, width)
    if least >= SIDE:
        return large, large
    size = (round(width * SIDE / least), round(height * SIDE / least))
    return large, cv2.resize(large, size, interpolation=cv2.INTER_LINEAR)
