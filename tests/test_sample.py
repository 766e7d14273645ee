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

import sample
from diffbir_jax import loading
from diffbir_jax.checkpoint import save_weights
from diffbir_jax.defaults import DEFAULTS
from diffbir_jax.models.presets import PRESETS
from diffbir_jax.pipeline import Restored, Restorer
from diffbir_jax.sampling.options import Options
from tests.micro import MICRO, MICRO_TEXT, picture, random_params

ROOT = Path(__file__).parents[1]
FLAGS = ("--weights", "--upscale", "--compare", "--save-stages", "--version", "--steps", "--start")
FLAGS += ("--guidance-scale", "--guidance-loss", "--guidance-space", "--strength", "--seed")
FLAGS += (
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
FLAGS += ("--guidance-start", "--guidance-stop", "--guidance-repeats", "--guidance-map", "--fidelity-mask")


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shipped weights that holds those of the presets `micro` and `micro_text`."""
    folder = tmp_path_factory.mktemp("pretrained")
    for preset in (MICRO, MICRO_TEXT):
        for name, params in random_params(preset).items():
            save_weights(folder / preset.name / f"{name}.safetensors", params, {})
    return folder


@pytest.fixture
def inputs(tmp_path: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for inputs, with the small presets known to sample.py."""
    for preset in (MICRO, MICRO_TEXT):
        monkeypatch.setitem(PRESETS, preset.name, preset)
        monkeypatch.setitem(DEFAULTS, preset.name, Options(steps=2, start=0.5))
    monkeypatch.setattr(loading, "PRETRAINED", pretrained)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def save(path: Path, side: tuple[int, int] = (16, 16), **options: object) -> Path:
    Image.fromarray(picture(*side)).save(path, **options)
    return path


def run(source: Path, *flags: str, version: str = "micro", output: str = "out") -> int | str | None:
    """Exit code of sample.py, which writes into out/; inputs keep their size."""
    command = ["--input", str(source), "--output", output, "--version", version, "--upscale", "1", *flags]
    with pytest.raises(SystemExit) as exit:
        sample.main(command)
    return exit.value.code


def unchanged(
    self: Restorer, image: np.ndarray, upscale: float, options: Options, count: int, index: int, **_: object
) -> Iterator[Restored]:
    """Stands in for Restorer.variants."""
    yield from [Restored(image, image, image)] * count


def written(folder: str = "out") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def complaint(capsys: pytest.CaptureFixture) -> str:
    """What was written to the error stream, which must be one line."""
    error = capsys.readouterr().err
    assert error.startswith("sample.py: ")
    assert error.count("\n") == 1
    return error


def test_one_file(inputs: Path) -> None:
    """The result is the pipeline's; nothing else is written."""
    assert run(save(inputs / "a.png")) == 0
    assert written() == ["a.png"]
    index = sample.noise_index(inputs / "a.png")
    wanted = Restorer.load("micro").restore_one(picture(16, 16), 1.0, DEFAULTS["micro"], index).image
    np.testing.assert_array_equal(np.asarray(Image.open("out/a.png")), wanted)


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


@pytest.mark.parametrize("where", ["in/a.png", "out/a.png", "map.jpg"])
def test_a_guidance_map_overwrites_nothing(inputs: Path, capsys, where: str) -> None:
    before = save(inputs / "a.png").read_bytes()
    assert run(inputs / "a.png", "--guidance-map", where) == 1
    error = complaint(capsys)
    if where == "map.jpg":
        assert "--guidance-map is map.jpg; give a .png file for a single input" in error
    else:
        assert f"{where}: would be overwritten; give another --output or --guidance-map" in error
    assert run(inputs, "--guidance-map", "in") == 1
    assert run(inputs, "--guidance-map", "maps.png") == 1
    assert "--guidance-map is maps.png; give a folder for a folder of inputs" in capsys.readouterr().err
    assert (inputs / "a.png").read_bytes() == before


def test_masks_are_not_overwritten(inputs: Path, capsys) -> None:
    save(inputs / "a.jpg")
    Path("masks").mkdir()
    before = save(Path("masks/a.png")).read_bytes()
    guided = ("--guidance-scale", "1", "--fidelity-mask")
    assert run(inputs, *guided, "masks", "--guidance-map", "masks") == 1
    assert "a.png: would be overwritten" in complaint(capsys)
    assert run(inputs / "a.jpg", *guided, "masks/a.png", output="masks") == 1
    assert Path("masks/a.png").read_bytes() == before
    assert run(inputs, "--fidelity-mask", "masks") == 1
    assert "--fidelity-mask weighs guidance, which is off; give --guidance-scale" in capsys.readouterr().err


def test_results_and_maps_are_kept_apart(inputs: Path, capsys) -> None:
    save(inputs / "a.png")
    save(inputs / "a_1.png")
    assert run(inputs, "--n-samples", "2", "--guidance-map", "out") == 1
    assert "a_1.png: would be overwritten" in complaint(capsys)


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
    seen = []

    def variants(
        self: Restorer, image: np.ndarray, upscale: float, options: Options, count: int, index: int, **_
    ) -> Iterator[Restored]:
        seen.append((self.preset.name, upscale, options, index))
        return unchanged(self, image, upscale, options, count, index)

    monkeypatch.setattr(Restorer, "variants", variants)
    monkeypatch.setattr(Restorer, "check", lambda *_: None)  # The small preset knows no text.
    save(inputs / "a.png")
    save(inputs / "b.png")
    assert run(inputs) == 0
    flags = "--steps 3 --start 0.2 --guidance-scale 0.7 --guidance-loss paper --strength 0.5 --seed 9"
    flags += " --guidance-space latent --sampler ddim --start-point cond --eta 0.3 --rescale-cfg"
    flags += " --cfg-scale 2 --tile 128 --tile-stride 64 --pos-prompt a --neg-prompt b --spacing trailing"
    flags += " --guidance-start 700 --guidance-stop 100 --guidance-repeats 2 --noise-aug 150"
    assert run(inputs, *flags.split(), "--upscale", "2.5", "--weights", str(pretrained / "micro")) == 0
    default = DEFAULTS["micro"]
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
    indices = [zlib.crc32(name) for name in (b"a", b"b")]  # of the names, not of the places in the folder
    assert seen == [("micro", 1.0, default, i) for i in indices] + [("micro", 2.5, given, i) for i in indices]


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

    def variants(self: Restorer, image: np.ndarray, *_: object, **__: object) -> Iterator[Restored]:
        seen.append(jax.config.jax_default_matmul_precision)
        yield Restored(image, image, image)

    monkeypatch.setattr(Restorer, "variants", variants)
    assert run(save(inputs / "a.png"), *flags.split()) == 0
    assert seen == [wanted]


def test_upscale_defaults_to_4(inputs: Path) -> None:
    args = sample.parse(["--input", "a", "--output", "b"])
    assert (args.version, args.upscale) == ("tiny", 4.0)
    assert sample.options_from(args) == DEFAULTS["tiny"]


def test_a_folder_with_broken_files(inputs: Path, capsys) -> None:
    """Broken files are named, one line each, the others restored; what is no image is left alone."""
    save(inputs / "good.png")
    (inputs / "cut.png").write_bytes((inputs / "good.png").read_bytes()[:60])
    (inputs / "empty.jpg").touch()
    (inputs / "notes.webp").write_text("not an image")
    save(inputs / "small.png", (15, 40))
    (inputs / "README.md").write_text("about these pictures")
    save(inputs / "zebra.jpg")
    assert run(inputs) == 1
    assert written() == ["good.png", "zebra.png"]
    streams = capsys.readouterr()
    lines = [line for line in streams.err.splitlines() if line.startswith("sample.py: ")]
    for line, name in zip(lines, ("cut.png", "empty.jpg", "notes.webp", "small.png"), strict=True):
        assert name in line
    assert "Traceback" not in streams.err
    assert "2 restored, 4 failed" in streams.out
    assert "README" not in streams.err


def stored(kind: str) -> tuple[Image.Image, dict]:
    """picture(16, 24) as some files hold it, and what to save it with."""
    image = Image.fromarray(picture(16, 24))
    if kind == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6
        return image.transpose(Image.Transpose.ROTATE_90), {"exif": exif}
    modes = {"gray": "L", "palette": "P", "transparent": "RGBA"}
    return image.convert(modes[kind]), {}


@pytest.mark.parametrize("kind", ["gray", "palette", "transparent", "rotated"])
def test_any_image_comes_out_upright_and_rgb(inputs: Path, monkeypatch, kind: str) -> None:
    monkeypatch.setattr(Restorer, "variants", unchanged)
    image, options = stored(kind)
    image.save(inputs / "a.png", **options)
    assert run(inputs / "a.png") == 0
    upright = Image.fromarray(picture(16, 24)) if kind == "rotated" else image
    with Image.open("out/a.png") as result:
        assert result.mode == "RGB"
        assert result.getexif().get(0x0112, 1) == 1
        np.testing.assert_array_equal(np.asarray(result), np.asarray(upright.convert("RGB")))


def test_inputs_that_are_not_there(inputs: Path, capsys) -> None:
    assert run(inputs / "none.png") == 1
    assert "none.png: no such file or folder; give an image" in complaint(capsys)
    assert run(inputs) == 1
    assert "holds no image file" in complaint(capsys)
    assert not Path("out").exists()


def test_inputs_are_not_overwritten(inputs: Path, capsys) -> None:
    original = save(inputs / "a.png").read_bytes()
    Path("link").symlink_to(inputs)
    for source, output in ((inputs, "in"), (inputs / "a.png", "in"), (inputs, "link")):
        assert run(source, output=output) == 1
        assert "is the folder of the inputs; give another --output" in complaint(capsys)
    assert (inputs / "a.png").read_bytes() == original
    assert written("in") == ["a.png"]


def test_results_do_not_overwrite_each_other(inputs: Path, capsys) -> None:
    save(inputs / "a.png")
    save(inputs / "a.jpg")
    assert run(inputs) == 1
    assert "several images would be written as a.png; rename" in complaint(capsys)
    (inputs / "a.jpg").rename(inputs / "a_stage1.jpg")
    assert run(inputs, "--save-stages") == 1
    assert "written as a_stage1.png" in complaint(capsys)


def test_output_that_is_a_file(inputs: Path, capsys) -> None:
    save(inputs / "a.png")
    Path("out").touch()
    assert run(inputs) == 1
    assert "out: cannot be made a folder (File exists); choose another --output" in complaint(capsys)


@pytest.mark.parametrize(
    "flags, code, message",
    [
        ("--steps 0", 1, "steps is 0; allowed with start 0.5 are 1 to 500"),
        ("--steps many", 2, "argument --steps: invalid int value: 'many'"),
        ("--start 0", 1, "start is 0.0; allowed are"),
        ("--start nan", 1, "start is nan; allowed are"),
        ("--guidance-scale -1", 1, "guidance_scale is -1.0; allowed are"),
        ("--guidance-loss l1", 2, "--guidance-loss: invalid choice: 'l1'"),
        ("--strength inf", 1, "strength is inf; allowed are"),
        ("--seed -3", 1, "seed is -3; allowed are 0 to"),
        ("--upscale 0", 2, "--upscale: '0' given, allowed are finite numbers above 0"),
        ("--upscale big", 2, "--upscale: 'big' given, allowed"),
        ("--upscale 0.01", 1, "a.png: upscale is 0.01 for an image of 16x16; give a larger factor"),
        ("--version v9", 2, "--version: invalid choice: 'v9'"),
        ("--speed 3", 2, "unrecognized arguments: --speed 3"),
        (
            "--version v1",
            1,
            "v1 lacks swinir_general.safetensors, vae.safetensors, unet.safetensors, control_general.safetensors",
        ),
        ("--version micro_text", 1, "micro_text needs text and has no text encoder"),
        ("--weights nowhere", 1, "nowhere lacks rm.safetensors"),
        ("--sampler edm_lms --order 5", 1, "order is 5; allowed are numbers in [1, 4]"),
        ("--s-churn 1", 1, "s_churn is 1.0, but sampler 'spaced' has none"),
        ("--spacing linear", 2, "--spacing: invalid choice: 'linear'"),
        ("--guidance-repeats 0", 1, "guidance_repeats is 0; allowed are 1 to 100"),
        ("--noise-aug 1000", 1, "noise_aug is 1000; allowed are 0 to 999"),
        ("--n-samples 0", 2, "--n-samples: '0' given, allowed are whole numbers above 0"),
        ("--std-map", 1, "--std-map compares several results; give --n-samples of at least 2"),
        ("--stage1-only --n-samples 2", 1, "--stage1-only knows no --n-samples"),
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


@pytest.mark.parametrize("when, code", [(zlib.crc32(b"b"), 130), (None, 0)])
def test_interruption_keeps_what_is_done(
    inputs: Path, capsys, monkeypatch, when: int | None, code: int
) -> None:
    def variants(
        self: Restorer, image: np.ndarray, upscale: float, options: Options, count: int, index: int, **_
    ) -> Iterator[Restored]:
        if index == when:
            raise KeyboardInterrupt
        return unchanged(self, image, upscale, options, count, index)

    monkeypatch.setattr(Restorer, "variants", variants)
    for name in "abc":
        save(inputs / f"{name}.png")
    assert run(inputs) == code
    streams = capsys.readouterr()
    assert ("interrupted, 2 of 3 images left" in streams.err) == (code == 130)
    assert written() == (["a.png"] if code else ["a.png", "b.png", "c.png"])


def test_too_little_memory_is_said(inputs: Path, capsys, monkeypatch) -> None:
    def variants(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Restorer, "variants", variants)
    save(inputs / "a.png")
    assert run(inputs) == 1
    assert "a.png: memory does not suffice; lower --upscale" in complaint(capsys)


def test_too_little_memory_of_an_accelerator_is_said(inputs: Path, capsys, monkeypatch) -> None:
    def variants(*_: object, **__: object) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")

    monkeypatch.setattr(Restorer, "variants", variants)
    save(inputs / "a.png")
    assert run(inputs) == 1
    assert "a.png: memory does not suffice; lower --upscale, give --tile" in complaint(capsys)


@pytest.mark.parametrize("module, stage, flag", [("rm", "1", "--stage1-only"), ("vae", "2", "--compare")])
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
        assert f"{name}.png: stage {stage} gave NaN or infinity in float32; use --precision" in streams.err
    assert "0 restored, 2 failed" in streams.out
    assert written() == []


def test_bugs_show_their_traceback(inputs: Path, monkeypatch) -> None:
    def variants(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(Restorer, "variants", variants)
    save(inputs / "a.png")
    with pytest.raises(KeyError):
        sample.main(["--input", str(inputs), "--output", "out", "--version", "micro"])


def test_help_names_every_flag_and_default() -> None:
    """In a fresh process."""
    command = [sys.executable, str(ROOT / "sample.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "1000"})
    assert done.returncode == 0, done.stderr
    entries = {entry.split()[0].rstrip(","): entry for entry in done.stdout.split("\n  -")}
    for flag in ("--input", "--output"):
        assert "(required)" in entries[flag[1:]]
    defaults = {flag: entries[flag[1:]].split("(default: ")[1] for flag in FLAGS}
    for name, value in dataclasses.asdict(DEFAULTS["tiny"]).items():
        assert (str(value) or "empty") in defaults["--" + name.replace("_", "-")]


def test_exit_code_of_the_process(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "sample.py"), "--input", "none.png", "--output", "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert (
        done.stderr
        == "sample.py: none.png: no such file or folder; give an image or a folder of images as --input\n"
    )
