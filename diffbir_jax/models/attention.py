"""Scaled dot-product attention: one entry point for every network, several backends behind it."""

from typing import Literal, cast, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from diffbir_jax.models.platform import AMPERE, batch_mesh, compute_capability, target_platform

Backend = Literal["auto", "chunked", "queries", "xla", "cudnn", "flash"]
# Scores of one image that may be held at once where nothing fuses them: 64 MiB as float32.
MOST_SCORES = 2**24
# cuDNN's fused attention: largest head size, fewest keys that are worth it.
_CUDNN_HEAD, _CUDNN_KEYS = 128, 256
# Blocks of queries and keys in Pallas's kernel for TPUs: the first that divides a length; fewest that are worth it.
_FLASH_BLOCKS, _FLASH_LENGTH = (512, 256, 128), 256
_forced: Backend = "auto"


def force(backend: Backend) -> None:
    """Make every network of the process use a backend from now on, where it can; "auto" is `choose` again.

    Programs that are compiled already keep theirs.
    """
    global _forced
    _check(backend)
    _forced = backend


def forced() -> Backend:
    """What `force` was given last."""
    return _forced


def attention(q: Array, k: Array, v: Array, *, backend: Backend = "auto", max_scores: int = 2**22) -> Array:
    """softmax(q k^T / sqrt(D)) v, the attention of Vaswani et al. 2017, with a float32 softmax.

    Args:
        q: (B, Nq, heads, D) queries.
        k: (B, Nk, heads, D) keys, same dtype as `q`.
        v: (B, Nk, heads, D) values, same dtype as `q`.
        backend: "chunked" processes heads and blocks of queries in turn, "queries" blocks of queries of all heads:
            neither ever holds a large score matrix. "xla" and "cudnn" are those of `jax.nn.dot_product_attention`.
            "flash" is Pallas's kernel for TPUs (Dao et al. 2022), which holds no scores either.
            "auto" is what `force` was given, else `choose`.
        max_scores: most query-key scores that "chunked" holds at once, and "queries" per image; 16 MiB by default.

    Returns:
        (B, Nq, heads, D) in the dtype of `q`.

    Raises:
        ValueError: unknown backend, or shapes that do not match.
    """
    _check(backend)
    if k.shape != v.shape or q.shape[::2] != k.shape[::2] or q.shape[3] != k.shape[3]:
        raise ValueError(
            f"q {q.shape}, k {k.shape}, v {v.shape} do not fit: expected (B, Nq, heads, D) for q and "
            "(B, Nk, heads, D) for both k and v"
        )
    if backend == "auto":
        backend = _chosen(q.shape, k.shape[1], q.dtype, target_platform())
    if backend == "chunked":
        return _chunked(q, k, v, max_scores)
    if backend == "queries":
        return _by_queries(q, k, v, max_scores)
    if backend == "flash":
        return _flash(q, k, v)
    return jax.nn.dot_product_attention(q, k, v, implementation=cast(Literal["xla", "cudnn"], backend))


def _check(backend: str) -> None:
    if backend not in get_args(Backend):
        raise ValueError(f"backend is {backend!r}; choose one of {', '.join(get_args(Backend))}")


def _chosen(queries: tuple[int, ...], keys: int, dtype: DTypeLike, platform: str) -> Backend:
    """The forced backend where it can be had, else that of `choose`."""
    kernels = {"cudnn": ("gpu", fuses), "flash": ("tpu", flashes)}
    its_platform, fits = kernels.get(_forced, (platform, lambda *_: True))
    wanted = _forced != "auto" and platform == its_platform and fits(queries, keys, dtype)
    return _forced if wanted else choose(queries, keys, dtype, platform)


def choose(queries: tuple[int, ...], keys: int, dtype: DTypeLike, platform: str) -> Backend:
    """Return the backend for a shape.

    | platform | condition | backend |
    |---|---|---|
    | cpu | | chunked |
    | gpu | 16 bits, heads of at most 128 (a multiple of 8), keys even in number, 256 or more, Ampere or newer | cudnn |
    | gpu | else, if the scores of an image take at most 64 MiB | xla |
    | gpu | else | queries |
    | tpu | 16 bits, lengths that are multiples of 128, 256 or more, batches that the devices share evenly | flash |
    | tpu | else | xla |

    Args:
        queries: shape of the queries, (B, Nq, heads, D).
        keys: their number, Nk.
        dtype: of queries, keys and values.
        platform: "cpu", "gpu" or "tpu".
    """
    _, length, heads, _ = queries
    if platform == "cpu":
        return "chunked"
    if platform == "gpu" and keys >= _CUDNN_KEYS and fuses(queries, keys, dtype):
        return "cudnn"
    if platform == "tpu":
        return "flash" if min(length, keys) >= _FLASH_LENGTH and flashes(queries, keys, dtype) else "xla"
    return "xla" if heads * length * keys <= MOST_SCORES else "queries"


def fuses(queries: tuple[int, ...], keys: int, dtype: DTypeLike) -> bool:
    """Whether cuDNN has a fused kernel for a shape on this GPU, or on a new one if there is none here."""
    fits = queries[3] <= _CUDNN_HEAD and queries[3] % 8 == 0 and keys % 2 == 0
    return fits and jnp.dtype(dtype).itemsize == 2 and compute_capability() >= AMPERE


def flashes(queries: tuple[int, ...], keys: int, dtype: DTypeLike) -> bool:
    """Whether Pallas's kernel for TPUs takes a shape. XLA does not split it over devices: see `batch_mesh`."""
    mesh, last = batch_mesh(), _FLASH_BLOCKS[-1]
    even = jax.device_count() == 1 if mesh is None else queries[0] % mesh.size == 0
    return even and jnp.dtype(dtype).itemsize == 2 and queries[1] % last == 0 and keys % last == 0


def _flash(q: Array, k: Array, v: Array) -> Array:
    """Pallas's kernel for TPUs, on each device for its part of the batch."""
    mesh = batch_mesh()
    if mesh is None or mesh.size == 1:
        return _flash_here(q, k, v)
    spec = PartitionSpec(mesh.axis_names)
    # The kernel's results are not known to vary over the mesh, so that cannot be checked.
    split = jax.shard_map(_flash_here, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    return split(q, k, v)


def _flash_here(q: Array, k: Array, v: Array) -> Array:
    """The kernel with blocks of its gradient as large as those forward."""
    if any(x.shape[1] % _FLASH_BLOCKS[-1] for x in (q, k)):
        raise ValueError(
            f"q {q.shape}, k {k.shape}: backend flash takes lengths that 128 divides; choose another"
        )
    # Pallas takes a second to import, and only TPUs need it.
    from jax.experimental.pallas.ops.tpu import flash_attention as pallas

    rows, columns = (next(size for size in _FLASH_BLOCKS if x.shape[1] % size == 0) for x in (q, k))
    names = ("block_q", "block_q_major_dkv", "block_q_dkv", "block_q_dq")
    more = ("block_k_major", "block_k", "block_k_major_dkv", "block_k_dkv", "block_k_major_dq", "block_k_dq")
    blocks = pallas.BlockSizes(block_b=1, **dict.fromkeys(names, rows), **dict.fromkeys(more, columns))
    heads_first = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    out = pallas.flash_attention(*heads_first, sm_scale=q.shape[3] ** -0.5, block_sizes=blocks)
    return out.transpose(0, 2, 1, 3)


def _by_queries(q: Array, k: Array, v: Array, max_scores: int) -> Array:
    """One block of queries of all images and heads at a time; the backward pass recomputes each block's scores."""
    batch, length, heads, dim = q.shape
    blocks = -(-length * heads * k.shape[1] // max_scores)
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q * dim**-0.5, k, v))
    # Padded queries fill the last block; their rows are cut off at the end.
    q = jnp.pad(q, ((0, 0), (0, 0), (0, -length % blocks), (0, 0)))
    parts = jnp.moveaxis(q.reshape(batch, heads, blocks, -1, dim), 2, 0)
    step = jax.checkpoint(_block)
    out = jnp.moveaxis(lax.map(lambda part: step(part, k, v), parts), 0, 2)
    return out.reshape(batch, heads, -1, dim)[:, :, :length].transpose(0, 2, 1, 3)


def _chunked(q: Array, k: Array, v: Array, max_scores: int) -> Array:
    """All scores at once if they are few, otherwise one head and one block of queries at a time.

    CPUs run plain matrix products faster than batched ones, so the code loops over heads. The backward pass
    recomputes each block's scores.
    """
    batch, length, heads, dim = q.shape
    # Scaling the queries costs D operations per row, scaling the scores Nk.
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q * dim**-0.5, k, v))
    if batch * heads * length * k.shape[2] <= max_scores:
        return _block(q, k, v).transpose(0, 2, 1, 3)
    blocks = -(-length * k.shape[2] // max_scores)
    # Padded queries fill the last block; their rows are cut off at the end.
    q = jnp.pad(q, ((0, 0), (0, 0), (0, -length % blocks), (0, 0)))
    # Without recomputation the backward pass would hold the scores of all blocks, the whole matrix.
    step = jax.checkpoint(_block)

    def head(args: tuple[Array, Array, Array]) -> Array:
        q, k, v = args
        return lax.map(lambda block: step(block, k, v), q.reshape(blocks, -1, dim)).reshape(-1, dim)

    out = lax.map(head, tuple(x.reshape(batch * heads, -1, dim) for x in (q, k, v)))
    return out.reshape(batch, heads, -1, dim)[:, :, :length].transpose(0, 2, 1, 3)


def _block(q: Array, k: Array, v: Array) -> Array:
    """Attention of (..., n, D) pre-scaled queries, normalised after the product with v."""
    scores = jnp.einsum("...qd,...kd->...qk", q, k, preferred_element_type=jnp.float32)
    # Subtracting the row's maximum keeps exp finite; the softmax does not change.
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    out = jnp.einsum("...qk,...kd->...qd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (out / weights.sum(axis=-1, keepdims=True)).astype(q.dtype)
