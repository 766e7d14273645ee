"""PyTorch's side of `benchmarks.networks`: diffusers' and spandrel's networks with random weights."""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np

Format = Literal["contiguous", "channels_last"]


class Peer:
    """A PyTorch module and its inputs.

    Args:
        module: a `torch.nn.Module`.
        inputs: float32 arrays; those with four axes are NHWC and reach the module as NCHW.
        call: how to call the module, by default with the inputs in order.

    Raises:
        SystemExit: PyTorch or the library of the module is missing.
    """

    FORMATS: ClassVar[tuple[Format, ...]] = ("contiguous", "channels_last")

    def __init__(self, module: Any, inputs: list[np.ndarray], call: Callable[..., Any] | None = None) -> None:
        torch = load("torch")
        self.module = module.eval()
        self.call = call or module
        channels_first = [x.transpose(0, 3, 1, 2) if x.ndim == 4 else x for x in inputs]
        self.inputs = [torch.from_numpy(x.copy(order="C")) for x in channels_first]

    def in_format(self, layout: Format) -> Callable[[], Any]:
        """The module as a call without arguments that keeps images and kernels in this memory format."""
        torch = load("torch")
        memory = getattr(torch, f"{layout}_format" if layout == "contiguous" else layout)
        self.module.to(memory_format=memory)
        self.inputs = [x.contiguous(memory_format=memory) if x.ndim == 4 else x for x in self.inputs]
        return torch.inference_mode()(lambda: self.call(*self.inputs))

    def on(self, device: str, dtype: str) -> None:
        """Move the module and its inputs to a device of PyTorch, "cpu" or "cuda", in a dtype such as "bfloat16"."""
        where = {"device": device, "dtype": getattr(load("torch"), dtype)}
        self.module.to(**where)
        self.inputs = [x.to(**where) for x in self.inputs]

    def timed(self, layout: Format, fuse: bool = False) -> Callable[[], Any]:
        """As `in_format`, but it waits for the device; `fuse` calls it through `torch.compile`."""
        torch = load("torch")
        if fuse:
            self.call = torch.compile(self.call)
        run = self.in_format(layout)

        def wait() -> Any:
            result = run()
            if self.inputs[0].is_cuda:
                torch.cuda.synchronize()
            return result

        return wait

    def flop(self) -> int:
        """Floating-point operations of products and convolutions in one call."""
        torch, counter = load("torch"), load("torch.utils.flop_counter").FlopCounterMode(display=False)
        with counter, torch.no_grad():
            self.call(*self.inputs)
        return counter.get_total_flops()

    def profile(self) -> dict[str, float]:
        """Seconds per kind of operation in one call."""
        torch, profiler = load("torch"), load("torch.profiler")
        with profiler.profile(activities=[profiler.ProfilerActivity.CPU]) as result, torch.inference_mode():
            self.call(*self.inputs)
        return {event.key: event.self_cpu_time_total / 1e6 for event in result.key_averages()}


def load(name: str) -> Any:
    """Import a module of one of the peers' libraries.

    Raises:
        SystemExit: the library is missing; the message says how to install the peers.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"{error.name} is not installed here; the docstring of benchmarks/networks.py says how to install the peers"
        ) from error


def use_threads(count: int) -> None:
    """Let PyTorch use that many cores."""
    load("torch").set_num_threads(count)


def _unet(inputs: list[np.ndarray]) -> Peer:
    return Peer(load("diffusers").UNet2DConditionModel(**_STABLE_DIFFUSION), inputs)


def _control(inputs: list[np.ndarray]) -> Peer:
    """DiffBIR's first convolution reads latent and hint at once, which is a convolution of each and a sum."""
    module = load("diffusers").ControlNetModel(**_STABLE_DIFFUSION_ENCODER)
    module.controlnet_cond_embedding = load("torch").nn.Conv2d(4, 320, 3, padding=1)
    return Peer(module, inputs, lambda x, hint, t, context: module(x, t, context, hint))


def _vae(method: str) -> Callable[[list[np.ndarray]], Peer]:
    def make(inputs: list[np.ndarray]) -> Peer:
        module = load("diffusers").AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
        return Peer(module, inputs, getattr(module, method))

    return make


def _swinir(inputs: list[np.ndarray]) -> Peer:
    module = _spandrel("SwinIR").SwinIR(
        img_size=64,
        embed_dim=180,
        depths=[6] * 8,
        num_heads=[6] * 8,
        window_size=8,
        mlp_ratio=2.0,
        upscale=8,
        upsampler="nearest+conv",
        start_unshuffle=8,
    )
    return Peer(module, inputs)


def _bsrnet(inputs: list[np.ndarray]) -> Peer:
    return Peer(_spandrel("ESRGAN").ESRGAN(), inputs)


def _scunet(inputs: list[np.ndarray]) -> Peer:
    return Peer(_spandrel("SCUNet").SCUNet(), inputs)


def _spandrel(architecture: str) -> Any:
    """One of spandrel's rooms. Two others import torchvision for functions that are not called here: a stub will do."""
    if importlib.util.find_spec("torchvision") is None and "torchvision" not in sys.modules:
        names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
        stubs = {name: types.ModuleType(name) for name in names}
        stubs[names[-1]].__dict__.update(InterpolationMode=None, rotate=None, normalize=None)
        sys.modules.update(stubs)
        load("spandrel")
        for name in names:
            del sys.modules[name]
    return load(f"spandrel.architectures.{architecture}")


_STABLE_DIFFUSION_ENCODER = {
    "in_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
_STABLE_DIFFUSION = _STABLE_DIFFUSION_ENCODER | {
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
}

PEERS: dict[str, Callable[[list[np.ndarray]], Peer]] = {
    "unet": _unet,
    "control": _control,
    "vae encode": _vae("encode"),
    "vae decode": _vae("decode"),
    "swinir": _swinir,
    "bsrnet": _bsrnet,
    "scunet": _scunet,
}
