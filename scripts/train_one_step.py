"""Train all stages of the shipped `one-step` preset, one after the other: the recipe of docs/one_step.md.

    python scripts/train_one_step.py work

`work` holds what the other scripts prepared (docs/one_step.md): photos/train, photos/held_out, teacher,
realesrgan/realesrgan-x4plus.safetensors, mobilenet_v2.safetensors and metrics/lpips_alex.safetensors.

Each stage writes checkpoints: after a stop, the same command goes on where the run ended. `--share 0.1` takes a tenth
of every stage's steps, to see that all of it works.
"""

import argparse
import subprocess
import sys
from pathlib import Path

# `python scripts/train_one_step.py` looks for modules in scripts/ alone.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs import one_step_rm, one_step_vae, tiny_one_step

STAGES = {"rm": one_step_rm, "vae": one_step_vae, "one_step": tiny_one_step}


def overrides(stage: str, work: Path, share: float) -> list[str]:
    """The settings of a stage that depend on the folder and on the share of its steps."""
    config = STAGES[stage].get_config()
    settings = {
        "data.folder": work / "photos/train",
        "data.held_out": work / "photos/held_out",
        "train.steps": max(1, round(share * config.train.steps)),
    }
    if stage == "one_step":
        settings["data.teacher"] = work / "teacher"
        settings["weights.rm"] = work / "rm/export/rm.safetensors"
        settings["weights.vae"] = work / "vae/start.safetensors"
        settings["weights.perceptual"] = work / "mobilenet_v2.safetensors"
        settings["weights.lpips"] = work / "metrics/lpips_alex.safetensors"
    return [f"--config.{name}={value}" for name, value in settings.items()]


def start_decoder(work: Path) -> int:
    """Give the autoencoder its decoder; return the exit status."""
    names = ("realesrgan/realesrgan-x4plus.safetensors", "vae/export/vae.safetensors", "photos/train")
    files = [str(work / name) for name in (*names, "vae/start.safetensors")]
    return subprocess.run([sys.executable, "scripts/start_decoder.py", *files]).returncode


def main() -> int:
    """Run the command line; return the exit status of the first stage that failed, else 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="folder of the prepared files, where runs are written too")
    parser.add_argument("--share", type=float, default=1.0, help="share of each stage's steps (default: 1)")
    args = parser.parse_args()
    for stage in STAGES:
        if stage == "one_step" and (status := start_decoder(args.work)):
            return status
        target = args.work / stage
        command = [
            sys.executable,
            "train.py",
            "--config",
            f"configs/{Path(str(STAGES[stage].__file__)).name}",
            "--workdir",
            str(target),
        ]
        status = subprocess.run([*command, *overrides(stage, args.work, args.share)]).returncode
        # A run that was stopped ends well, but has not exported.
        if status or not (target / "export").is_dir():
            return status or 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
