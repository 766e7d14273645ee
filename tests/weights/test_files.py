"""Where the file of each network comes from: the given folder, and for what it lacks the usual one."""

from pathlib import Path

import numpy as np
import pytest

from diffbir_jax.models.presets import PRESETS, Preset
from diffbir_jax.weights import loading
from diffbir_jax.weights.loading import announce, borrowed, weight_files, with_stage1
from diffbir_jax.weights.safetensors import save_weights
from tests.micro import MICRO

V2_1 = PRESETS["v2.1"]


def write(folder: Path, *names: str, **header: str) -> Path:
    for name in names:
        save_weights(folder / f"{name}.safetensors", {"w": np.ones(1, np.float32)}, header)
    return folder


@pytest.fixture(autouse=True)
def usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of published weights; the preset `micro` is shipped."""
    monkeypatch.setenv("DIFFBIR_WEIGHTS", str(tmp_path / "home"))
    monkeypatch.setattr(loading, "PRETRAINED", tmp_path / "shipped")
    write(tmp_path / "shipped" / "micro", *MICRO.modules)
    return write(tmp_path / "home", *(getattr(V2_1.files, name) for name in V2_1.modules))


def places(preset: Preset, folder: Path | None, modules: list[str] | None = None) -> dict[str, str]:
    """The folder and the name of each network's file."""
    return {n: f"{f.parent.name}/{f.stem}" for n, f in weight_files(preset, folder, modules).items()}


def test_an_export_is_completed_by_what_is_shipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = write(tmp_path / "export", "control", preset="micro", objective="regeneration")
    found = places(MICRO, export)
    assert found == {n: f"micro/{n}" for n in ("rm", "vae", "unet")} | {"control": "export/control"}
    announce(MICRO, export, weight_files(MICRO, export))
    assert capsys.readouterr().err == f"{export} has control; rm, vae, unet are those of micro\n"
    write(export, "unet", "vae")
    assert borrowed(MICRO, export, weight_files(MICRO, export)).endswith("; rm is that of micro")
    # Of the networks that run; the folder is not told to have none.
    (export / "unet.safetensors").unlink()
    assert borrowed(MICRO, export, weight_files(MICRO, export, ["rm"])).endswith(
        "export has vae, control; rm is that of micro"
    )


def test_what_a_whole_folder_has_is_not_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = write(tmp_path / "whole", *MICRO.modules)
    for folder in (None, whole):
        announce(MICRO, folder, weight_files(MICRO, folder))
    assert capsys.readouterr().err == ""
    assert {place.split("/")[0] for place in places(MICRO, whole).values()} == {"whole"}


def test_published_versions_are_completed_by_the_usual_folder(tmp_path: Path, usual: Path) -> None:
    """Training exports a control as `control`; the header says of which version."""
    export = write(tmp_path / "export", "control", preset="v2.1")
    found = weight_files(V2_1, export)
    assert found["control"] == export / "control.safetensors"
    assert found["rm"] == usual / "swinir_realesrgan.safetensors"
    assert borrowed(V2_1, export, found) == f"{export} has control; rm, vae, unet, text are from {usual}"
    (usual / "unet_zsnr.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"export lacks unet_zsnr\.safetensors; .*v2\.1 \(.*home lacks them, too\)"
    ):
        weight_files(V2_1, export)


@pytest.mark.parametrize("header", [{}, {"preset": "v2"}])
def test_files_of_other_versions_do_not_count(tmp_path: Path, header: dict[str, str]) -> None:
    """A folder with none of a version's files is a mistake."""
    with pytest.raises(
        FileNotFoundError, match=r"other lacks swinir_realesrgan\.safetensors, .*control_v2\.1"
    ):
        weight_files(V2_1, write(tmp_path / "other", "control", "unet", "vae", **header))
    with pytest.raises(FileNotFoundError, match=r"nowhere lacks rm\.safetensors, vae"):
        weight_files(MICRO, tmp_path / "nowhere")


def test_a_stage_1_from_elsewhere_is_no_part_of_the_folder(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine", "rm", **MICRO.header("rm")) / "rm.safetensors"
    preset = with_stage1(MICRO, str(mine))
    with pytest.raises(FileNotFoundError, match=r"empty lacks vae\.safetensors"):
        weight_files(preset, tmp_path / "empty")
    export = write(tmp_path / "export", "control")
    found = weight_files(preset, export)
    assert found["rm"] == mine and "; vae, unet are those" in borrowed(preset, export, found)


def test_an_encoder_comes_from_beside_its_control(tmp_path: Path) -> None:
    """Any other one has another training."""
    write(tmp_path / "shipped" / "micro", "condition")
    export = write(tmp_path / "export", "control", condition="conv")
    with pytest.raises(FileNotFoundError, match=r"export lacks condition\.safetensors"):
        weight_files(MICRO, export)
    write(export, "condition")
    assert places(MICRO, export)["condition"] == "export/condition"
    (export / "control.safetensors").unlink()
    write(export, "unet")
    assert "condition" not in places(MICRO, export)
    write(tmp_path / "shipped" / "micro", "control", condition="conv")
    assert places(MICRO, export)["condition"] == "micro/condition"
