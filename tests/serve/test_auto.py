"""`auto` in the service: each picture gets settings of its own, as by restore --auto."""

import io
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.models.presets import PRESETS
from diffbir_jax.restoration import auto
from diffbir_jax.restoration.auto import Choice
from diffbir_jax.restoration.defaults import DEFAULTS
from diffbir_jax.restoration.estimate import Estimate
from diffbir_jax.sampling.options import Options
from diffbir_jax.serve.flags import make_parser
from diffbir_jax.serve.run import bases_of, networks_of
from diffbir_jax.serve.wishes import alone_of
from tests.command import call, save
from tests.micro import MICRO
from tests.serve.fake import Client, FakeWorks, Served, service
from tests.serve.pictures import png

CLEAN = Estimate(0.1, 0.2, 100.0, 1.0, (0.1, 0.1, 0.1, 0.1))
NOISY = Estimate(0.1, 20.0, 100.0, 1.0, (0.1, 0.1, 0.1, 0.1))
ONE, OTHER, LIKE_OTHER = png(64, 72, 0), png(64, 72, 1), png(64, 72, 2)
AUTO = '{"auto": true, "upscale": 1}'
SAME = '{"auto": true, "upscale": 1, "format": "same"}'


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture(autouse=True)
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The first picture is clean, all others are noisy. Returns the threads that estimate."""
    threads: list[str] = []

    def estimated(image: np.ndarray) -> Estimate:
        threads.append(threading.current_thread().name)
        return CLEAN if np.array_equal(image, pixels(ONE)) else NOISY

    monkeypatch.setattr(auto, "estimate", estimated)
    noisy = Choice(options={"detail": 0.25, "texture": 0.5}, why="noise")
    monkeypatch.setattr(
        auto, "choose", lambda found, _: Choice(alone=True, why="clean") if found is CLEAN else noisy
    )
    return threads


def sidecar_of(client: Client, data: bytes, options: str, **more: bytes) -> dict:
    answer = client.restore(data, options, **more)
    assert answer.status_code == 200, answer.text
    return json.loads(answer.headers["diffbir-sidecar"])


def test_settings_are_chosen_by_the_worker_and_told(served: Served, client: Client, seen: list[str]):
    job = client.job(OTHER, AUTO)
    state = client.wait(job)
    sidecar = client("GET", state["sidecar"]).json()
    assert (
        state["auto"]["text"] == "blur 0.1, noise 20.0, no JPEG, scale 1.0: detail 0.25, texture 0.5 (noise)"
    )
    assert sidecar["auto"]["options"] == state["auto"]["options"] == {"detail": 0.25, "texture": 0.5}
    assert sidecar["parameters"]["options"]["detail"] == 0.25 and not sidecar["parameters"]["copied"]
    assert seen == ["worker"]
    again = client.restore(OTHER, json.dumps(sidecar))
    assert again.content == client("GET", state["result"]).content and seen == ["worker"]


def test_a_clean_picture_is_copied_and_its_sidecar_copies_it_again(client: Client):
    first = client.restore(ONE, AUTO)
    assert first.content == ONE
    sidecar = json.loads(first.headers["diffbir-sidecar"])
    assert sidecar["auto"]["copied"] and sidecar["parameters"]["copied"] and sidecar["weights"] == {}
    again = client.restore(ONE, json.dumps(sidecar), "b.png")
    assert again.content == ONE and json.loads(again.headers["diffbir-sidecar"])["parameters"]["copied"]
    assert client.restore(OTHER, json.dumps(sidecar)).status_code == 422


def test_a_clean_jpeg_is_not_compressed_again(client: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(auto, "estimate", lambda image: CLEAN)
    file = io.BytesIO()
    Image.open(io.BytesIO(ONE)).save(file, "JPEG")
    assert client.restore(file.getvalue(), SAME, "a.jpg").content == file.getvalue()
    for options in (AUTO, SAME[:-1] + ', "quality": 95}'):
        answer = client.restore(file.getvalue(), options, "a.jpg")
        assert answer.content != file.getvalue()
        assert json.loads(answer.headers["diffbir-sidecar"])["auto"] | {"estimate": None} == {
            **{"estimate": None, "alone": True, "options": {}, "why": "clean", "copied": False}
        }


def test_what_is_given_wins(client: Client):
    options = '{"auto": true, "upscale": 1, "options": {"texture": 1.0}}'
    clean, noisy = (sidecar_of(client, data, options) for data in (ONE, OTHER))
    assert not clean["auto"]["alone"] and clean["auto"]["why"] == "clean, but `texture` given"
    assert noisy["auto"]["options"] == {"detail": 0.25}
    assert "auto" not in sidecar_of(client, ONE, '{"auto": false, "upscale": 1}')


def test_a_picture_too_small_gets_the_usual_settings(client: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    job = client.job(png(16, 24), AUTO)
    state = client.wait(job)
    assert state["state"] == "done" and "no estimate, so it gets the usual settings" in state["auto"]["text"]
    assert client("GET", state["sidecar"]).json()["auto"] == {"estimate": None, "why": "no estimate"}


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"stage1_only": True}, "`auto` chooses for each photo and knows no `stage1_only`; leave one out"),
        ({"n_samples": 2}, "knows no `n_samples`"),
        ({"task": "faces"}, "knows no `task`"),
        ({"options": [1]}, "`options` inside is no object"),
        ({"auto": "yes"}, "`auto` is 'yes'; allowed are true and false"),
        ({"copied": True}, "`copied` is True; this service has False"),
        ({"stage1": "none"}, "knows no `stage1`"),
    ],
)
def test_what_does_not_go_with_it_is_one_message(client: Client, more: dict[str, object], text: str):
    answer = client.restore(OTHER, json.dumps({"auto": True, "upscale": 1} | more))
    assert answer.status_code == 422 and text in answer.json()["detail"], answer.text


def test_a_sidecar_decides_without_it(client: Client):
    sidecar = sidecar_of(client, OTHER, AUTO)
    answer = client.restore(OTHER, json.dumps(sidecar | {"auto": True}))
    assert answer.status_code == 422 and "leave out `auto`" in answer.json()["detail"]


def test_other_versions_have_none(seen: list[str]):
    with service(version="tiny") as served:
        served.works.gate.set()
        client = served.client()
        answer = client.restore(OTHER, AUTO)
        assert answer.status_code == 422 and not seen
        assert "`auto` knows settings of `version` one-step alone" in answer.json()["detail"]
        assert client("GET", "/about").json()["auto"] == []


def test_the_schema_and_about_name_it(client: Client):
    schemas = client("GET", "/openapi.json").json()["components"]["schemas"]
    (form,) = [schema for name, schema in schemas.items() if name.startswith("Body_restore")]
    assert form["properties"]["options"]["contentSchema"]["properties"]["auto"]["type"] == "boolean"
    assert client("GET", "/about").json()["auto"] == ["one-step"]


def test_pictures_with_the_same_choice_go_in_one_pack_and_files_are_not_kept():
    with service(FakeWorks(pack=2)) as served:
        client, works = served.client(), served.works
        first = client.job(png(100, 200), '{"upscale": 1}')
        assert works.begun.wait(30)
        jobs = [client.job(data, AUTO, name=f"{n}.png") for n, data in enumerate((OTHER, LIKE_OTHER, ONE))]
        works.gate.set()
        assert all(client.wait(job)["state"] == "done" for job in (first, *jobs))
        assert [len(pack) for pack in works.packs] == [1, 2, 1]
        assert client("GET", f"/jobs/{jobs[2]}/result").content == ONE
        assert all(job.data is None for job in served.engine._jobs.values())


@pytest.mark.slow
def test_results_are_those_of_the_command(inputs: Path, monkeypatch: pytest.MonkeyPatch):
    """Bit for bit, of pictures that are restored, left alone and copied; sidecars go both ways."""
    monkeypatch.setitem(PRESETS, "one-step", MICRO)
    monkeypatch.setitem(DEFAULTS, "one-step", Options(steps=2, start=0.5))
    for name, data in (("clean", ONE), ("noisy", OTHER)):
        (inputs / f"{name}.png").write_bytes(data)
    save(inputs / "photo.jpg", (64, 72))
    monkeypatch.setattr(
        auto, "estimate", lambda image: NOISY if np.array_equal(image, pixels(OTHER)) else CLEAN
    )
    assert call("--input", inputs, "-o", "out", "--upscale", "1", "--auto") == 0
    args = make_parser().parse_args([])
    works = networks_of(args, bases_of(args))
    with service(works["one-step"], alone=works[alone_of("one-step")]) as served:
        client = served.client()
        for name in ("clean.png", "noisy.png", "photo.jpg"):
            data, made = (inputs / name).read_bytes(), Path("out", name).with_suffix(".png")
            answer = client.restore(data, AUTO, name)
            assert answer.content == made.read_bytes(), name
            assert client.restore(data, made.with_suffix(".json").read_text(), name).content == answer.content
            Path("one.json").write_text(answer.headers["diffbir-sidecar"])
            assert call("--from-sidecar", "one.json", "--input", inputs / name, "-o", "again") == 0
            assert Path("again", made.name).read_bytes() == answer.content
