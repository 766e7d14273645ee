"""What a finished run says of its result: a command that works, or what it still needs."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from ml_collections import ConfigDict

from diffbir_jax.batch.flags import parse
from diffbir_jax.batch.settings import settings_from
from diffbir_jax.cli import train as command
from diffbir_jax.console import configurations
from diffbir_jax.training import distributed
from diffbir_jax.training.outcome import outcome
from diffbir_jax.weights.loading import weight_files
from tests.weights.test_files import write


@pytest.fixture(autouse=True)
def nothing_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFBIR_WEIGHTS", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def told(config: ConfigDict, *names: str) -> str:
    write(Path("my run/export"), *names, preset=config.preset)
    return outcome(config, "my run")


def test_the_control_of_a_shipped_version_is_used_at_once() -> None:
    """The command is read by the program that it is for, and its weights are found."""
    first, line = told(configurations.load("bsr:tiny"), "control").split("\n")
    assert first == "my run/export has the weights: control; use them:"
    assert line == "  diffbir restore PHOTO -o restored --version tiny --weights 'my run/export'"
    recipe = settings_from(parse(shlex.split(line)[2:])).recipe
    files = weight_files(recipe.preset(), recipe.weights)
    assert files["control"] == Path("my run/export/control.safetensors") and len(files) == 4


@pytest.mark.parametrize(
    "name, exported, line",
    [
        ("tiny_rm", ["rm"], "--version tiny --stage1 'my run/export/rm.safetensors'"),
        ("rm_swinir", ["rm"], "--version v1 --stage1 'my run/export/rm.safetensors' --stage1-only"),
        ("tiny_vae", ["vae"], "the UNet and the control are trained on its latents next (config.weights)"),
        (
            "tiny_prior",
            ["unet"],
            "they belong with work/vae/export/vae.safetensors:\n  put all of them in one",
        ),
        ("tiny_control", ["control"], "work/vae/export/vae.safetensors, work/prior/export/unet.safetensors:"),
        ("bsr", ["control"], "the other networks of v2.1 are in neither that folder nor the usual one:"),
        ("bfr", ["control"], "the other networks of v2 are in neither"),
        ("hypir", ["lora", "unet_hypir"], "belong with weights/vae.safetensors, weights/text.safetensors:"),
    ],
)
def test_what_a_result_still_needs(name: str, exported: list[str], line: str) -> None:
    assert line in told(configurations.load(name), *exported)


def test_published_networks_that_are_here_complete_it(tmp_path: Path) -> None:
    write(tmp_path / "home", "swinir_realesrgan", "vae_zsnr", "unet_zsnr", "text_zsnr")
    assert told(configurations.load("bsr"), "control").endswith("--version v2.1 --weights 'my run/export'")


@pytest.mark.parametrize("first", [True, False])
def test_only_the_first_process_tells(
    first: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(Path("run/export"), "control")
    monkeypatch.setattr(distributed, "is_first", lambda: first)
    args = SimpleNamespace(workdir="run")
    command.say_outcome(configurations.load("bsr:tiny"), args)  # pyright: ignore[reportArgumentType]
    assert ("run/export has the weights: control" in capsys.readouterr().out) == first


def test_a_degradation_estimate_is_packed() -> None:
    first, line = told(configurations.load("estimate"), "degradation").split("\n")
    assert first == "my run/export has the weights: degradation; make them those of the package:"
    assert line == "  python scripts/pack_estimate.py 'my run/export/degradation.safetensors'"
