"""A folder of 200 files of all kinds through sample.py, uninterrupted and killed half-way: python -m benchmarks.folder

Sizes from 16x16 to 3000x2000, PNG, JPEG, WebP, TIFF and BMP, 8 and 16 bit, gray, palette, CMYK, alpha, EXIF turned,
in subfolders; ten of them broken in different ways. Prints what became of them, the programs, and the times.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from skimage import data

ROOT = Path(__file__).parents[1]
SIZES = ((16, 16), (3000, 2000), (2000, 3000), (1200, 900), (700, 520))


def picture(width: int, height: int) -> Image.Image:
    """A photo of that size."""
    return Image.fromarray(data.astronaut()).resize((width, height), Image.Resampling.BICUBIC)


def sixteen(path: Path, image: Image.Image) -> None:
    """Write RGB with 16 bits per channel."""
    cv2.imwrite(str(path), np.asarray(image)[..., ::-1].astype(np.uint16) * 257)


def turned(path: Path, image: Image.Image) -> None:
    """Write a JPEG that EXIF says lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)


def with_alpha(image: Image.Image) -> Image.Image:
    """A photo with a gradient of transparency."""
    image = image.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


KINDS: tuple[tuple[str, Callable[[Path, Image.Image], object]], ...] = (
    (".png", lambda path, image: image.save(path)),
    (".jpg", lambda path, image: image.save(path, quality=90)),
    (".webp", lambda path, image: image.save(path)),
    (".tif", lambda path, image: image.save(path)),
    (".bmp", lambda path, image: image.save(path)),
    (".png", lambda path, image: image.convert("L").save(path)),
    (".png", lambda path, image: image.quantize(64).save(path)),
    (".jpg", lambda path, image: image.convert("CMYK").save(path)),
    (".png", lambda path, image: with_alpha(image).save(path)),
    (".webp", lambda path, image: with_alpha(image).save(path)),
    (".png", sixteen),
    (".tiff", sixteen),
    (".jpeg", turned),
)


def break_files(folder: Path) -> list[Path]:
    """Ten broken files."""
    folder.mkdir()
    good = folder.parent / "good.png"
    picture(64, 64).save(good)
    png, jpeg = good.read_bytes(), folder.parent / "good.jpg"
    picture(64, 64).save(jpeg)
    jpg = jpeg.read_bytes()
    lying = png[:16] + (60000).to_bytes(4, "big") + (60000).to_bytes(4, "big") + png[24:]
    contents = {
        "empty.png": b"",
        "text.png": b"this is no image",
        "cut.png": png[: len(png) // 2],
        "cut2.jpg": jpg[: len(jpg) // 2],
        "lying.png": lying,
        "flipped.png": png[:200] + bytes([png[200] ^ 255]) + png[201:],
        "head.jpg": jpg[:20],
        "zeros.tif": bytes(1000),
        "cut3.webp": b"RIFF\x00\x10\x00\x00WEBPVP8 ",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    picture(15, 40).save(folder / "small.bmp")
    good.unlink()
    jpeg.unlink()
    return sorted(folder.iterdir())


def make_folder(folder: Path, count: int) -> None:
    """Fill a folder with `count` files, ten of them broken."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    broken = break_files(folder / "broken")
    for number in range(count - len(broken)):
        width, height = (int(side) for side in np.exp(rng.uniform(np.log(16), np.log(500), 2)))
        if number < len(SIZES):
            width, height = SIZES[number]
        suffix, write = KINDS[number % len(KINDS)]
        path = folder / f"{number % 7}" / f"{number:03d}{suffix}"
        path.parent.mkdir(exist_ok=True)
        write(path, picture(width, height))


def command(source: Path, output: Path, *more: str) -> list[str]:
    """A run of sample.py."""
    flags = ["--upscale", "1", "--steps", "2", "--vae-norms", "tile", "--report", str(output) + ".json"]
    return [sys.executable, "sample.py", "--input", str(source), "--output", str(output), *flags, *more]


def digests(folder: Path) -> dict[str, str]:
    """The results by their paths in the folder."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def killed(source: Path, output: Path, half: int) -> int:
    """Run until half of the results are there, kill, and return how many there were."""
    process = subprocess.Popen(command(source, output), cwd=ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None and len(list(output.rglob("*.png"))) < half:
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return len(list(output.rglob("*.png")))


def main() -> None:
    """Make the folder, run, and print what happened."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200, help="files (default: %(default)s)")
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as folder:
        source, output, again = (Path(folder) / name for name in ("in", "out", "again"))
        make_folder(source, count)
        begin = time.perf_counter()
        code = subprocess.run(command(source, output), cwd=ROOT).returncode
        seconds = time.perf_counter() - begin
        report = json.loads(Path(f"{output}.json").read_text())
        print(f"exit code {code}, {seconds:.0f} s")
        print({name: len(report[name]) for name in ("restored", "failed", "skipped", "left")})
        results = digests(output)
        print(f"{killed(source, again, len(results) // 2)} results when killed")
        subprocess.run(command(source, again, "--skip-existing"), cwd=ROOT, stdout=subprocess.DEVNULL)
        print("the end state is the same:", digests(again) == results, f"({len(results)} results)")


if __name__ == "__main__":
    main()
