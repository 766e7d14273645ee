import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from diffbir_jax.evaluation.suites import methods
from diffbir_jax.evaluation.suites.methods import Method, Networks, make_methods, select_methods
from diffbir_jax.evaluation.suites.spec import Suite
from diffbir_jax.imaging.bytes import enlarge
from diffbir_jax.models.bsrnet import BSRNet, BSRNetConfig
from diffbir_jax.models.presets import PRESETS, TINY, VARIANTS
from diffbir_jax.models.restoration_families import describe_restoration
from diffbir_jax.restoration.defaults import DEFAULTS
from diffbir_jax.weights.safetensors import save_weights
from tests.conversion.test_ncnn import write as write_ncnn
from tests.evaluation.suites.small import write_suite
from tests.micro import FEW, GUIDED, MICRO, picture, random_params, restorer

SMALL = BSRNetConfig(num_feat=8, num_blocks=1, growth=4)


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return write_suite(tmp_path)


@pytest.fixture
def micro(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> tuple[Suite, Networks]:
    """The suite for small networks without a file."""
    monkeypatch.setitem(PRESETS, "micro", MICRO)
    monkeypatch.setitem(DEFAULTS, "micro", GUIDED)
    point = dataclasses.replace(suite.versions["tiny"], steps=FEW.steps)
    networks = Networks("micro", "sr")
    networks.__dict__["restorer"] = restorer()  # as if loaded
    return dataclasses.replace(suite, versions={"micro": point}), networks


def run(method: Method, images: Sequence[np.ndarray], seed: int = 0) -> dict[int, np.ndarray]:
    return dict(method.load()(enumerate(images), seed))


def test_bicubic_is_what_enlarges_inputs_before_stage_1() -> None:
    image = picture(16, 24)
    np.testing.assert_array_equal(run(methods.bicubic_method(4), [image])[0], enlarge(image, 4))
    assert methods.bicubic_method(4).title == "bicubic"
    np.testing.assert_array_equal(run(methods.bicubic_method(1), [image])[0], image)
    assert methods.bicubic_method(1).title == "input"


def test_non_local_means_remove_noise_and_keep_colours() -> None:
    flat = np.full((24, 32, 3), (200, 60, 20), np.uint8)
    noise = np.random.default_rng(0).normal(0, 4, flat.shape)
    image = (flat + noise).round().astype(np.uint8)
    found = run(methods.nlm_method(2), [image])[0]
    assert found.shape == (48, 64, 3) and found.dtype == np.uint8
    assert np.abs(found.mean((0, 1)) - flat[0, 0]).max() < 2
    assert found.std((0, 1)).max() < 0.75 * image.std((0, 1)).max()


def test_diffbir_is_a_row_per_guidance_scale(suite: Suite) -> None:
    off, default = methods.diffbir_methods(suite, Networks("tiny", "sr"))
    assert (off.name, off.title, off.seeds) == ("diffbir_s0", "DiffBIR tiny, no guidance", (5,))
    assert (default.name, default.seeds) == ("diffbir_s10", (5, 6))
    assert default.title == "DiffBIR tiny, guidance 10 (default)"
    assert default.settings["options"]["steps"] == 4 and "seed" not in default.settings["options"]
    assert default.files().keys() == {"rm", "vae", "unet", "control"}


def test_a_version_that_the_suite_does_not_know_is_refused(suite: Suite) -> None:
    with pytest.raises(ValueError, match="--version is v2; suite small says how to sample for tiny"):
        make_methods(suite, Networks("v2", "sr"))


@pytest.mark.parametrize("version", [name for name, preset in PRESETS.items() if preset.one_step])
def test_published_one_step_restorers_are_a_row_of_any_suite(suite: Suite, version: str) -> None:
    """By their own options, with all seeds; the row of stage 1 is left out."""
    networks, asked = Networks(version, "sr"), []

    def restore_many(requests: object, upscale: float, options: object, **_: object) -> Iterator[object]:
        asked.append((upscale, options))
        return iter(())

    networks.__dict__["restorer"] = SimpleNamespace(restore_many=restore_many)
    rows = make_methods(suite, networks)
    assert [row.name for row in rows] == ["bicubic", version, "realesrgan"]
    row = rows[1]
    assert (row.title, row.kind, row.seeds) == (f"{version}, one step", "diffbir", (5, 6))
    assert row.settings["version"] == version and row.settings["options"]["steps"] == 1
    assert run(row, [picture(16, 16)], seed=6) == {}
    assert asked == [(2, dataclasses.replace(DEFAULTS[version], seed=6))]
    with pytest.raises(FileNotFoundError, match=f"unet_{version}.safetensors"):
        row.files()


@pytest.mark.slow
def test_results_depend_on_the_seed_and_not_on_the_company(micro: tuple[Suite, Networks]) -> None:
    """So that a run which goes on where it stopped makes what a run in one go does."""
    images = [picture(16, 16, i) for i in range(2)]
    method = methods.diffbir_methods(*micro)[0]
    together = run(method, images, seed=1)
    alone = dict(method.load()([(1, images[1])], 1))
    np.testing.assert_array_equal(alone[1], together[1])
    other = dict(method.load()([(1, images[1])], 2))
    assert (other[1] != together[1]).any()
    assert together[0].shape == (32, 32, 3)


def test_stage_1_alone_is_the_restorers(micro: tuple[Suite, Networks]) -> None:
    image = picture(16, 16)
    method = methods.stage1_method(micro[1], 2)
    np.testing.assert_array_equal(run(method, [image])[0], restorer().clean_one(image, 2).image)


def test_an_image_that_cannot_be_restored_stops_the_run(micro: tuple[Suite, Networks]) -> None:
    with pytest.raises(ValueError, match="give .H, W, 3. uint8 RGB"):
        run(methods.stage1_method(micro[1], 2), [np.zeros((16, 16), np.uint8)])


def test_missing_weights_are_told_of(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="lacks rm.safetensors; give a folder"):
        methods.stage1_method(Networks("tiny", "sr", tmp_path), 4).files()


def test_methods_are_chosen_by_kind_or_row(suite: Suite) -> None:
    rows = make_methods(suite, Networks("tiny", "sr"))
    names = [method.name for method in rows]
    assert names == ["bicubic", "rm", "diffbir_s0", "diffbir_s10", "realesrgan"]
    assert [m.name for m in select_methods(rows, ["diffbir", "rm"])] == names[1:4]
    assert [m.name for m in select_methods(rows, ["diffbir_s0"])] == ["diffbir_s0"]
    with pytest.raises(ValueError, match="'gan' given, allowed are bicubic, rm, diffbir, diffbir_s0"):
        select_methods(rows, ["rm", "gan"])


def realesrgan(folder: Path) -> Path:
    """Write a small RRDBNet of ours."""
    preset = dataclasses.replace(TINY, rm=SMALL)
    params = random_params(preset, modules=["rm"])["rm"]
    return save_weights(folder / "gan.safetensors", params, describe_restoration(SMALL))


def test_real_esrgan_is_its_network_on_the_whole_image(tmp_path: Path) -> None:
    image = picture(17, 20)
    path = realesrgan(tmp_path)
    found = run(methods.realesrgan_method(4, path), [image])[0]
    params = random_params(dataclasses.replace(TINY, rm=SMALL), modules=["rm"])["rm"]
    wanted = BSRNet(SMALL).apply({"params": params}, image[None].astype(np.float32) / 255)
    assert found.shape == (68, 80, 3)
    np.testing.assert_allclose(found, 255 * np.clip(wanted[0], 0, 1), atol=0.51)


@pytest.mark.filterwarnings("ignore:.*right for a network of your own")
def test_real_esrgan_reads_the_files_of_its_package(tmp_path: Path) -> None:
    method = methods.realesrgan_method(4, write_ncnn(tmp_path))
    assert method.files() == {"realesrgan-x4plus": tmp_path / "m.bin"}
    assert run(method, [picture(16, 16)])[0].shape == (64, 64, 3)


def test_real_esrgan_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "find", lambda _: None)
    assert "diffbir weights fetch --version realesrgan" in methods.realesrgan_method(4).unavailable
    assert "no file" in methods.realesrgan_method(4, tmp_path / "x.param").unavailable
    assert methods.realesrgan_method(2, realesrgan(tmp_path)).unavailable == (
        "it enlarges by 4, the suite by 2"
    )
    assert not methods.realesrgan_method(4, realesrgan(tmp_path)).unavailable


def test_another_network_is_not_real_esrgan(tmp_path: Path) -> None:
    path = save_weights(
        tmp_path / "rm.safetensors", random_params(MICRO, modules=["rm"])["rm"], MICRO.header("rm")
    )
    with pytest.raises(
        ValueError,
        match=r"holds a RestorationUNetConfig\(.*; --realesrgan takes an RRDBNet that enlarges by 4",
    ):
        methods.realesrgan_method(4, path).load()


def test_whole_photos_also_need_the_networks_of_faces(tmp_path: Path, monkeypatch) -> None:
    """The recipe has the files of both; the task is the command's."""
    monkeypatch.setitem(PRESETS, "micro", MICRO)
    files = MICRO.files._replace(rm="rm_face")
    monkeypatch.setitem(VARIANTS, ("micro", "face"), dataclasses.replace(MICRO, files=files))
    for name in (*MICRO.modules, "rm_face"):
        save_weights(tmp_path / f"{name}.safetensors", {}, {})
    networks = Networks("micro", "face", tmp_path).of_whole_photos()
    assert networks.named_task == "faces" and networks.preset == MICRO
    named = {name: path.stem for name, path in networks.files("rm").items()}
    assert named == {"rm": "rm", "face_rm": "rm_face"}
    assert networks.files().keys() == {*MICRO.modules, "face_rm"}
