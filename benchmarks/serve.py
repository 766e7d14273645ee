"""The service under load, packed and one by one: python -m benchmarks.serve --version tiny --side 32 --clients 16

Sixteen clients send pictures of two shapes. One by one means that the engine takes one job at a time, with programs for
one picture. Both orders run in turn, so that other load on the machine meets both. Prints throughput, waiting times,
and the memory over all requests.
"""

import argparse
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import requests
import uvicorn
from PIL import Image
from skimage import data

from diffbir_jax.console.process import configure
from diffbir_jax.serve import run
from diffbir_jax.serve.app import create_app
from diffbir_jax.serve.engine import Engine
from diffbir_jax.serve.limits import Limits
from diffbir_jax.serve.networks import Course, Networks, load
from diffbir_jax.serve.wishes import Wish, base_recipe


class OneByOne(Networks):
    """Networks that take no company."""

    def course(self, wish: Wish, size: tuple[int, int], keep: bool) -> Course:
        """Return the course with packs of one."""
        return super().course(wish, size, keep)._replace(pack=1)


def pictures(side: int) -> list[bytes]:
    """PNG files of two shapes."""
    photo, files = Image.fromarray(data.astronaut()), []
    for size in ((side, side), (side * 3 // 4, side)):
        file = io.BytesIO()
        photo.resize(size, Image.Resampling.BICUBIC).save(file, "PNG")
        files.append(file.getvalue())
    return files


def ask(base: str, files: list[bytes], options: str, number: int) -> float:
    """Send a picture and wait for the result; the seconds."""
    begin = time.perf_counter()
    form = {"image": (f"{number}.png", files[number % 2]), "options": (None, options)}
    answer = requests.post(f"{base}/restore", files=form, timeout=3600)
    answer.raise_for_status()
    return time.perf_counter() - begin


def load_on(networks: Networks, args: argparse.Namespace, count: int) -> tuple[float, list[float]]:
    """Pictures per second, and the seconds of each request."""
    options = f'{{"upscale": {args.upscale}}}'
    engine = Engine({args.version: networks}, Limits())
    app = create_app(engine, {args.version: base_recipe(args.version)})
    server = run.Server(uvicorn.Config(app, log_level="error", lifespan="off"), engine, 60)
    with run.listening("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        base, files = f"http://127.0.0.1:{listener.getsockname()[1]}", pictures(args.side)
        begin = time.perf_counter()
        with ThreadPoolExecutor(args.clients) as pool:
            waits = [*pool.map(lambda number: ask(base, files, options, number), range(count))]
        rate = count / (time.perf_counter() - begin)
        server.should_exit = True
        thread.join()
        engine.stop()
    return rate, waits


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--version", default="tiny")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--upscale", type=float, default=4.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--count", type=int, default=32, help="requests per round")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    configure("fp32")
    packed = load(base_recipe(args.version), lambda text: None)
    single = OneByOne(packed.restorer, packed.files)
    for networks in (packed, single):
        load_on(networks, args, 8)  # compiles
    process, rates = psutil.Process(), {"packed": [], "one by one": []}
    for number in range(args.rounds):
        for name, networks in (("packed", packed), ("one by one", single)):
            rate, waits = load_on(networks, args, args.count)
            rates[name].append(rate)
            middle, most = np.percentile(waits, 50), np.percentile(waits, 95)
            memory = process.memory_info().rss / 2**20
            print(
                f"round {number + 1}, {name:10}: {rate:6.2f} pictures/s, waiting {middle:.2f} s (median), "
                f"{most:.2f} s (95 %), memory {memory:.0f} MiB",
                flush=True,
            )
    means = {name: float(np.median(found)) for name, found in rates.items()}
    print(f"packed / one by one: {means['packed'] / means['one by one']:.2f}")


if __name__ == "__main__":
    main()
