"""Train all stages of the shipped `one-step` preset, one after the other: the recipe of docs/one_step.md.

    python scripts/train_one_step.py work
    python scripts/train_one_step.py work --pack one_step.tar --minutes 25 --batch 32    # on a GPU

`work` holds what the other scripts prepared (docs/one_step.md): photos/train, photos/held_out, teacher,
realesrgan/realesrgan-x4plus.safetensors, mobilenet_v2.safetensors and metrics/lpips_alex.safetensors. `--pack` unpacks
all of it from a file of pack_training.py.

Each stage writes checkpoints: after a stop, the same command goes on where the run ended. `--minutes` measures a few
steps of each stage and then chooses as many steps as fit. `--share 0.1` takes a tenth of every stage's steps, to see
that all of it works.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tarfile
from pathlib import Path

# `python scripts/train_one_step.py` looks for modules in scripts/ alone.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs import one_step_rm, one_step_vae, tiny_one_step
from diffbir_jax.console.errors import EXPECTED, one_line
from diffbir_jax.files.writing import replace_file
from scripts.pack_training import is_unpacked, unpack

STAGES = {"rm": one_step_rm, "vae": one_step_vae, "one_step": tiny_one_step}
# Parts of `--minutes`. The rest is for start, compilation, validation and the decoder's start.
SHARES = {"rm": 0.3, "vae": 0.02, "one_step": 0.5}
# Steps whose time is measured, and how many of the last ones count: the first batches were prepared ahead.
PROBE, COUNTED = 24, 12


def overrides(stage: str, work: Path, batch: int | None = None) -> dict[str, object]:
    """The settings of a stage that depend on the folder and on the size of a batch, if that is another one."""
    settings: dict[str, object] = {
        "data.folder": work / "photos/train",
        "data.held_out": work / "photos/held_out",
    }
    if batch is not None:
        settings["data.batch_size"] = batch
    if is_unpacked(work):
        settings["data.crop.scale"] = (1.0, 1.0)  # a pack's crops were reduced when they were made
    if stage == "one_step":
        settings["data.teacher"] = work / "teacher"
        settings["weights.rm"] = work / "rm/export/rm.safetensors"
        settings["weights.vae"] = work / "vae/start.safetensors"
        settings["weights.perceptual"] = work / "mobilenet_v2.safetensors"
        settings["weights.lpips"] = work / "metrics/lpips_alex.safetensors"
    return settings


def train(stage: str, target: Path, settings: dict[str, object]) -> int:
    """Run a stage in the folder `target`; return 0 if it reached its end, else a status other than 0."""
    config = f"configs/{Path(str(STAGES[stage].__file__)).name}"
    command = [sys.executable, "train.py", "--config", config, "--workdir", str(target)]
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    status = subprocess.run([*command, *flags]).returncode
    # A run that was stopped ends well, but has not exported.
    return status or int(not (target / "export").is_dir())


def steps_in(minutes: float, stage: str, work: Path, settings: dict[str, object]) -> int:
    """As many steps of a stage as fit into its part of `minutes`.

    They are measured once and then read from a file: a run that goes on needs the same learning rates.

    Raises:
        SystemExit: the measurement failed or was stopped.
    """
    plan = work / f"{stage}_steps.json"
    if not plan.is_file():
        folder = work / f"{stage}_probe"
        short = {"train.steps": PROBE, "train.log_every": 1, "train.warmup": 1}
        if status := train(stage, folder, settings | short):
            raise SystemExit(status)
        seconds = step_seconds((folder / "metrics.jsonl").read_text("utf-8").splitlines())
        steps = max(1, int(60 * minutes * SHARES[stage] / seconds))
        replace_file(plan, json.dumps({"steps": steps, "seconds": seconds}).encode())
        print(f"{stage}: {seconds:.4f} s per step, {steps:,} steps")
    return json.loads(plan.read_text("utf-8"))["steps"]


def step_seconds(lines: list[str]) -> float:
    """The median time of the last steps in the lines of a metrics.jsonl."""
    times = [entry[key] for entry in map(json.loads, lines) if (key := "train/step_seconds_p50") in entry]
    return statistics.median(times[-COUNTED:])


def start_decoder(work: Path) -> int:
    """Give the autoencoder its decoder; return the exit status."""
    names = ("realesrgan/realesrgan-x4plus.safetensors", "vae/export/vae.safetensors", "photos/train")
    files = [str(work / name) for name in (*names, "vae/start.safetensors")]
    return subprocess.run([sys.executable, "scripts/start_decoder.py", *files]).returncode


def run(args: argparse.Namespace) -> int:
    """Train the stages; return the exit status of the first one that failed, else 0."""
    if args.pack is not None and not is_unpacked(args.work):
        unpack(args.pack, args.work)
    for stage, module in STAGES.items():
        if stage == "one_step" and (status := start_decoder(args.work)):
            return status
        settings = overrides(stage, args.work, args.batch)
        if args.minutes is None:
            steps = max(1, round(args.share * module.get_config().train.steps))
        else:
            steps = steps_in(args.minutes, stage, args.work, settings)
        if status := train(stage, args.work / stage, settings | {"train.steps": steps}):
            return status
    return 0


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="folder of the prepared files, where runs are written too")
    parser.add_argument("--pack", type=Path, help="file of pack_training.py, unpacked into an empty WORK")
    parser.add_argument("--batch", type=int, help="images in a batch (default: that of each configuration)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="time for all stages together")
    length.add_argument("--share", type=float, default=1.0, help="share of each stage's steps (default: 1)")
    try:
        return run(parser.parse_args())
    except (*EXPECTED, tarfile.TarError) as error:
        print(f"train_one_step: {one_line(error)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
