"""The command line, on a preset small enough to compile in seconds."""

import dataclasses
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from diffbir_jax.batch import run as running
from diffbir_jax.batch.flags import parse
from diffbir_jax.batch.jobs import noise_index
from diffbir_jax.restoration.defaults import DEFAULTS
from diffbir_jax.restoration.flags import options_from
from diffbir_jax.restoration.restorer import Outcome, Restorer
from diffbir_jax.sampling.options import Options
from diffbir_jax.weights.safetensors import save_weights
from tests.batch.fake import Fake
from tests.command import call, complaint, run, save, written
from tests.micro import MICRO, picture, random_params

ROOT = Path(__file__).parents[2]
FLAGS = (
    "--weights",
    "--upscale",
    "--compare",
    "--save-stages",
    "--version",
    "--steps",
    "--start",
    "--start-noise",
    "--detail",
    "--texture",
    "--pixel",
    "--semantic",
    "--model-t",
    "--coeff-t",
)
FLAGS += ("--guidance-scale", "--guidance-loss", "--guidance-space", "--strength", "--seed")
FLAGS += (
    "--yes",
    "--task",
    "--stage1",
    "--stage1-only",
    "--precision",
    "--sampler",
    "--start-point",
    "--eta",
    "--pos-prompt",
)
FLAGS += (
    "--neg-prompt",
    "--cfg-scale",
    "--rescale-cfg",
    "--tile",
    "--tile-stride",
    "--spacing",
    "--noise-aug",
)
FLAGS += ("--s-churn", "--s-tmin", "--s-tmax", "--s-noise", "--order", "--n-samples", "--std-map")
FLAGS += ("--list", "--from-sidecar", "--max-pixels", "--format", "--quality", "--bit-depth", "--sidecar")
FLAGS += (
    "--skip-existing",
    "--memory-gb",
    "--plan",
    "--warmup",
    "--vae-norms",
    "--report",
    "--hosts",
    "--host-index",
    "--distributed",
    "--coordinator",
)
FLAGS += ("--background", "--face-size", "--face-strength", "--only-largest", "--skip-sharp", "--save-faces")
FLAGS += ("--mask", "--compat")
FLAGS += ("--operator", "--operator-method", "--operator-scale", "--operator-repeats")
FLAGS += ("--guidance-start", "--guidance-stop", "--guidance-repeats", "--guidance-map", "--fidelity-mask")


def test_one_file(inputs: Path) -> None:
    """The result is the pipeline's; nothing else is written."""
    assert run(save(inputs / "a.png")) == 0
    assert written() == ["a.png"]
    index = noise_index(inputs / "a.png")
    wanted = Restorer.load("micro").restore_one(picture(16, 16), 1.0, DEFAULTS["micro"], index).image
    np.testing.assert_array_equal(np.asarray(Image.open("out/a.png")), wanted)


def test_a_sidecar_repeats_it(inputs: Path) -> None:
    """Every byte, with the seed and the networks of the first time."""
    save(inputs / "a.png")
    flags = ("--version", "micro", "--upscale", "1", "--seed", "3")
    assert call("--input", "in", "--output", "out", *flags) == 0
    assert "operator" not in Path("out/a.json").read_text(), "sidecars from before operators look the same"
    assert call("--from-sidecar", "out/a.json", "--output", "again") == 0
    assert written("again") == written() == ["a.json", "a.png"]
    assert Path("again/a.png").read_bytes() == Path("out/a.png").read_bytes()
    assert call("--input", "in", "--output", "other", *flags[:-2]) == 0
    assert Path("other/a.png").read_bytes() != Path("out/a.png").read_bytes()


def test_an_operator_and_its_sidecar(inputs: Path, capsys) -> None:
    """A gray photo with holes gets colours; the sidecar repeats it, also if the mask has moved."""
    brightness = picture(32, 32)[..., 0]
    Image.fromarray(brightness).save(inputs / "a.png")
    held = np.full((32, 32), 255, np.uint8)
    held[8:20, 8:20] = 0
    Image.fromarray(held).save("mask.png")
    words = ("--operator", "gray,mask:mask.png")
    assert call("--input", "in", "--output", "out", "--version", "micro", *words) == 0
    result = np.asarray(Image.open("out/a.png"))
    luma = result.astype(float) @ [0.299, 0.587, 0.114]
    inside = (result > 0).all(-1) & (result < 255).all(-1) & (held > 0)
    assert np.abs(luma - brightness)[inside].max() <= 0.5001 and inside.mean() > 0.2
    assert np.ptp(result, axis=-1).max() > 1
    os.rename("mask.png", "moved.png")
    assert call("--from-sidecar", "out/a.json", "--output", "again") == 1
    assert "mask.png: the mask of the operator that the sidecar names is no file; give it by --operator" in (
        complaint(capsys)
    )
    moved = ("--operator", "gray,mask:moved.png")
    assert call("--from-sidecar", "out/a.json", "--output", "again", *moved) == 0
    assert Path("again/a.png").read_bytes() == Path("out/a.png").read_bytes()
    assert call("--from-sidecar", "out/a.json", "--output", "no", "--operator", "gray") == 2
    assert "the sidecar's gray,mask:mask.png; leave it out, or give the same" in complaint(capsys)
    Image.fromarray(held[:30]).save("small.png")
    small = ("--operator", "gray,mask:small.png")
    assert call("--input", "in", "--output", "no", "--version", "micro", *small) == 1
    assert (
        "small.png has 32x30 pixels, the image 32x32; give a mask of the image's size"
        in capsys.readouterr().err
    )


def test_stages_and_comparison(inputs: Path) -> None:
    save(inputs / "a.webp", lossless=True)
    assert run(inputs / "a.webp", "--compare", "--save-stages") == 0
    assert written() == ["a.png", "a_compare.png", "a_stage1.png"]
    result, stage1, panels = (np.asarray(Image.open(f"out/a{s}.png")) for s in ("", "_stage1", "_compare"))
    assert panels.shape == (16, 48, 3)
    np.testing.assert_array_equal(panels, np.concatenate([picture(16, 16), stage1, result], axis=1))


def test_several_results_and_how_they_differ(inputs: Path) -> None:
    save(inputs / "a.png")
    assert run(inputs) == 0
    alone = np.asarray(Image.open("out/a.png"))
    assert run(inputs, "--n-samples", "3", "--std-map", "--compare", output="more") == 0
    names = [f"a_{i}{suffix}.png" for i in (1, 2, 3) for suffix in ("", "_compare")]
    assert written("more") == sorted([*names, "a_std.png"])
    results = [np.asarray(Image.open(f"more/a_{i}.png")) for i in (1, 2, 3)]
    np.testing.assert_array_equal(results[0], alone)
    assert all((results[i] != results[i - 1]).any() for i in range(3))
    wanted = np.sqrt(np.var(np.stack(results).astype(float), axis=0, ddof=1).mean(axis=-1)) * 255 / 16
    shown = np.asarray(Image.open("more/a_std.png")).astype(float)
    np.testing.assert_allclose(shown, wanted.clip(0, 255), atol=0.6)


def test_guidance_map_and_mask(inputs: Path) -> None:
    """White where the mask lets guidance hold a flat region, black where it does not."""
    save(inputs / "a.png", (32, 32))
    half = np.zeros((16, 16), np.uint8)
    half[:, :8] = 255
    Image.fromarray(half).save("mask.png")
    flags = ("--guidance-scale", "1", "--guidance-loss", "mse", "--guidance-space", "latent")
    assert run(inputs / "a.png", *flags, "--guidance-map", "map.png", "--fidelity-mask", "mask.png") == 0
    shown = np.asarray(Image.open("map.png"))
    assert shown.shape == (32, 32)
    assert shown[:, :14].min() == 255 and shown[:, 18:].max() == 0
    assert run(inputs, *flags, "--guidance-map", "maps", output="whole") == 0
    assert written("maps") == ["a.png"]
    assert np.asarray(Image.open("maps/a.png")).min() == 255
    assert (np.asarray(Image.open("out/a.png")) != np.asarray(Image.open("whole/a.png"))).any()


def test_masks_are_named_as_the_inputs(inputs: Path, capsys) -> None:
    save(inputs / "a.png")
    Path("masks").mkdir()
    save(Path("masks/b.png"))
    guided = ("--guidance-scale", "1", "--fidelity-mask", "masks")
    assert run(inputs, *guided) == 1
    assert "masks: holds no mask, or several, named a; give one each" in complaint(capsys)
    save(Path("masks/a.png"), (16, 24))
    assert run(inputs, *guided) == 1
    assert "the mask is 24x16, of other proportions than the input of 16x16" in capsys.readouterr().err


def test_every_flag_reaches_the_pipeline(inputs: Path, pretrained: Path, monkeypatch) -> None:
    fake = Fake()
    monkeypatch.setattr(running, "load", lambda *_: fake)
    monkeypatch.setattr(running, "planned", lambda *_: None)
    save(inputs / "a.png")
    save(inputs / "b.png")
    assert run(inputs) == 0
    flags = "--steps 3 --start 0.2 --guidance-scale 0.7 --guidance-loss paper --strength 0.5 --seed 9"
    flags += " --guidance-space latent --sampler ddim --start-point cond --eta 0.3 --rescale-cfg"
    flags += " --cfg-scale 2 --tile 128 --tile-stride 64 --pos-prompt a --neg-prompt b --spacing trailing"
    flags += " --guidance-start 700 --guidance-stop 100 --guidance-repeats 2 --noise-aug 150"
    assert run(inputs, *flags.split(), "--upscale", "2.5", "--weights", str(pretrained / "micro")) == 0
    given = Options(
        steps=3,
        start=0.2,
        guidance_scale=0.7,
        guidance_loss="paper",
        guidance_space="latent",
        strength=0.5,
        seed=9,
        sampler="ddim",
        start_point="cond",
        eta=0.3,
        rescale_cfg=True,
        cfg_scale=2.0,
        tile=128,
        tile_stride=64,
        pos_prompt="a",
        neg_prompt="b",
        spacing="trailing",
        guidance_start=700,
        guidance_stop=100,
        guidance_repeats=2,
        noise_aug=150,
    )
    known = ["--operator", "blur:1,down2,noise:3", "--operator-method", "gradient", "--operator-scale", "0.5"]
    assert call("--input", "in", "--output", "out", "--version", "micro", *known) == 0
    operator = {"operator": "blur:1,down2,noise:3", "operator_method": "gradient", "operator_scale": 0.5}
    for _ in range(2):
        assert fake.seen.pop()[1:] == (2.0, dataclasses.replace(DEFAULTS["micro"], **operator))
    for image, (request, upscale, options) in enumerate(fake.seen):
        assert request.index == zlib.crc32(
            b"ba"[image % 2 : image % 2 + 1]
        )  # The fake takes the later one first.
        assert (upscale, options) == ((1.0, DEFAULTS["micro"]), (2.5, given))[image // 2]


@pytest.fixture
def default_products() -> Iterator[None]:
    """JAX's own precision of products, which tests otherwise raise."""
    jax.config.update("jax_default_matmul_precision", None)
    yield
    jax.config.update("jax_default_matmul_precision", "highest")


@pytest.mark.parametrize(
    "flags, wanted", [("", "highest"), ("--precision bf16", None), ("--precision fp16", None)]
)
def test_products_are_exact_in_fp32_alone(
    inputs: Path, monkeypatch, default_products: None, flags: str, wanted: str | None
) -> None:
    seen = []

    class Looks(Fake):
        def restore_many(self, *requests, **more) -> Iterator[Outcome]:
            seen.append(jax.config.jax_default_matmul_precision)
            yield from super().restore_many(*requests, **more)

    monkeypatch.setattr(running, "load", lambda *_: Looks())
    monkeypatch.setattr(running, "planned", lambda *_: None)
    assert run(save(inputs / "a.png"), *flags.split()) == 0
    assert seen == [wanted]


def test_upscale_defaults_to_4() -> None:
    args = parse(["--input", "a", "--output", "b"])
    assert (args.version, args.upscale) == ("one-step", 4.0)
    assert options_from(args) == DEFAULTS["one-step"]


@pytest.mark.parametrize(
    "flags, code, message",
    [
        ("--steps 0", 2, "steps is 0; allowed with start 0.5 are 1 to 500"),
        ("--steps many", 2, "argument --steps: 'many' given, allowed are whole numbers"),
        ("--start 0", 2, "start is 0.0; allowed are"),
        ("--start nan", 2, "start is nan; allowed are"),
        ("--guidance-scale -1", 2, "guidance_scale is -1.0; allowed are"),
        ("--guidance-loss l1", 2, "--guidance-loss: 'l1' given; allowed are"),
        ("--strength inf", 2, "strength is inf; allowed are"),
        ("--seed -3", 2, "seed is -3; allowed are 0 to"),
        ("--upscale 0", 2, "--upscale: '0' given, allowed are finite numbers above 0"),
        ("--upscale big", 2, "--upscale: 'big' given, allowed"),
        ("--upscale 0.01", 1, "a.png: upscale is 0.01 for an image of 16x16; give a larger factor"),
        ("--version v9", 2, "--version: 'v9' given; allowed are"),
        ("--speed 3", 2, "no option --speed; did you mean --seed?"),
        (
            "--version v1",
            1,
            "lacks swinir_general.safetensors, vae.safetensors, unet.safetensors, control_general.safetensors",
        ),
        ("--version micro_text", 2, "micro_text needs text and has no text encoder"),
        ("--weights nowhere", 1, "nowhere lacks rm.safetensors"),
        ("--sampler edm_lms --order 5", 2, "order is 5; allowed are numbers in [1, 4]"),
        ("--s-churn 1", 2, "s_churn is 1.0, but sampler 'spaced' has none"),
        ("--spacing linear", 2, "--spacing: 'linear' given; allowed"),
        ("--guidance-repeats 0", 2, "guidance_repeats is 0; allowed are 1 to 100"),
        ("--noise-aug 1000", 2, "noise_aug is 1000; allowed are 0 to 999"),
        ("--upscale 1e9", 2, "--upscale is 1e+09; allowed are numbers above 0 to 1000"),
        ("--n-samples 100000000", 2, "--n-samples is 1e+08; allowed are 1 to 1000"),
        ("--n-samples 0", 2, "--n-samples: '0' given, allowed are whole numbers above 0"),
        ("--std-map", 2, "--std-map compares several results; give --n-samples of at least 2"),
        (
            "--detail 0 --n-samples 2",
            2,
            "--n-samples is 2, but without generated detail all samples are equal",
        ),
        ("--stage1-only --n-samples 2", 2, "--stage1-only knows no --n-samples"),
        (
            "--sampler edm_euler --s-tmin 1",
            2,
            "--s-tmin and --s-tmax bound --s-churn, which is off; give --s-churn as well",
        ),
        ("--sampler edm_heun --s-tmax 1 --s-churn 0", 2, "which is off; give --s-churn as well"),
        ("--bit-depth 16 --format webp", 2, "--bit-depth is 16, but webp holds 8; give --format png or tiff"),
        ("--bit-depth 12", 2, "--bit-depth: '12' given; allowed are"),
        ("--quality 0", 2, "--quality: '0' given, allowed are whole numbers from 1 to 100"),
        ("--list a.txt", 2, "an input and --list are both given; give one of them"),
        ("--report out", 2, "--report is out; give a .json file"),
        ("--host-index 1", 2, "--hosts and --host-index belong together"),
        ("--hosts 2 --host-index 2", 2, "--host-index is 2; allowed with --hosts 2 are 0 to 1"),
        ("--coordinator x:1", 2, "--coordinator is an address for --distributed"),
        ("--fidelity-mask no.png --guidance-scale 1", 1, "no.png: no such file"),
    ],
)
def test_bad_values_are_one_line(inputs: Path, capsys, flags: str, code: int, message: str) -> None:
    save(inputs / "a.png")
    assert run(inputs, *flags.split()) == code
    assert message in complaint(capsys)
    assert not list(Path(".").glob("out/*"))


def test_weights_of_another_preset(inputs: Path, pretrained: Path, capsys) -> None:
    """Hundreds of problems are still one line."""
    save(inputs / "a.png")
    assert run(inputs, "--weights", str(pretrained / "micro"), version="tiny") == 1
    assert "rm.safetensors does not fit the model" in complaint(capsys)


@pytest.mark.parametrize(
    "module, stage, flag", [("rm", "stage 1", "--stage1-only"), ("vae", "the encoder", "--compare")]
)
def test_damaged_weights_give_no_black_picture(
    inputs: Path, capsys, module: str, stage: str, flag: str
) -> None:
    """Each image is named, and nothing is written."""
    for name, params in random_params(MICRO).items():
        if name == module:
            params = jax.tree.map(lambda x: x.at[..., 0].set(np.nan), params)
        save_weights(Path("damaged") / f"{name}.safetensors", params, {})
    save(inputs / "a.png")
    save(inputs / "b.png")
    assert run(inputs, "--weights", "damaged", flag) == 1
    streams = capsys.readouterr()
    for name in "ab":
        assert f"{name}.png: {stage} gave NaN or infinity in float32; use --precision" in streams.err
    assert "0 restored, 2 failed" in streams.out
    assert written() == []


def test_help_names_every_flag_and_default() -> None:
    """In a fresh process."""
    command = [sys.executable, str(ROOT / "sample.py"), "--help-all"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "1000"})
    assert done.returncode == 0, done.stderr
    entries = {entry.split()[0].rstrip(","): entry for entry in done.stdout.split("\n  -")}
    assert "(this, --list or --from-sidecar is required)" in done.stdout
    assert "(required)" in entries["o"]
    defaults = {flag: entries[flag[1:]].split("(default: ")[1] for flag in FLAGS}
    for name, value in dataclasses.asdict(DEFAULTS["tiny"]).items():
        told = "1; for one-step 0 below" if name == "detail" else str(value) or "empty"
        assert told in defaults["--" + name.replace("_", "-")]


def test_missing_flags_are_one_line(capsys) -> None:
    assert call("--output", "out") == 2
    assert (
        "nothing to restore: name a photo or a folder, or give --list FILE or --from-sidecar FILE"
        in complaint(capsys)
    )
    assert call("none.png") == 2
    assert "--output is missing: give the folder for the results" in complaint(capsys)


def test_exit_code_of_the_process(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "sample.py"), "--input", "none.png", "--output", "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert (
        done.stderr
        == "diffbir restore: none.png: no such file or folder; give an image or a folder of images\n"
    )
