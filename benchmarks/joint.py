"""Both stages trained together against one after the other, at equal compute, for the table of docs/training.md.

    python -m benchmarks.joint --photos work/photos/train --lpips work/metrics --workdir work/joint --seeds 3

Preset `tiny`: stage 1 starts from its shipped weights, IRControlNet from a copy of the UNet. Every arm sees the same
photos and degradations. "separate" trains stage 1 by its squared error, then the control on what it makes; both take as
many steps as the FLOPs of the other arms allow (`training/flops.py`). Results are those of the suite `photos`. What is
done is kept in --workdir, so the same command goes on. Differences are those to "separate", photo by photo and averaged
over the seeds, with Wilcoxon's signed-rank test.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from scipy import stats

from benchmarks.one_step import crops, heading, loaded
from configs import joint
from diffbir_jax.console.process import configure
from diffbir_jax.evaluation.metric import Setup
from diffbir_jax.files.writing import replace_file
from diffbir_jax.models.presets import TINY
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.training.flops import count
from diffbir_jax.training.loop import train
from diffbir_jax.training.objective import make_objective
from diffbir_jax.weights.loading import weight_files

# Each arm's settings of `config.joint`; None: one stage after the other.
ARMS: dict[str, Mapping[str, float | str] | None] = {
    "separate": None,
    "stop": {"gradient": "stop"},
    "alternate": {"gradient": "alternate"},
    "through, 0.003": {"weight": 0.003},
    "through, 0.01": {"weight": 0.01},
    "through, 0.03": {"weight": 0.03},
    "through, 0.1": {"weight": 0.1},
}
METRICS = ("psnr", "lpips", "dists")
# Photo by photo: the metrics of stage 1, then those of the result.
Scores = dict[str, list[float]]


def joint_config(args: argparse.Namespace, seed: int) -> ConfigDict:
    """Settings that all arms share."""
    config = joint.get_config("tiny")
    config.seed = seed
    config.data.source.path = str(args.photos)
    config.data.update(
        batch_size=8, validation_size=8, crop={"kind": "scaled", "size": 96, "scale": (0.2, 0.8)}
    )
    config.sampling.images = 0
    config.train.update(steps=args.steps, lr=5e-4, eval_every=args.steps, checkpoint_every=args.steps)
    return config


def stage1_config(config: ConfigDict) -> ConfigDict:
    """Stage 1 alone, on the same data."""
    config = config.copy_and_resolve_references()
    config.objective, config.loss = "rm", "mse"
    with config.unlocked():
        config.weights = ConfigDict({"rm": str(weight_files(TINY, None)["rm"])})
    return config


def stage2_config(config: ConfigDict, stage1: Path | None = None) -> ConfigDict:
    """IRControlNet alone, on the same data and what a stage 1 makes of it."""
    config = config.copy_and_resolve_references()
    config.objective = "regeneration"
    config.weights.rm = None if stage1 is None else str(stage1)
    return config


def flops(config: ConfigDict) -> int:
    """FLOPs of a training step without the optimizer."""
    made = make_objective(config)

    def value(trained: dict) -> jax.Array:
        return made.loss(trained, made.frozen, made.batches(0), jax.random.key(0))[0]

    return count(jax.make_jaxpr(jax.grad(value))(made.params)).total


def separate_share(args: argparse.Namespace) -> float:
    """Steps of each stage in "separate" / steps of the other arms."""
    whole = joint_config(args, 0)
    share = flops(whole) / (flops(stage1_config(whole)) + flops(stage2_config(whole)))
    print(f"a step of both stages has {share:.3f} times the FLOPs of a step of each", flush=True)
    return share


def trained(config: ConfigDict, folder: Path) -> Path:
    """Train unless it is done, and return the folder of the weights."""
    if not (folder / "export").exists() and int(train(config, folder).step) < config.train.steps:
        raise SystemExit("stopped; the same command goes on")
    return folder / "export"


def arm(args: argparse.Namespace, name: str, seed: int) -> Restorer:
    """Train an arm, and load what it has learned."""
    config, folder = joint_config(args, seed), args.workdir / f"{name.replace(', ', '_')}_{seed}"
    if (settings := ARMS[name]) is not None:
        config.joint.update(settings)
        return Restorer.load("tiny", trained(config, folder))
    steps = round(args.steps * separate_share(args))
    config.train.update(steps=steps, eval_every=steps, checkpoint_every=steps)
    stage1 = trained(stage1_config(config), folder / "rm") / "rm.safetensors"
    stage2 = trained(stage2_config(config, stage1), folder / "control")
    return Restorer.load("tiny", stage2, stage1=str(stage1))


def scores(args: argparse.Namespace, name: str, seed: int) -> Scores:
    """The scores of an arm with a seed, kept in the work folder."""
    path = args.workdir / f"scores_{name.replace(', ', '_')}_{seed}.json"
    if not path.exists():
        results = arm(args, name, seed).restore(crops("photos", "lq"), upscale=4.0)
        stages = {"stage 1": [each.stage1 for each in results], "result": [each.image for each in results]}
        found = {
            f"{stage} {metric}": scored(args, metric, of)
            for stage, of in stages.items()
            for metric in METRICS
        }
        replace_file(path, json.dumps(found).encode())
    return json.loads(path.read_text("utf-8"))


def scored(args: argparse.Namespace, metric: str, images: Sequence[np.ndarray]) -> list[float]:
    """A metric of each image."""
    score = loaded(metric, Setup(weights=args.lpips))
    return [float(score(*pair)) for pair in zip(images, crops("photos", "gt"), strict=True)]


def row(arms: Mapping[str, np.ndarray], name: str) -> str:
    """Mean and deviation over the seeds; from the second row on, p of the difference to "separate".

    Args:
        arms: scores of one column, (seeds, photos) each.
        name: of the arm.
    """
    seeds, mean = arms[name].mean(1), arms[name].mean(0)
    text = f"{seeds.mean():.4f} +-{seeds.std(ddof=1) if len(seeds) > 1 else 0:.4f}"
    if name == "separate":
        return text
    return f"{text} (p {stats.wilcoxon(mean, arms['separate'].mean(0)).pvalue:.1g})"


def main(argv: Sequence[str] | None = None) -> None:
    """Train all arms, seed by seed, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos to train on")
    parser.add_argument("--lpips", type=Path, required=True, help="folder of the weights of LPIPS and DISTS")
    parser.add_argument("--workdir", type=Path, required=True, help="folder for what is trained and scored")
    parser.add_argument("--steps", type=int, default=300, help="of the joint arms (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm (default: %(default)s)")
    args = parser.parse_args(argv)
    configure("fp32")
    found = {name: list[Scores]() for name in ARMS}
    for seed in range(args.seeds):
        for name in ARMS:
            found[name].append(scores(args, name, seed))
    columns = list(found["separate"][0])
    print(heading(["arm", *columns]))
    for name in ARMS:
        arms = [{each: np.array([x[column] for x in found[each]]) for each in ARMS} for column in columns]
        print(f"| {name} | {' | '.join(row(each, name) for each in arms)} |")


if __name__ == "__main__":
    main()
