"""Pack what `train_one_step.py` needs into one file, to train on another machine: crops, teacher's results, networks.

    python scripts/pack_training.py work one_step.tar
    python scripts/train_one_step.py work --pack one_step.tar    # on the other machine; unpacks it first

`work` is prepared as for training (docs/one_step.md). The file has, in this order: the networks of the losses and the
blocks that the decoder starts from, as float16; the teacher's samples; crops of the held-out photos; and crops of the
photos, as many as `--megabytes` leaves room for. Images are 256x256, WebP of quality 95; the teacher's inputs are PNG.
"""

import argparse
import io
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

# `python scripts/pack_training.py` looks for modules in scripts/ alone.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diffbir_jax.console.errors import EXPECTED, UserError, one_line
from diffbir_jax.data.photos import CropConfig, load_photos, sharpest_crop
from diffbir_jax.files.writing import replacing
from diffbir_jax.imaging.reading import read_image
from diffbir_jax.models.restoration_families import describe_restoration
from diffbir_jax.training.taught import load_samples
from diffbir_jax.weights.safetensors import load_tree, read_metadata, save_weights
from scripts.start_decoder import BLOCKS, few_blocks, network_config

REALESRGAN = "realesrgan/realesrgan-x4plus.safetensors"
LOSSES = ("mobilenet_v2.safetensors", "metrics/lpips_alex.safetensors")
TRAIN, HELD_OUT, TEACHER = "photos/train", "photos/held_out", "teacher"
# Written last: where it is, all is unpacked.
SAMPLES = f"{TEACHER}/packed.npz"
# The crops of training (configs/common.py), but larger, so that training can choose a place in them.
CROP = CropConfig(size=256, scale=(0.3, 1.0))
HELD_OUT_CROPS = 40
# A crop more never takes this many bytes: lossless, it has 196,608 and a header.
LARGEST_CROP = 200_000


def pack(work: Path, target: Path, limit: int) -> dict[str, int]:
    """Write the file `target` of at most `limit` bytes; return how many images it has of each kind.

    Raises:
        FileNotFoundError: something is missing in `work`.
        UserError: the networks, the teacher's samples and the held-out crops alone are larger than `limit`.
    """
    photos, held_out = load_photos(work / TRAIN), load_photos(work / HELD_OUT)
    samples = load_samples(work / TEACHER)
    taught = len(samples["lq"])
    with (
        replacing(target, target.with_name(f"{target.name}.partial")) as file,
        tarfile.open(fileobj=file, mode="w") as tar,
    ):
        for name, content in networks(work):
            add(tar, name, content)
        for number in range(taught):
            add_sample(tar, number, {key: images[number] for key, images in samples.items()})
        for number in range(HELD_OUT_CROPS):
            add(tar, f"{HELD_OUT}/{number:06d}.webp", webp(crop(held_out, 1, number)))
        if file.tell() > limit - LARGEST_CROP:
            raise UserError(
                f"--megabytes {limit / 1e6:g}: with the teacher's samples the file already has "
                f"{file.tell() / 1e6:.1f} MB; allow more, or leave fewer files in {work / TEACHER}"
            )
        number = taught
        while file.tell() < limit - LARGEST_CROP:
            add(tar, f"{TRAIN}/{number:06d}.webp", webp(crop(photos, 0, number)))
            number += 1
    return {"teacher's samples": taught, "more crops": number - taught, "held-out crops": HELD_OUT_CROPS}


def crop(photos: list[np.ndarray], seed: int, number: int) -> np.ndarray:
    """Return a sharp crop; with seed 0, the numbers of `make_teacher.py` give its crops, and later ones others."""
    return sharpest_crop(photos, np.random.default_rng((seed, number)), CROP)


def networks(work: Path) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of the weights files, as float16."""
    for name in LOSSES:
        yield name, half(load_tree(work / name), read_metadata(work / name))
    path = work / REALESRGAN
    few = replace(network_config(path), num_blocks=len(BLOCKS))
    yield REALESRGAN, half(few_blocks(path), describe_restoration(few))


def half(params: dict, header: dict[str, str]) -> bytes:
    """Return the content of a weights file with float16 values."""
    with tempfile.TemporaryDirectory() as folder:
        return save_weights(Path(folder) / "half.safetensors", params, header, "float16").read_bytes()


def add_sample(tar: tarfile.TarFile, number: int, sample: dict[str, np.ndarray]) -> None:
    """Add a sample of the teacher: its truth is a training crop like the others."""
    add(tar, f"{TRAIN}/{number:06d}.webp", webp(sample["hq"]))
    add(tar, f"{TEACHER}/{number:06d}.webp", webp(sample["teacher"]))
    add(tar, f"{TEACHER}/{number:06d}.png", encoded(sample["lq"], "PNG"))


def webp(image: np.ndarray) -> bytes:
    """Return the file of an image (H, W, 3) uint8."""
    return encoded(image, "WEBP", quality=95)


def encoded(image: np.ndarray, kind: str, **settings: int) -> bytes:
    """Return the content of an image file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **settings)
    return file.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file without date and owner: equal contents make equal packs."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def is_unpacked(work: Path) -> bool:
    """Whether `work` holds a whole pack, and so crops instead of photos."""
    return (work / SAMPLES).is_file()


def extract(tar: tarfile.TarFile, entry: tarfile.TarInfo, work: Path) -> None:
    """Write a file of a pack below `work`. `extractall` has no filter in Python 3.11.2, which Debian 12 has."""
    path, content = Path(entry.name), tar.extractfile(entry) if entry.isfile() else None
    if content is None or path.is_absolute() or ".." in path.parts:
        raise UserError(
            f"{entry.name}: a pack has files below its folder alone; make it again by pack_training.py"
        )
    (work / path).parent.mkdir(parents=True, exist_ok=True)
    (work / path).write_bytes(content.read())


def unpack(source: Path, work: Path) -> None:
    """Write the files of a pack into `work`, and the teacher's samples as `load_samples` reads them.

    Raises:
        UserError: `work` holds photos already.
        FileNotFoundError, tarfile.TarError: there is no pack at `source`.
    """
    if any((work / TRAIN).glob("*.jpg")):
        raise UserError(f"{work / TRAIN}: holds photos already; give another folder for the pack's crops")
    with tarfile.open(source) as tar:
        for entry in tar:
            extract(tar, entry, work)
    numbers = sorted(path.stem for path in (work / TEACHER).glob("*.png"))

    def images(folder: str, suffix: str) -> np.ndarray:
        return np.stack([read_image(work / folder / f"{number}.{suffix}") for number in numbers])

    hq, teacher, lq = images(TRAIN, "webp"), images(TEACHER, "webp"), images(TEACHER, "png")
    with replacing(work / SAMPLES) as file:
        np.savez(file, hq=hq, teacher=teacher, lq=lq)


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="folder of the prepared files")
    parser.add_argument("output", type=Path, help="file to write, a .tar")
    parser.add_argument("--megabytes", type=float, default=60.0, help="size of the file (default: 60)")
    args = parser.parse_args()
    try:
        counts = pack(args.work, args.output, int(1e6 * args.megabytes))
    except EXPECTED as error:
        print(f"pack_training: {one_line(error)}", file=sys.stderr)
        return 1
    told = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB, {told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
