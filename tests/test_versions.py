"""Every published version on every task: the right files, the right networks, through the command line."""

import dataclasses
import gzip
import json
import math
import warnings
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffbir_jax.cli import sample
from diffbir_jax.models import presets
from diffbir_jax.models.bsrnet import BSRNetConfig
from diffbir_jax.models.clip import CLIPTextConfig
from diffbir_jax.models.presets import Preset, get_preset
from diffbir_jax.models.restoration_families import family_of
from diffbir_jax.models.scunet import SCUNetConfig
from diffbir_jax.models.swinir import SwinIRConfig
from diffbir_jax.restoration.defaults import DEFAULTS
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.weights.loading import abstract_params
from diffbir_jax.weights.registry import needed
from diffbir_jax.weights.safetensors import save_weights
from tests import route
from tests.micro import MICRO_TEXT, picture, random_params

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = ("v1", "v2", "v2.1")
# What the reference runs: (restoration module's family, its file, the control's file).
NETWORKS = {
    ("v1", "sr"): ("swinir", "swinir_general", "control_general"),
    ("v1", "denoise"): ("swinir", "swinir_general", "control_general"),
    ("v1", "face"): ("swinir", "swinir_face", "control_face"),
    ("v2", "sr"): ("bsrnet", "bsrnet", "control_v2"),
    ("v2", "denoise"): ("scunet", "scunet", "control_v2"),
    ("v2", "face"): ("swinir", "swinir_face", "control_v2"),
    ("v2.1", "sr"): ("swinir", "swinir_realesrgan", "control_v2.1"),
    ("v2.1", "denoise"): ("swinir", "swinir_realesrgan", "control_v2.1"),
    ("v2.1", "face"): ("swinir", "swinir_face", "control_v2.1"),
}
SMALL = {
    "swinir": SwinIRConfig(embed_dim=8, num_layers=1, depth=2, num_heads=2, num_feat=8),
    "bsrnet": BSRNetConfig(num_feat=8, num_blocks=1, growth=4),
    "scunet": SCUNetConfig(dim=16, depths=(1,) * 7, head_dim=8),
}


def small(preset: Preset) -> Preset:
    """The preset with networks that compile in a second; all else as published."""
    assert preset.rm is not None
    return dataclasses.replace(
        preset,
        rm=SMALL[family_of(preset.rm)],
        vae=dataclasses.replace(MICRO_TEXT.vae, scale_factor=preset.vae.scale_factor),
        unet=MICRO_TEXT.unet,
        text=CLIPTextConfig(width=8, heads=2, layers=2),
        min_side=64,
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder with the weights of everything, each file's its own."""
    folder = tmp_path_factory.mktemp("weights")
    for version, task in NETWORKS:
        preset = small(get_preset(version, task))
        for module in preset.modules:
            stem = getattr(preset.files, module)
            if (folder / f"{stem}.safetensors").exists():
                continue
            params = random_params(preset, zlib.crc32(stem.encode()), [module])[module]
            save_weights(folder / f"{stem}.safetensors", params, preset.header(module))
    return folder


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one image; the published versions are small."""
    monkeypatch.setattr(
        presets, "VARIANTS", {key: small(p) for key, p in presets.VARIANTS.items() if key[0] in VERSIONS}
    )
    for version in VERSIONS:
        monkeypatch.setitem(presets.PRESETS, version, small(presets.PRESETS[version]))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    Image.fromarray(picture(24, 20)).save(tmp_path / "in" / "a.png")
    return tmp_path / "in"


def run(*flags: str) -> int | str | None:
    """Exit code of sample.py on in/, which writes out/."""
    command = ["--input", "in", "--output", "out", "--steps", "2", "--upscale", "2", *flags]
    with pytest.raises(SystemExit) as exit:
        sample.main(command)
    return exit.value.code


def result(name: str = "out/a.png") -> np.ndarray:
    return np.asarray(Image.open(name))


@pytest.mark.parametrize("version, task", NETWORKS)
def test_networks_of_each_task(version: str, task: presets.Task) -> None:
    preset = get_preset(version, task)
    assert preset.rm is not None
    assert (family_of(preset.rm), preset.files.rm, preset.files.control) == NETWORKS[version, task]
    zsnr = "_zsnr" if version == "v2.1" else ""
    assert (preset.files.unet, preset.files.vae, preset.files.text) == (
        f"unet{zsnr}",
        f"vae{zsnr}",
        f"text{zsnr}",
    )
    assert (preset.parameterization, preset.zero_terminal_snr) == (("v", True) if zsnr else ("eps", False))


@pytest.mark.slow
def test_published_sizes() -> None:
    """Parameters of the published files, from their shapes."""
    shapes = abstract_params(get_preset("v2"))
    counts = {module: sum(x.size for x in jax.tree.leaves(params)) for module, params in shapes.items()}
    assert counts["unet"] == 865_910_724
    assert counts["vae"] == 83_653_863
    assert counts["rm"] == 16_697_987
    published = json.loads(gzip.decompress((GOLDEN / "checkpoints" / "ircontrolnet.json.gz").read_bytes()))
    assert counts["control"] == sum(math.prod(shape) for shape in published.values())


@pytest.mark.parametrize("version, task", NETWORKS)
def test_every_version_and_task(inputs: Path, weights: Path, version: str, task: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run("--version", version, "--task", task, "--weights", str(weights), "--save-stages") == 0
    assert result().shape == (48, 40, 3)
    assert (result() != result("out/a_stage1.png")).any()


@pytest.mark.parametrize(
    "version, stage1", [*((v, "--stage1-only") for v in VERSIONS), ("v1", "--stage1=none")]
)
def test_the_task_decides_what_runs(inputs: Path, weights: Path, version: str, stage1: str) -> None:
    """Stage 1 in every version, and the control in v1."""
    results = []
    for task in ("sr", "face"):
        assert run("--version", version, "--task", task, "--weights", str(weights), stage1) == 0
        results.append(result())
    assert (results[0] != results[1]).any()


def test_the_registry_names_the_files_of_the_presets() -> None:
    """What `python -m diffbir_jax.weights fetch` brings becomes, converted, what the preset loads."""
    for version, task in NETWORKS:
        stems = {stem for file in needed(version, task) for stem in file.stems}
        preset = get_preset(version, task)
        assert stems == {getattr(preset.files, name) for name in preset.modules}, (version, task)


@pytest.mark.slow
def test_prompts_matter(inputs: Path, weights: Path) -> None:
    flags = ("--version", "v2", "--weights", str(weights))
    outcomes = {}
    for name, more in {
        "default": (),
        "positive": ("--pos-prompt", "a cat"),
        "negative": ("--neg-prompt", "a cat"),
        "scale": ("--cfg-scale", "1.5"),
        "strength": ("--strength", "0.5"),
    }.items():
        assert run(*flags, *more) == 0
        outcomes[name] = result()
    for name in outcomes.keys() - {"default"}:
        assert (outcomes[name] != outcomes["default"]).any(), name


def test_defaults_are_the_reference_s() -> None:
    for version in ("v1", "v2"):
        options = DEFAULTS[version]
        assert (options.sampler, options.steps, options.cfg_scale) == ("spaced", 50, 4.0)
        assert options.pos_prompt == ""
        assert options.neg_prompt.startswith("low quality, blurry")
    options = DEFAULTS["v2.1"]
    assert (options.sampler, options.steps, options.cfg_scale) == ("edm_dpm++_3m_sde", 10, 8.0)
    assert options.pos_prompt.startswith("Cinematic") and options.neg_prompt.startswith("painting")


@pytest.mark.slow
@pytest.mark.parametrize(("version", "precision"), [("v1", "bf16"), ("v2", "fp16"), ("v2.1", "bf16")])
def test_precisions(inputs: Path, weights: Path, version: str, precision: str) -> None:
    """Image in, image out: close to fp32, not equal to it."""
    flags = ("--version", version, "--weights", str(weights))
    assert run(*flags) == 0
    wanted = result().astype(float)
    assert run(*flags, "--precision", precision) == 0
    difference = np.abs(result() - wanted)
    assert difference.any()
    assert difference.mean() < 8


# Stage 1


def test_stage1_by_name_and_file(inputs: Path, weights: Path) -> None:
    flags = ("--version", "v2.1", "--weights", str(weights), "--stage1-only")
    assert run(*flags, "--task", "face") == 0
    wanted = result()
    assert run(*flags, "--stage1", "swinir_face") == 0
    np.testing.assert_array_equal(result(), wanted)
    assert (
        run("--stage1-only", "--version", "v2.1", "--stage1", str(weights / "swinir_face.safetensors")) == 0
    )
    np.testing.assert_array_equal(result(), wanted)
    assert run(*flags, "--stage1", "bsrnet") == 0
    assert (result() != wanted).any()


def test_stage1_only_needs_its_own_file_alone(inputs: Path, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "scunet.safetensors").write_bytes((weights / "scunet.safetensors").read_bytes())
    assert run("--version", "v2", "--task", "denoise", "--weights", "few", "--stage1-only") == 0
    assert result().shape == (48, 40, 3)


def test_without_stage1(inputs: Path, weights: Path) -> None:
    assert run("--version", "v1", "--weights", str(weights), "--stage1", "none", "--save-stages") == 0
    upscaled = np.asarray(Image.fromarray(picture(24, 20)).resize((40, 48), Image.Resampling.BICUBIC))
    # Enlarged to the smallest side that stage 2 works on and back.
    assert np.abs(result("out/a_stage1.png").astype(int) - upscaled).mean() < 4


def test_stage1_only_without_networks(inputs: Path, tmp_path: Path) -> None:
    """Nothing to run, nothing to load."""
    (tmp_path / "ready").mkdir()
    Image.fromarray(picture(96, 80)).save("ready/a.png")
    for stage1 in ("none", "ready"):
        assert run("--version", "v2", "--weights", "in", "--stage1-only", "--stage1", stage1) == 0
    assert run("--version", "v2", "--weights", "in", "--stage1", "none") == 1


def test_ready_made_stage1_is_kept(inputs: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "ready").mkdir()
    Image.fromarray(picture(48, 40, 5)).save("ready/a.png")
    before = (tmp_path / "ready" / "a.png").read_bytes()
    assert run("--version", "v1", "--stage1-only", "--stage1", "ready", "--output", "ready") == 1
    assert "ready: is the folder of the stage-1 images; give another --output" in capsys.readouterr().err
    assert (tmp_path / "ready" / "a.png").read_bytes() == before
    Image.fromarray(picture(48, 40, 6)).save("ready/a.webp")
    assert run("--version", "v1", "--stage1-only", "--stage1", "ready") == 1
    assert "several, named a; give one each" in capsys.readouterr().err


def test_a_name_in_the_weights_comes_before_a_folder(inputs: Path, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "scunet").mkdir()
    flags = ("--version", "v2", "--weights", str(weights), "--stage1-only")
    assert run(*flags, "--stage1", "scunet") == 0


def test_ready_made_stage1(inputs: Path, weights: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "ready").mkdir()
    flags = ("--version", "v1", "--weights", str(weights), "--stage1", "ready")
    assert run(*flags) == 1
    assert "no image file" in capsys.readouterr().err
    Image.fromarray(picture(16, 16)).save("ready/b.png")
    assert run(*flags) == 1
    assert "ready: holds no stage-1 image, or several, named a" in capsys.readouterr().err
    Image.fromarray(picture(48, 40, 5)).save("ready/a.png")
    assert run(*flags, "--save-stages") == 0
    assert np.abs(result("out/a_stage1.png").astype(int) - picture(48, 40, 5)).mean() < 4


@pytest.mark.parametrize(
    "size, code",
    [((48, 40), 0), ((24, 20), 0), ((66, 54), 0), ((66, 56), 0), ((66, 57), 1), ((20, 24), 1), ((64, 64), 1)],
)
def test_ready_made_stage1_has_the_proportions_of_the_input(
    inputs: Path, tmp_path: Path, capsys, size: tuple[int, int], code: int
) -> None:
    """The input is 24 high and 20 wide: 66 high may be 54 to 56 wide, whichever way its scale was rounded."""
    (tmp_path / "ready").mkdir()
    Image.fromarray(picture(*size)).save("ready/a.png")
    assert run("--version", "v1", "--weights", "in", "--stage1-only", "--stage1", "ready") == code
    message = (
        f"a.png: the stage-1 image is {size[1]}x{size[0]}, of other proportions than the input of 20x24; make"
    )
    assert (message in capsys.readouterr().err) == bool(code)
    assert Path("out/a.png").exists() != bool(code)


def test_unknown_stage1(inputs: Path, weights: Path, capsys) -> None:
    for choice, message in (
        ("esrgan", "no restoration module at"),
        ("unet", "is no restoration module: family ''"),
        ("", "stage 1 is ''"),
    ):
        assert run("--version", "v2", "--weights", str(weights), "--stage1", choice) == 1
        assert message in capsys.readouterr().err


def test_missing_files_are_named(inputs: Path, capsys) -> None:
    assert run("--version", "v2.1", "--weights", "in") == 1
    error = capsys.readouterr().err
    for name in ("swinir_realesrgan", "vae_zsnr", "unet_zsnr", "control_v2.1", "text_zsnr"):
        assert f"{name}.safetensors" in error


def test_a_module_that_enlarges_takes_the_image_as_it_is() -> None:
    """BSRNet's x4 output is resized to the output's size; modules of scale 1 see the upscaled image."""
    preset = small(get_preset("v2"))
    restorer = Restorer(preset, {"rm": random_params(preset)["rm"]})
    image = picture(24, 32)
    for upscale, size in ((4.0, (96, 128)), (3.0, (72, 96)), (1.0, (24, 32))):
        assert restorer.clean_one(image, upscale).image.shape == (*size, 3)
    full = np.asarray(route.stage1(restorer, jnp.asarray(image[None] / 255.0, jnp.float32)))[0]
    found = restorer.clean_one(image, 4.0).image
    assert np.abs(found - 255.0 * full.clip(0, 1)).max() <= 0.51
