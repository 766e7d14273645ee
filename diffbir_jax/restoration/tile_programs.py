"""The programs that take tiles through the networks, and the stream of tiles from images on the host.

A program sees (M, K, ...) tiles: M batches of K, scanned one after the other; the axis K is what devices share. Images
stay on the host, so that memory is that of a batch whatever their size, and tiles of several images share a batch.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from diffbir_jax.imaging.colour import wavelet_colour
from diffbir_jax.models.apply import Params, apply
from diffbir_jax.models.controlnet import ConditionEncoder
from diffbir_jax.models.shared_norms import Norms, apply_normed, measure_norms
from diffbir_jax.models.vae import AutoencoderKL
from diffbir_jax.sampling.guidance import Guidance, Loss, fidelity_weight


def in_batches(function: Callable[[Any], Any], tiles: Any, used: Array) -> Any:
    """Apply a function to batches of tiles, one after the other, as a part of the compiled program.

    Args:
        function: tree of (K, ...) -> tree of (K, ...).
        tiles: tree of (M, K, ...).
        used: (M, K) float32, 0 for tiles that only fill up a batch; batches of such alone are not computed.

    Returns:
        tree of (M, K, ...).
    """
    like = jax.eval_shape(function, jax.tree.map(lambda a: a[0], tiles))

    def skip(_: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)

    def body(_: None, batch: tuple[Any, Array]) -> tuple[None, Any]:
        return None, lax.cond(batch[1].sum() > 0, function, skip, batch[0])

    return lax.scan(body, None, (tiles, used))[1]


@functools.partial(jax.jit, static_argnames="module")
def clean_tiles(module: Any, params: Params, tiles: Array, used: Array) -> Array:
    """Stage 1 of tiles (M, K, h, w, 3) in [0, 1]; float32 of the restoration module's scale."""
    return in_batches(lambda x: apply(module, params, x).astype(jnp.float32), tiles, used)


@functools.partial(jax.jit, static_argnames=("vae", "encoder", "loss", "stop"))
def encode_tiles(
    vae: AutoencoderKL,
    encoder: ConditionEncoder | None,
    loss: Loss,
    stop: int | None,
    params: Params,
    tiles: dict[str, Any],
    used: Array,
) -> Array | Norms:
    """Latents of tiles, how guidance weighs them, and what the control sees in their place.

    Args:
        vae: the autoencoder, of downsampling f.
        encoder: the control's, None if it sees the latents.
        loss: of guidance.
        stop: statistics of so many normalisations are wanted, None for all.
        params: "vae" and, with an encoder, "condition".
        tiles: "image" (M, K, h, w, 3) in [0, 1], "mask" (M, K, h, w, 1) a factor on the weight, and of images in
            several tiles "norms", see `measure_norms`; with "owned" (M, K, h/f, w/f, 1), and "exact" (M, K) beside
            "norms", statistics are wanted.
        used: see `in_batches`.

    Returns:
        latents (M, K, h/f, w/f, c), scaled, the squared difference's weight in latent space as one more channel, and
        with an encoder its output as the last ones; or statistics of the owned pixels.
    """

    def encode(tile: dict[str, Any]) -> Any:
        image = 2.0 * tile["image"] - 1.0
        if "owned" in tile:
            return measure_norms(vae, params["vae"], image, *_known(tile), "encode", stop)
        mean, _ = apply_normed(vae, params["vae"], image, tile.get("norms"), "encode")
        z = vae.config.scale_factor * mean
        found = [z, Guidance(None, loss).prepare(None, image, z, tile["mask"]).weight]
        if encoder is not None:
            found.append(apply(encoder, params["condition"], image))
        return jnp.concatenate(found, axis=-1)

    return in_batches(encode, tiles, used)


@functools.partial(jax.jit, static_argnames=("vae", "levels", "stop"))
def decode_tiles(
    vae: AutoencoderKL, levels: int, stop: int | None, params: Params, tiles: dict[str, Any], used: Array
) -> Array | Norms:
    """Images of latents in the colours of stage 1.

    Args:
        vae: the autoencoder, of downsampling f.
        levels: wavelet levels of the colour correction.
        stop: as in `encode_tiles`.
        params: of the autoencoder.
        tiles: "z" (M, K, h, w, c), scaled, and "clean" (M, K, f h, f w, 3) in about [0, 1], whose low frequencies the
            result takes; with "detail" (M, K), that share of the detail, see `detail_share`; "norms", "owned"
            (M, K, h, w, 1) and "exact" as in `encode_tiles`.
        used: see `in_batches`.

    Returns:
        (M, K, f h, f w, 3) float32 in about [0, 1]; or statistics.
    """

    def decode(tile: dict[str, Any]) -> Any:
        z = tile["z"] / vae.config.scale_factor
        if "owned" in tile:
            return measure_norms(vae, params, z, *_known(tile), "decode", stop)
        image = apply_normed(vae, params, z, tile.get("norms"), "decode")
        image = wavelet_colour((image + 1.0) / 2.0, tile["clean"], levels)
        if "detail" not in tile:
            return image
        return tile["clean"] + detail_share(tile["clean"], tile["detail"]) * (image - tile["clean"])

    return in_batches(decode, tiles, used)


def detail_share(clean: Array, detail: Array) -> Array:
    """How much of the generator's detail each pixel gets: d (1 - W) + d^2 W.

    Edges and texture get the share d itself, flat regions its square: there invented detail is seen first.

    Args:
        clean: (B, H, W, 3) in about [0, 1], stage-1 images, H and W even, whose `fidelity_weight` is W.
        detail: (B,) d in [0, 1]; 1 gives all, 0 none.

    Returns:
        (B, H, W, 1) in [0, 1].
    """
    share = detail[:, None, None, None]
    return share + (share - 1.0) * share * fidelity_weight(2.0 * clean - 1.0)


def _known(tile: dict[str, Any]) -> tuple[Array, Norms | None, Array | None]:
    return tile["owned"], tile.get("norms"), tile.get("exact")


@functools.partial(jax.jit, static_argnames="loss")
def weigh_tiles(loss: Loss, tiles: dict[str, Array], used: Array) -> Array:
    """How far guidance holds each pixel, (M, K, h, w, 1); arguments as in `encode_tiles`."""
    return in_batches(
        lambda tile: Guidance(None, loss).fidelity(2.0 * tile["image"] - 1.0, tile["mask"]), tiles, used
    )


def stream(
    call: Callable[[Any, np.ndarray], Any], tiles: Iterable[Any], shape: tuple[int, int]
) -> Iterator[Any]:
    """Pass tiles through a program, (M, K) at a time; while it computes, earlier results are handed out.

    Args:
        call: (tree of (M, K, ...), used (M, K)) -> tree of (M, K, ...) on devices.
        tiles: trees of numpy arrays, one tile each; consumed as far as needed.
        shape: M and K.

    Yields:
        trees of numpy arrays, one per tile, in order.
    """
    tiles, waiting = iter(tiles), None
    while group := list(islice(tiles, shape[0] * shape[1])):
        count = len(group)
        group += group[-1:] * (shape[0] * shape[1] - count)
        stacked = jax.tree.map(lambda *parts: np.stack(parts).reshape(*shape, *parts[0].shape), *group)
        used = (np.arange(len(group)) < count).astype(np.float32).reshape(shape)
        started = call(stacked, used), count
        if waiting is not None:
            yield from _unstacked(*waiting)
        waiting = started
    if waiting is not None:
        yield from _unstacked(*waiting)


def _unstacked(result: Any, count: int) -> Iterator[Any]:
    """The first `count` tiles of a program's result."""
    leaves, tree = jax.tree.flatten(result)
    flat = [np.asarray(leaf).reshape(-1, *leaf.shape[2:]) for leaf in leaves]
    for tile in islice(zip(*flat), count):
        yield jax.tree.unflatten(tree, tile)
