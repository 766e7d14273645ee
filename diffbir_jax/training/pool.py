"""A pool of encoded crops, computed once and kept in a file. The frozen networks may cost more than the training."""

import json
import os
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from diffbir_jax.console.errors import OtherRunError, UserError
from diffbir_jax.console.progress import tallied
from diffbir_jax.data.batches import Batches, HostBatch
from diffbir_jax.files.writing import replacing
from diffbir_jax.models.apply import Params
from diffbir_jax.sharding import batch_sharding, make_mesh, replicated
from diffbir_jax.training.config import Config
from diffbir_jax.training.distributed import is_first
from diffbir_jax.training.state import Batch

# Settings of `config.data` that change neither the crops nor their encodings, so a pool stays valid.
INDIFFERENT = ("batch_size", "cache", "workers", "threads", "ahead", "max_broken", "keep_decoded")
# Entries of the file other than the arrays; names of arrays begin with "train_" or "val_".
MADE_FOR, BROKEN = "made_for", "broken"


@dataclass(frozen=True)
class LatentBatches(Batches):
    """Random batches from a pool of latents, a pure function of the step. Every process gets the whole batch.

    Attributes:
        pool: float16 arrays by name, with N rows each, or one row that all crops share. For stages on latents, `z0`
            (N, h, w, C) holds the scaled latents of the clean crops.
        batch_size: crops in the batch of all processes together.
        seed: seed of the sequence.
        made_for: see `pool_batches`.
        broken: examples that were replaced when the pool was made, message by index; the first process reports them.
    """

    pool: dict[str, np.ndarray]
    batch_size: int
    seed: int
    made_for: str = ""
    broken: Mapping[int, str] = field(default_factory=dict)

    def __call__(self, step: int) -> HostBatch:
        """Return the batch of `step`, float32; it holds no crop twice."""
        rng = np.random.default_rng((self.seed, step))
        count = length(self.pool)
        chosen = np.sort(rng.choice(count, self.batch_size, replace=False))
        return {
            name: (rows[chosen] if len(rows) == count else np.repeat(rows, self.batch_size, 0)).astype(
                np.float32
            )
            for name, rows in self.pool.items()
        }

    @property
    def identity(self) -> dict[str, int | str]:
        """Seed, batch size, and the settings that the pool was made for."""
        return {"seed": self.seed, "batch_size": self.batch_size, "pool": self.made_for}


def length(arrays: Mapping[str, np.ndarray]) -> int:
    """Return the number of crops of a pool or a batch, in which arrays may have one row that all crops share."""
    return max(map(len, arrays.values()))


class Encoder(NamedTuple):
    """The function that encodes crops for a pool.

    Attributes:
        encode: (parameters, batch) -> arrays of the batch's length by name; traced.
        params: its parameters.
        shared: names of arrays with equal rows; the pool keeps one row of each.
    """

    encode: Callable[[Params, Batch], Batch]
    params: Params
    shared: Collection[str] = ()


def pool_batches(
    config: Config,
    batches: Callable[[], tuple[Batches, Batches]],
    encoder: Callable[[], Encoder],
    made_from: Mapping[str, str],
) -> tuple[LatentBatches, LatentBatches]:
    """Encode training and held-out crops, or read them from the file of an earlier run.

    With several processes the first one encodes, on its own devices. Each device encodes as many crops at a time as in
    a training step. The other processes wait for the file; it must be in a folder that all of them share.

    Args:
        config: `preset`, `seed`, `train.accumulate` and `data`: `cache` (the .npz file), `pool` (training crops in it)
            and `batch_size`.
        batches: () -> whole batches, for training and held out; the first held-out batch is used. Called only if there
            is no file.
        encoder: () -> the encoder; also called only if there is no file.
        made_from: other things that the pool depends on, beside preset, seed and data settings: checksums of weights.

    Raises:
        ValueError: if the file was made with other settings or weights, or the pool is smaller than a batch.
    """
    data, path = config.data, Path(config.data.cache).expanduser()
    if data.pool < data.batch_size:
        raise UserError(
            f"config.data.pool is {data.pool}, must be at least the batch size {data.batch_size}."
        )
    wanted = _made_for(config, made_from)
    if not path.exists() and is_first():
        _write(path, {MADE_FOR: np.array(wanted)} | _encode_all(config, batches, encoder))
    _wait(path)
    stored = dict(np.load(path))
    made_for = str(stored.pop(MADE_FOR, "something else"))
    # Latents of other networks or data would train without any error, and give a bad control.
    if made_for != wanted:
        raise OtherRunError(
            f"{path} was made for ({made_for}), this run needs ({wanted}): delete it or change config.data.cache.",
            path,
            "data",
        )
    broken = dict(json.loads(str(stored.pop(BROKEN, "[]")))) if is_first() else {}
    train = {k.removeprefix("train_"): v for k, v in stored.items() if k.startswith("train_")}
    held_out = {k.removeprefix("val_"): v for k, v in stored.items() if k.startswith("val_")}
    return (
        LatentBatches(train, data.batch_size, config.seed, wanted, broken),
        LatentBatches(held_out, length(held_out), config.seed, wanted),
    )


def _made_for(config: Config, made_from: Mapping[str, str]) -> str:
    """Return one line that identifies the settings and files that the pool is made from."""
    data = {k: v for k, v in config.data.to_dict().items() if k not in INDIFFERENT}
    origin = {"preset": config.preset, "seed": config.seed, "data": f"{zlib.crc32(str(data).encode()):08x}"}
    return " ".join(f"{key}={value}" for key, value in (origin | dict(made_from)).items())


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz file. It appears only when complete, also if several processes write it at once."""
    # The process index is in the name because processes on other machines may have the same PID.
    partial = path.with_name(f"{path.name}.{jax.process_index()}-{os.getpid()}.partial")
    with replacing(path, partial) as file:
        np.savez(file, allow_pickle=False, **arrays)


def _wait(path: Path, seconds: float = 1.0) -> None:
    """Wait until a file exists at `path`. If the process that writes it dies, JAX ends this one too."""
    if not path.exists():
        logging.warning(
            "process %d waits for process 0 to write %s, which all must see", jax.process_index(), path
        )
    while not path.exists():
        time.sleep(seconds)


def _encode_all(
    config: Config, batches: Callable[[], tuple[Batches, Batches]], encoder: Callable[[], Encoder]
) -> HostBatch:
    """Return the arrays of the file and the list of broken examples."""
    data, made, (train, held_out) = config.data, encoder(), batches()
    encode = _compile(made, max(1, data.batch_size // (jax.device_count() * config.train.accumulate)))
    count = -(-data.pool // data.batch_size)
    with closing(train.iterate(0, count)) as steps:
        shown = tallied(steps, "encoding training crops", count, thing="batch")
        crops = _collect(map(encode, shown), made.shared)
    shown = tallied([held_out(0)], "encoding held-out crops", 1, thing="batch")
    val = _collect(map(encode, shown), made.shared)
    arrays = {f"train_{k}": x[: data.pool] for k, x in crops.items()} | {
        f"val_{k}": x for k, x in val.items()
    }
    return arrays | {BROKEN: np.array(json.dumps(sorted(train.broken.items())))}


def _compile(encoder: Encoder, rows: int) -> Callable[[HostBatch], HostBatch]:
    """Return a function that encodes host batches of any length to float16, `rows` at a time on each local device."""
    mesh = make_mesh(devices=jax.local_devices())
    params, rows = jax.device_put(encoder.params, replicated(mesh)), rows * mesh.size

    def half(params: Params, batch: Batch) -> Batch:
        return {name: x.astype(jnp.float16) for name, x in encoder.encode(params, batch).items()}

    program = jax.jit(half)

    def encode(batch: HostBatch) -> HostBatch:
        count, parts = length(batch), []
        for start in range(0, count, rows):
            # The last part repeats its examples to fill up, so one compiled program fits all parts.
            chosen = np.resize(np.arange(start, min(start + rows, count)), rows)
            # Place the batch explicitly: with several processes, JAX does not split host arrays by itself.
            part = jax.device_put({name: x[chosen] for name, x in batch.items()}, batch_sharding(mesh))
            parts.append(jax.device_get(program(params, part)))
        return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}

    return encode


def _collect(batches: Iterable[HostBatch], shared: Collection[str]) -> HostBatch:
    """Join batches into one; of shared arrays keep a single row."""
    parts = [{k: x[:1].copy() if k in shared else x for k, x in batch.items()} for batch in batches]
    return {k: x if k in shared else np.concatenate([part[k] for part in parts]) for k, x in parts[0].items()}
