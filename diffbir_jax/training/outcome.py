"""What a finished run wrote, and the command that uses it."""

import shlex
from pathlib import Path

from diffbir_jax.models.presets import Preset, get_preset
from diffbir_jax.training.config import Config
from diffbir_jax.training.writers import EXPORT
from diffbir_jax.weights.loading import weight_files

COMMAND = "diffbir restore PHOTO -o restored --version"


def outcome(config: Config, workdir: str | Path) -> str:
    """Return, in two lines, what a finished run wrote and how to use it.

    Args:
        config: of the run.
        workdir: its work folder.
    """
    folder = Path(workdir).expanduser() / EXPORT
    preset, names = get_preset(config.preset), sorted(file.stem for file in folder.glob("*.safetensors"))
    return f"{folder} has the weights: {', '.join(names)}; {use(config, preset, folder, names)}"


def use(config: Config, preset: Preset, folder: Path, names: list[str]) -> str:
    """Return what to do with exported files, as a command if one restores with them now."""
    command = f"use them:\n  {COMMAND} {preset.name}"
    if names == ["rm"]:
        alone = "" if available(preset, None) else " --stage1-only"
        return f"{command} --stage1 {shlex.quote(str(folder / 'rm.safetensors'))}{alone}"
    if names == ["degradation"]:
        file = shlex.quote(str(folder / "degradation.safetensors"))
        return f"make them those of the package:\n  python scripts/pack_estimate.py {file}"
    if preset.files.vae in names and preset.files.unet not in names:
        return "the UNet and the control are trained on its latents next (config.weights)"
    if beside := others(config, preset, names):
        return (
            f"they belong with {', '.join(beside)}:\n  put all of them in one folder for {COMMAND} {preset.name} "
            "--weights DIR"
        )
    if not available(preset, folder):
        return (
            f"the other networks of {preset.name} are in neither that folder nor the usual one:\n  put them there for "
            f"{COMMAND} {preset.name} --weights {shlex.quote(str(folder))}"
        )
    return f"{command} --weights {shlex.quote(str(folder))}"


def others(config: Config, preset: Preset, names: list[str]) -> list[str]:
    """Return the files of networks that the run had from places of its own, but for those that it exports."""
    found = []
    for name in preset.modules:
        file, known = config.get("weights", {}).get(name), {name, getattr(preset.files, name)}
        # v2 is trained with a stage 1 that it does not restore with.
        if file and not known & {*names} and (name != "rm" or Path(file).stem in known):
            found.append(str(file))
    return found


def available(preset: Preset, folder: Path | None) -> bool:
    """Whether a version can be restored with by the weights of a folder and the usual ones."""
    try:
        weight_files(preset, folder)
    except FileNotFoundError:
        return False
    return True
