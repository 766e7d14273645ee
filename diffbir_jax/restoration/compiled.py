"""Compiled programs, one per function and shapes; they are counted, and the compiler tells their memory."""

import inspect
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from operator import methodcaller
from typing import NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jax.stages import Compiled, Wrapped
from jax.typing import DTypeLike

from diffbir_jax.files.trees import Params, Tree
from diffbir_jax.models.attention import forced
from diffbir_jax.models.platform import HOPPER, batches_over, compute_capability, target_platform
from diffbir_jax.sharding import AXES


class Memory(NamedTuple):
    """Bytes of one call on one device, by the compiler's analysis.

    Attributes:
        arguments: what is read, parameters included.
        results: what is returned.
        temporary: what is held in between.
    """

    arguments: int
    results: int
    temporary: int


T = TypeVar("T")
# A function, then what else a program depends on.
Key = tuple[Wrapped, *tuple[object, ...]]
# Programs kept in memory: each holds some 15 MB on CPUs, which would add up over folders of many shapes.
KEPT = 48
# Of all restorers of the process: parameters are arguments, so those of one preset share programs.
_COMPILED: dict[Key, Compiled] = {}
# Every plan asks for all of its programs, and the compiler counts the bytes of large ones anew for 10 ms each.
_MEMORY: WeakKeyDictionary[Compiled, Memory] = WeakKeyDictionary()
_LOCK = threading.Lock()


class Programs:
    """Compiles functions ahead of time and keeps what it compiled, up to a number of programs.

    When the number is reached, all are released; those that are needed again come from the compilation cache on disk.
    """

    def __init__(self, mesh: Mesh | None = None):
        """Take the devices that share the work; None is the default device alone."""
        self.mesh = mesh
        self.ordered = target_platform() == "gpu"
        self.compiled = _COMPILED
        self.known: set[int] = set()
        # The stage that is compiled next, in words, and the context in which that happens: for what a run shows.
        self.doing = ""
        self.compiling: Callable[[str, bool], AbstractContextManager[object]] = _silently

    @property
    def devices(self) -> int:
        """How many devices share the work."""
        return 1 if self.mesh is None else self.mesh.size

    def hold(self, params: dict[str, Params]) -> dict[str, Params]:
        """Put parameters on the devices, kernels of convolutions (height, width, in, out) in the platform's order."""
        return laid(self.place(params))

    def place(self, tree: T, axis: int | None = None) -> T:
        """Put arrays, or abstract ones, on the devices, split along `axis`; without it, whole on every device."""
        sharding = self.sharding(axis)
        if sharding is None:
            return tree

        def placed(leaf: Array | np.ndarray | jax.ShapeDtypeStruct) -> Array | jax.ShapeDtypeStruct:
            if isinstance(leaf, jax.ShapeDtypeStruct):
                return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
            return jax.device_put(leaf, sharding)

        return jax.tree.map(placed, tree)

    def sharding(self, axis: int | None = None) -> NamedSharding | None:
        """The sharding of arrays that are split along `axis`, or whole on every device; None on one device."""
        if self.mesh is None:
            return None
        spec = PartitionSpec() if axis is None else PartitionSpec(*(None,) * axis, AXES)
        return NamedSharding(self.mesh, spec)

    def get(self, function: Wrapped, *args: Tree, **static: object) -> Compiled:
        """Return the program of a jitted function for arrays, or abstract ones, like `args`.

        Static arguments are given by name; `args` are the others, in the order of the function's signature.
        """
        leaves, tree = jax.tree.flatten(args)
        shapes = tuple((leaf.shape, str(leaf.dtype), self._lies(leaf)) for leaf in leaves)
        precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
        settings = (*sorted(static.items(), key=lambda item: item[0]), self.ordered, forced())
        key = (function, settings, tree, shapes, precision)
        # One that was released comes from the cache on disk; nobody counted it a second time.
        again = hash(key) in self.known
        self.known.add(hash(key))
        with _LOCK:
            if key not in self.compiled:
                if len(self.compiled) >= KEPT:
                    _release(self.compiled)
                with self.compiling(self.doing, again), batches_over(self.mesh):
                    self.compiled[key] = function.lower(*_bound(function, args, static)).compile()
            return self.compiled[key]

    def _lies(self, leaf: Array | np.ndarray | jax.ShapeDtypeStruct) -> Sharding | None:
        """How an array lies on the devices; None where that is the default device."""
        sharding = getattr(leaf, "sharding", None)
        default = sharding is not None and sharding.device_set == {jax.local_devices()[0]}
        return None if self.mesh is None and default else sharding

    def __call__(self, function: Wrapped, *args: Tree, **static: object) -> Tree:
        """Call a jitted function through its program; arguments as in `get`."""
        return self.get(function, *args, **static)(*args)

    def memory(self, function: Wrapped, *args: Tree, **static: object) -> Memory:
        """Return what a call takes, compiling the program if need be; arguments as in `get`."""
        program = self.get(function, *args, **static)
        if program not in _MEMORY:
            found = program.memory_analysis()
            assert found is not None
            _MEMORY[program] = Memory(
                found.argument_size_in_bytes, found.output_size_in_bytes, found.temp_size_in_bytes
            )
        return _MEMORY[program]

    def operations(self, function: Wrapped, *args: Tree, **static: object) -> float:
        """Return the floating-point operations of a call, each loop counted as one turn; arguments as in `get`."""
        return float((self.get(function, *args, **static).cost_analysis() or {}).get("flops", 0.0))


def _silently(doing: str, again: bool) -> AbstractContextManager[object]:
    """The context of those that show nothing."""
    return nullcontext()


def kernel_order(dtype: DTypeLike, capability: float) -> Layout:
    """The memory order of kernels (height, width, in, out) that cuDNN reads; every program copies kernels in others.

    The axis of the output channels is the outermost one in memory. In 16 bits, and from Hopper on, images lie pixel by
    pixel and kernels with the input channels innermost; else channel by channel, and kernels with the width innermost.
    """
    by_pixel = jnp.dtype(dtype).itemsize == 2 or capability >= HOPPER
    return Layout(major_to_minor=(3, 0, 1, 2) if by_pixel else (3, 2, 0, 1))


def laid(params: T) -> T:
    """Parameters on the devices, on GPUs with kernels of convolutions (height, width, in, out) in the GPU's order."""
    return jax.tree.map(_ordered, params) if target_platform() == "gpu" else params


def _ordered(leaf: Array) -> Array:
    """An array whose elements lie as this process's GPU reads them, if it is a convolution's kernel."""
    if leaf.ndim != 4:
        return leaf
    return jax.device_put(leaf, Format(kernel_order(leaf.dtype, compute_capability()), leaf.sharding))


def _release(compiled: dict[Key, Compiled]) -> None:
    """Let go of programs, also in the caches that JAX keeps for their functions."""
    functions = {key[0] for key in compiled}
    compiled.clear()
    for function in functions:
        # The type of jitted functions does not name it.
        methodcaller("clear_cache")(function)


def _bound(function: Wrapped, args: tuple[Tree, ...], static: dict[str, object]) -> list[Tree]:
    """All arguments in the order of the function's signature."""
    others = iter(args)
    names = inspect.signature(function).parameters
    return [static[name] if name in static else next(others) for name in names]
