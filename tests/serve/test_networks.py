"""The service with networks: its results are those of the command, bit for bit, and sidecars go both ways."""

import dataclasses
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jax
import numpy as np
import pytest
from PIL import Image

from diffbir_jax.batch import faces as batch_faces
from diffbir_jax.console.errors import UserError
from diffbir_jax.imaging.photo import Photo
from diffbir_jax.models.presets import VARIANTS
from diffbir_jax.restoration.lora_flag import Lora
from diffbir_jax.restoration.loras import merged
from diffbir_jax.restoration.plan import StagePlan
from diffbir_jax.restoration.planner import PlanError
from diffbir_jax.serve.faces import with_faces
from diffbir_jax.serve.flags import make_parser
from diffbir_jax.serve.networks import Networks, load
from diffbir_jax.serve.results import request_of
from diffbir_jax.serve.run import bases_of, networks_of
from diffbir_jax.serve.wishes import Wish, base_recipe, read_wish
from diffbir_jax.training.lora_start import new_lora
from diffbir_jax.weights import loading
from diffbir_jax.weights.loading import load_params
from diffbir_jax.weights.safetensors import flatten, save_weights
from tests.command import call, save
from tests.faces.known import SMALL, known_faces, small_crops
from tests.faces.pictures import wall
from tests.micro import MICRO, random_params
from tests.serve.fake import service

# Networks whose stage 1 for crops is another one.
OTHER = MICRO.files._replace(rm="rm_face")


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture
def works(inputs: Path) -> Networks:
    return load(base_recipe("micro"), lambda text: None)


@pytest.mark.slow
def test_results_are_those_of_the_command(works, inputs, tmp_path):
    """Alone, in a pack, and repeated from the sidecar of either."""
    flags = ("--version", "micro", "--upscale", "1", "--seed", "3")
    options = '{"upscale": 1, "options": {"seed": 3}}'
    for seed in range(3):
        save(inputs / f"{seed}.png", seed=seed)
    assert call("--input", inputs, "-o", "out", *flags) == 0
    with service(works, version="micro") as served:
        client = served.client()
        jobs = [client.job((inputs / f"{n}.png").read_bytes(), options, name=f"{n}.png") for n in range(3)]
        for number, job in enumerate(jobs):
            assert client.wait(job)["state"] == "done"
            found = client("GET", f"/jobs/{job}/result").content
            np.testing.assert_array_equal(pixels(found), np.asarray(Image.open(f"out/{number}.png")))
        sidecar = client("GET", f"/jobs/{jobs[1]}/sidecar").text
        assert str(tmp_path) not in sidecar and json.loads(sidecar)["parameters"]["weights"] is None
        Path("one.json").write_text(sidecar)
        again = client.restore((inputs / "2.png").read_bytes(), Path("out/2.json").read_text())
        np.testing.assert_array_equal(pixels(again.content), np.asarray(Image.open("out/2.png")))
        assert served.engine.rates.seconds({"sample": 1.0}) is not None
    assert call("--from-sidecar", "one.json", "--input", inputs / "1.png", "-o", "again") == 0
    assert Path("again/1.png").read_bytes() == Path("out/1.png").read_bytes()


def test_loras_are_merged_and_recorded(works, inputs, tmp_path):
    """Their paths stay here: clients see names."""
    preset = works.restorer.preset
    unet = new_lora(random_params(preset, modules=["unet"])["unet"], 2, 0)
    factors = {"unet": jax.tree.map(lambda x: x + np.float32(0.1), unet)}
    file = save_weights(tmp_path / "snow.safetensors", factors, {"family": "lora"})
    args = make_parser().parse_args(["--version", "micro", "--lora", f"{file}:0.5"])
    bases = bases_of(args)
    assert [str(lora.path) for lora in bases["micro"].lora] == ["snow.safetensors"]
    found = networks_of(args, bases)["micro"]
    wanted = merged(load_params(preset), preset, [Lora(file, 0.5)])
    before, after, told = (flatten(x["unet"]) for x in (works.restorer.params, found.restorer.params, wanted))
    for name, kernel in after.items():
        np.testing.assert_allclose(kernel, told[name], atol=1e-6)
    assert any(not np.array_equal(before[name], kernel) for name, kernel in after.items())
    assert found.files == works.files | {"lora_1": file}


@pytest.mark.slow
def test_samples_map_and_mask_are_those_of_the_command(works, inputs):
    """Bit for bit; the command repeats the service's sidecar with the client's mask."""
    photo, mask = save(inputs / "a.png"), save(Path("m.png"), (32, 32), 5)
    flags = ("--version", "micro", "--upscale", "1", "--n-samples", "2", "--std-map", "--guidance-scale", "1")
    assert call("--input", photo, "-o", "out", "--fidelity-mask", mask, *flags) == 0
    options = '{"upscale": 1, "n_samples": 2, "std_map": true, "options": {"guidance_scale": 1.0}}'
    with service(works, version="micro") as served:
        client = served.client()
        job = client.job(photo.read_bytes(), options, mask=mask.read_bytes())
        state = client.wait(job)
        files = {name: client("GET", f"/jobs/{job}/results/{name}").content for name in ("1", "2", "std")}
        sidecar = client("GET", state["sidecar"]).text
    for name, data in files.items():
        np.testing.assert_array_equal(pixels(data), np.asarray(Image.open(f"out/a_{name}.png")), name)
    assert not np.array_equal(pixels(files["1"]), pixels(files["2"]))
    Path("one.json").write_text(sidecar)
    again = ("--from-sidecar", "one.json", "--input", photo, "--fidelity-mask", mask, "-o", "again")
    assert call(*again) == 0
    assert Path("again/a_2.png").read_bytes() == Path("out/a_2.png").read_bytes()


@pytest.mark.slow
def test_faces_are_those_of_the_command(works, inputs, monkeypatch):
    """With another stage 1 for crops; a sidecar of either is repeated by the other one."""
    small_crops(monkeypatch)
    known_faces(monkeypatch)
    monkeypatch.setattr(batch_faces, "model_file", lambda: None)
    monkeypatch.setitem(VARIANTS, ("micro", "face"), dataclasses.replace(MICRO, files=OTHER))
    shutil.copytree(loading.PRETRAINED / "micro", "w")
    save_weights(Path("w/rm_face.safetensors"), random_params(MICRO, 1, ["rm"])["rm"], {})
    Image.fromarray(wall(*SMALL)).save(inputs / "a.png")
    flags = ("--version", "micro", "--weights", "w", "--upscale", "1", "--task", "faces")
    assert call("--input", inputs, "-o", "out", *flags) == 0
    base = base_recipe("micro")
    both = with_faces(works, dataclasses.replace(base, weights=Path("w")), lambda text: None)
    data = (inputs / "a.png").read_bytes()
    with service(works, version="micro", faces=both) as served:
        answer = served.client().restore(data, '{"upscale": 1, "task": "faces"}')
        plain = served.client().restore(data, '{"upscale": 1}')
        again = served.client().restore(data, Path("out/a.json").read_text())
    # The service plans fewer crops at once: a level of rounding. Repeating takes over the plan, bit for bit.
    made, own = pixels(answer.content), np.asarray(Image.open("out/a.png"))
    np.testing.assert_allclose(made.astype(int), own, rtol=0, atol=1)
    np.testing.assert_array_equal(pixels(again.content), own)
    assert plain.content != answer.content
    sidecar, told = json.loads(answer.headers["diffbir-sidecar"]), json.loads(Path("out/a.json").read_text())
    assert sidecar["faces"] == told["faces"] and sidecar["weights"] == told["weights"]
    Path("served.json").write_text(json.dumps(sidecar))
    assert (
        call("--from-sidecar", "served.json", "--input", inputs / "a.png", "--weights", "w", "-o", "again")
        == 0
    )
    np.testing.assert_array_equal(np.asarray(Image.open("again/a.png")), made)


def test_a_course_tells_of_memory_and_work(works):
    wish = read_wish('{"upscale": 1}', "a.png", {"micro": base_recipe("micro")})
    course = works.course(wish, (16, 16), False)
    assert course.peak > 0 and {*course.work} == {"rm", "encode", "sample", "decode"}
    assert works.shape(wish, (16, 16), course) == course.shape
    assert works.shape(wish, (64, 64), course) != course.shape
    assert works.course(wish, (16, 16), False) is course


def test_sidecars_that_cannot_be_repeated_here(works):
    wish = read_wish('{"upscale": 1}', "a.png", {"micro": base_recipe("micro")})
    plan = works.course(wish, (16, 16), False).plan
    works.check(wish._replace(plan=plan))
    huge = dataclasses.replace(plan, sample=StagePlan(2**20, 0, 2**20))
    with pytest.raises(UserError, match="plan is not one for this machine"):
        works.check(wish._replace(plan=huge))
    small = Networks(works.restorer, works.files, memory=1)
    with pytest.raises(PlanError, match="GiB of memory do not suffice"):
        small.course(wish, (16, 16), False)


def test_the_caption_of_a_sidecar_reaches_the_restorer():
    told = {"caption": "a red boat"}
    for sidecar, caption in ((None, ""), (SimpleNamespace(**told), told["caption"])):
        photo = Photo(np.zeros((16, 16, 3), np.uint8))
        wish = Wish(base_recipe("one-step"), 3, "a.png", sidecar=cast(Any, sidecar))
        assert request_of(cast(Any, SimpleNamespace(photo=photo, wish=wish, mask=None))).caption == caption
