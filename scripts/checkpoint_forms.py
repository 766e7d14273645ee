"""Write checkpoints of every form that is in use, with small random weights, and print what becomes of each.

    python scripts/checkpoint_forms.py              # the table in docs/published.md

Nothing is downloaded and PyTorch is not needed. Each form stands for files as tools write them.
"""

import io
import pickle
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from diffbir_jax.console.errors import UserError
from diffbir_jax.conversion import architectures
from diffbir_jax.conversion.architectures import Architecture
from diffbir_jax.conversion.engine import torch_shapes
from diffbir_jax.conversion.from_torch import convert_file
from diffbir_jax.conversion.torch_files import MAGIC, PROTOCOL
from diffbir_jax.conversion.torch_writing import Call, Pickle, write_torch
from diffbir_jax.models.bsrnet import BSRNetConfig
from diffbir_jax.models.clip import CLIPTextConfig
from diffbir_jax.models.scunet import SCUNetConfig
from diffbir_jax.models.srvgg import SRVGGConfig
from diffbir_jax.models.swinir import SwinIRConfig
from diffbir_jax.models.unet import UNetConfig
from diffbir_jax.models.vae import VAEConfig

State = dict[str, np.ndarray]
LONGEST = 150  # characters of a reason in the table
SWINIR = SwinIRConfig(12, 2, 2, 2, num_feat=8)
OFFICIAL = replace(SWINIR, unshuffle=1)
RRDB = BSRNetConfig(num_feat=8, num_blocks=2, growth=4)
UNET = UNetConfig(model_channels=32, num_head_channels=32, context_dim=64)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 5214865159\n"


class Form(NamedTuple):
    """A form of checkpoint: how the table calls it, the file's name, and what writes it."""

    title: str
    name: str
    write: Callable[[Path], Any]


def pth(title: str, value: Any) -> Form:
    """Return a form in PyTorch's zip format."""
    return Form(title, "w.pth", torch_file(value))


def weights(kind: Architecture, config: Any, prefix: str = "") -> State:
    """Return random weights of a network by PyTorch's keys."""
    shapes = torch_shapes(list(kind.rules(config)), kind.abstract(config))
    rng = np.random.default_rng(0)
    return {prefix + key: rng.standard_normal(shape, np.float32) for key, shape in shapes.items()}


def swinir(prefix: str = "", sign: int = 1) -> State:
    """Return a SwinIR of DiffBIR; all forms of files hold the same one."""
    return {key: sign * x for key, x in weights(architectures.SWINIR, SWINIR, prefix).items()}


def official(**sizes: Any) -> State:
    """Return a SwinIR with one of the official heads."""
    return weights(architectures.SWINIR, replace(OFFICIAL, **sizes))


def stable_diffusion() -> State:
    """Return UNet, VAE and text tower in one file, with averaged weights beside the UNet's."""
    text = CLIPTextConfig(width=64, heads=16, layers=2, vocab=50)
    state = {
        **weights(architectures.UNET, UNET, "model.diffusion_model."),
        **weights(architectures.VAE, VAEConfig(ch=32), "first_stage_model."),
        **weights(architectures.TEXT, text, "cond_stage_model."),
    }
    names = [key for key in state if key.startswith("model.")]
    return state | {"model_ema." + key.removeprefix("model.").replace(".", ""): -state[key] for key in names}


def write_old(path: Path, value: Any) -> None:
    """Write a value as PyTorch before 1.6 did."""
    pickled = Pickle(old=True)
    system = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4}}
    head = [Pickle().dump(x) for x in (MAGIC, PROTOCOL, system)]
    body = [pickled.dump(value), Pickle().dump([str(i) for i in range(len(pickled.arrays))])]
    values = [struct.pack("<q", x.size) + x.tobytes() for x in pickled.arrays]
    path.write_bytes(b"".join([*head, *body, *values]))


def torch_file(value: Any) -> Callable[[Path], Any]:
    """Return what writes a value in PyTorch's zip format."""
    return lambda path: write_torch(path, value() if callable(value) else value)


def raw(data: bytes) -> Callable[[Path], Any]:
    """Return what writes bytes."""
    return lambda path: path.write_bytes(data)


def archived(names: Mapping[str, bytes], **more: Any) -> Callable[[Path], Any]:
    """Return what writes a zip archive."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", **more) as archive:
            for name, data in names.items():
                archive.writestr(name, data)

    return write


def torch_script(path: Path) -> None:
    """Write a program as `torch.jit.save` does: only its code is compressed."""
    archived({"net/data/0": b"1234", "net/data.pkl": b"\x80\x02}.", "net/constants.pkl": b"\x80\x02)."})(path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/code/__torch__.py", "class Net(Module):\n" + 40 * "  weight : Tensor\n")


def cut(write: Callable[[Path], Any], share: float) -> Callable[[Path], Any]:
    """Return what writes only a share of a file."""

    def part(path: Path) -> None:
        write(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])

    return part


def lightning() -> dict[str, Any]:
    """Return what PyTorch Lightning saves: objects, a prefix, losses and a discriminator beside the weights."""
    double = Call("numpy", "dtype", ("f8", False, True), (3, "<", None, None, None, -1, -1, 0))
    best = Call("numpy.core.multiarray", "scalar", (double, struct.pack("<d", 27.5)))
    return {
        "epoch": 3,
        "callbacks": {Call("pytorch_lightning.callbacks", "ModelCheckpoint"): {"best_model_score": best}},
        "hyper_parameters": Call("argparse", "Namespace", (), {"lr": 1e-4}),
        "state_dict": swinir("net.") | {"disc.0.weight": np.ones(1, np.float32)},
    }


def without(state: State, key: str) -> State:
    """Return a state dict that lacks a key."""
    return {name: x for name, x in state.items() if name != key}


def with_value(state: State, key: str, value: float) -> State:
    """Return a state dict with one value in one array replaced."""
    changed = state[key].copy()
    changed.flat[0] = value
    return state | {key: changed}


def containers() -> list[Form]:
    """Return the forms that differ in what stands around the weights."""
    step = {"step": 5}
    return [
        pth("state dict, zip format", swinir),
        Form("state dict, format before PyTorch 1.6", "w.pth", lambda path: write_old(path, swinir())),
        pth("`params` and `params_ema` (BasicSR)", {"params": swinir(), "params_ema": swinir("", -1)}),
        pth(
            "`state_dict` and `state_dict_ema` (timm)",
            {"state_dict": swinir(), "state_dict_ema": swinir("", -1)},
        ),
        Form("`model` and `ema`", "w.pt", torch_file({"model": swinir(), "ema": swinir("", -1)})),
        Form(
            "`model` and `model_ema` (DeiT, ConvNeXt)",
            "w.pth",
            torch_file({"model": swinir(), "model_ema": swinir("module.", -1)}),
        ),
        Form("`g` and `g_ema` (StyleGAN)", "w.pt", torch_file({"g": swinir(), "g_ema": swinir("", -1)})),
        Form(
            "`model_state_dict` with an optimiser (PyTorch's tutorials)",
            "w.pt",
            torch_file({"model_state_dict": swinir(), "optimizer_state_dict": {"state": {}}}),
        ),
        pth("`net_g`", {"net_g": swinir(), **step}),
        Form(
            "`state_dict`, prefix `net.`, callbacks, `Namespace`, NumPy scalars, a discriminator (Lightning)",
            "w.ckpt",
            torch_file(lightning),
        ),
        pth(
            "prefix `module.` and `n_averaged` (AveragedModel)",
            {**swinir("module."), "n_averaged": np.ones((), np.int64)},
        ),
        pth("prefix `module.` (DataParallel)", {"state_dict": swinir("module.")}),
        pth("prefix `_orig_mod.` (torch.compile)", swinir("_orig_mod.")),
        pth("prefix `module._orig_mod.model.`", swinir("module._orig_mod.model.")),
        pth(
            "`_orig_mod.` inside some keys (compiled layers)",
            {k.replace("layers.1.", "layers.1._orig_mod."): x for k, x in swinir().items()},
        ),
        pth("prefixes `net_g.` and `net_g_ema.` in one dict", swinir("net_g.") | swinir("net_g_ema.", -1)),
        Form(
            "IRControlNet, prefix `controlnet.`",
            "w.ckpt",
            torch_file(lambda: weights(architectures.CONTROL, UNET, "controlnet.")),
        ),
        Form("Stable Diffusion with `model_ema.*`", "w.ckpt", torch_file({"state_dict": stable_diffusion()})),
        pth("bfloat16", {k: x.astype(jnp.bfloat16) for k, x in swinir().items()}),
        pth("float16", {k: x.astype(np.float16) for k, x in swinir().items()}),
        Form("safetensors", "w.safetensors", lambda path: save_file(swinir(), path)),
        Form("safetensors with the name of a PyTorch file", "w.pth", lambda path: save_file(swinir(), path)),
        Form("a PyTorch file with the name of safetensors", "w.safetensors", torch_file(swinir)),
        Form("pickle of NumPy arrays", "w.pth", lambda path: path.write_bytes(pickle.dumps(swinir()))),
    ]


def networks() -> list[Form]:
    """Return the published networks for stage 1, at small size."""
    kinds = architectures
    return [
        *(pth(f"SwinIR, classical x{n}", official(upsampler="pixelshuffle", scale=n)) for n in (2, 3, 4, 8)),
        *(
            pth(f"SwinIR, lightweight x{n}", official(upsampler="pixelshuffledirect", scale=n))
            for n in (2, 3, 4)
        ),
        pth("SwinIR, real photos x4", {"params_ema": official(scale=4)}),
        pth("SwinIR, real photos x4, large", {"params_ema": official(scale=4, bottleneck=True)}),
        pth("SwinIR, denoising", {"params": official(upsampler="none")}),
        pth("SwinIR, JPEG (windows of 7)", {"params": official(upsampler="none", window=7)}),
        pth("ESRGAN, names before 2020", weights(kinds.OLD_ESRGAN, RRDB)),
        pth("ESRGAN, BSRGAN, BSRNet", weights(kinds.BSRNET, RRDB)),
        pth("Real-ESRGAN x4plus, x4plus-anime", {"params_ema": weights(kinds.REALESRGAN, RRDB)}),
        pth(
            "Real-ESRGAN x2plus",
            {"params_ema": weights(kinds.REALESRGAN, replace(RRDB, scale=2, unshuffle=2))},
        ),
        pth(
            "Real-ESRGAN general-x4v3, animevideov3 (SRVGG)",
            {"params": weights(kinds.SRVGG, SRVGGConfig(8, 2))},
        ),
        pth("SCUNet", weights(kinds.SCUNET, SCUNetConfig(32, (1, 1, 1, 1, 1, 1, 1), head_dim=16))),
    ]


def refused() -> list[Form]:
    """Return the forms that cannot be converted."""
    rng = np.random.default_rng(0)
    table = "layers.{}.residual_group.blocks.{}.attn.relative_position_bias_table"
    wide = {table.format(i, j): np.zeros((40_000, 2), np.float32) for i in range(2) for j in range(2)}
    first = rng.standard_normal((8, 3, 3, 3), np.float32)
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", Pickle().dump({}))
    return [
        Form("Git LFS pointer", "w.ckpt", raw(LFS)),
        Form("web page", "w.pth", raw(b"<!DOCTYPE html><html>Just a moment...</html>")),
        Form("message of a server", "w.pth", raw(b"Invalid username or password.")),
        Form("empty file", "w.pth", raw(b"")),
        Form("file of zeros", "w.pth", raw(bytes(10_000))),
        Form("download that a browser has not finished", "w.pth.crdownload", cut(torch_file(swinir), 0.5)),
        Form("half a zip file", "w.pth", cut(torch_file(swinir), 0.5)),
        Form("half a file of the old format", "w.pth", cut(lambda path: write_old(path, swinir()), 0.5)),
        Form("PyTorch's zip archive, packed again", "w.pth", raw(whole.getvalue())),
        Form("another zip archive", "w.pth", archived({"readme.txt": b"", "weights.bin": b""})),
        Form(
            "TorchScript",
            "w.pt",
            torch_script,
        ),
        pth("whole model, saved by `torch.save(model)`", Call("basicsr.archs", "SwinIR", (), {})),
        pth("optimiser without weights", {"optimizer": {"state": {}}, "epoch": 3}),
        pth("two dicts of unknown names", {"first": swinir(), "second": swinir()}),
        pth("two networks with different prefixes", swinir("first.") | swinir("second.")),
        pth("another network (HAT)", {f"layers.{i}.overlap_attn.qkv.weight": first for i in range(6)}),
        pth(
            "absurd number of blocks", {"conv_first.weight": first, "body.99999999.rdb1.conv1.weight": first}
        ),
        pth("absurd windows", swinir() | wide),
        pth(
            "network for grey photos",
            weights(architectures.BSRNET, RRDB) | {"conv_first.weight": first[:, :1]},
        ),
        pth("a key is missing", without(swinir(), "conv_first.1.weight")),
        pth("a value is NaN", with_value(swinir(), "norm.bias", np.nan)),
    ]


def forms() -> list[Form]:
    """Return all forms."""
    return [*containers(), *networks(), *refused()]


def outcome(form: Form, folder: Path) -> tuple[str, str]:
    """Write a form into an empty folder and convert it; return the result, and what the command says."""
    path, notes = folder / form.name, []
    form.write(path)
    try:
        entries = convert_file(path, folder / "out", say=notes.append)
    except UserError as error:
        reason = " ".join(str(error).replace(f"{path}: ", "").replace(str(path), "FILE").split())
        short = reason if len(reason) <= LONGEST else reason[:LONGEST].rsplit(" ", 1)[0] + " ..."
        return "refused", short
    return f"converted: {', '.join(entry.module for entry in entries)}", "; ".join(notes)


def rows() -> list[str]:
    """Return the lines of the table."""
    lines = ["| form | result | what the command says |", "|---|---|---|"]
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as work:
        warnings.simplefilter("ignore")  # small sizes are not the published ones
        for i, form in enumerate(forms()):
            folder = Path(work) / str(i)
            folder.mkdir()
            lines.append(f"| {form.title} | {' | '.join(outcome(form, folder))} |")
    return lines


if __name__ == "__main__":
    print("\n".join(rows()))
