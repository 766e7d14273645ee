"""The service by HTTP, with a restorer without networks: what clients ask for. What it refuses: test_refusals.py."""

import dataclasses
import functools
import io
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffbir_jax.batch.settings import Recipe
from diffbir_jax.restoration.lora_flag import Lora
from diffbir_jax.serve import guard
from diffbir_jax.serve.allowance import Allowance
from diffbir_jax.serve.refusals import Refusal
from diffbir_jax.serve.wishes import base_recipe, read_wish
from tests.micro import picture
from tests.serve.fake import FakeWorks, service
from tests.serve.pictures import LARGE, PNG, png, shape


def test_a_picture_and_its_sidecar(client):
    answer = client.restore(PNG, '{"upscale": 2, "options": {"seed": 3}}', "été.jpg")
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%A9t%C3%A9.png"
    sidecar = json.loads(answer.headers["diffbir-sidecar"])
    assert sidecar["parameters"]["options"]["seed"] == 3 and sidecar["input"]["bytes"] == len(PNG)
    assert shape(answer.content) == (32, 48, 3)


def test_both_as_parts(client):
    answer = client.restore(PNG, headers={"Accept": "multipart/mixed"})
    mark = answer.headers["content-type"].partition("boundary=")[2].encode()
    _, first, second, end = answer.content.split(b"--" + mark)
    assert json.loads(first.partition(b"\r\n\r\n")[2])["name"] == "a.png" and end == b"--\r\n"
    assert shape(second.partition(b"\r\n\r\n")[2][:-2]) == (64, 96, 3)


def test_a_job_from_its_acceptance_to_its_end(client):
    answer = client.restore(PNG, '{"upscale": 1}', query="?job=1&views=1")
    identity = answer.json()["id"]
    assert answer.status_code == 202 and answer.headers["location"] == f"/jobs/{identity}"
    state = client.wait(identity)
    assert state["state"] == "done" and state["result"] == f"/jobs/{identity}/result"
    assert shape(client("GET", state["result"]).content) == (16, 24, 3)
    assert client("GET", state["sidecar"]).json()["name"] == "a.png"
    for view in ("input", "stage1", "result"):
        assert shape(client("GET", f"/jobs/{identity}/views/{view}").content) == (16, 24, 3)
    assert client("GET", f"/jobs/{identity}/views/else").status_code == 404
    assert client("DELETE", f"/jobs/{identity}").json()["state"] == "done"
    assert client("GET", state["result"]).status_code == 410


SEVERAL = '{"n_samples": 3, "std_map": true, "upscale": 2}'


def test_samples_and_the_map_of_what_was_invented(client):
    """Three files of names that the command gives, and where they differ; a sidecar repeats them all."""
    job = client.job(PNG, SEVERAL, "&views=1")
    state = client.wait(job)
    answers = [client("GET", path) for path in (*state["results"], state["std"])]
    names = [answer.headers["content-disposition"].rpartition("''")[2] for answer in answers]
    assert names == ["a_1.png", "a_2.png", "a_3.png", "a_std.png"]
    samples = [np.asarray(Image.open(io.BytesIO(answer.content))).astype(int) for answer in answers[:3]]
    assert not np.array_equal(samples[0], samples[1])
    # White is a deviation of 16 levels.
    expected = np.rint(255 * (np.std(samples, axis=0, ddof=1) / 16).clip(0, 1))
    found = np.asarray(Image.open(io.BytesIO(answers[3].content))).astype(int)
    assert found.shape == (32, 48) and np.ptp(found) == 0 and abs(found - expected.mean(axis=2)).max() <= 1
    assert client("GET", state["result"]).content == answers[0].content
    for view in ("result", "result2", "result3", "std"):
        assert shape(client("GET", f"/jobs/{job}/views/{view}").content)[:2] == (32, 48)
    for wrong in ("0", "4", "a_1.png", "..%2fresult"):
        assert client("GET", f"/jobs/{job}/results/{wrong}").status_code == 404
    sidecar = client("GET", state["sidecar"])
    assert sidecar.headers["content-disposition"].endswith("''a.json")
    assert sorted(sidecar.json()["outputs"]) == sorted(names)
    again = client.restore(PNG, sidecar.text, "b.png", headers={"Accept": "multipart/mixed"})
    assert again.status_code == 200 and all(answer.content in again.content for answer in answers)


def test_faces_where_the_service_has_them(client):
    """Reports are in the sidecar, which repeats them; backgrounds are no folders, and results whole pictures."""
    found = FakeWorks()
    found.gate.set()
    with service(found, faces=found) as served:
        asks = served.client()
        assert asks("GET", "/about").json()["faces"] and not client("GET", "/about").json()["faces"]
        options = '{"task": "faces", "faces": {"only_largest": true}, "background": "resize"}'
        sidecar = json.loads(asks.restore(PNG, options).headers["diffbir-sidecar"])
        assert (
            sidecar["parameters"]["faces"]["only_largest"] and sidecar["parameters"]["background"] == "resize"
        )
        assert [face["left"] for face in sidecar["faces"]] == ["", "smaller than 12 pixels"]
        assert sidecar["found"].startswith("2 faces, 1 left")
        again = json.loads(asks.restore(PNG, json.dumps(sidecar)).headers["diffbir-sidecar"])
        assert again["parameters"] == sidecar["parameters"] and again["faces"] == sidecar["faces"]
        for wrong, text in (
            ({"background": "/etc"}, "this service has sr and resize"),
            ({"background": "none"}, "this service has sr and resize"),
            ({"save_faces": True}, "leave out `save_faces`"),
            ({"faces": [1]}, "`faces` is an object"),
            ({"faces": {"lest": 3}}, "unknown lest; known are least"),
            ({"faces": {"strength": 2}}, "strength"),
            ({"task": "face"}, "this service has 'sr' and 'faces'"),
            ({"task": "sr", "faces": {"least": 1.0}}, "`faces` is an object"),
        ):
            answer = asks.restore(PNG, json.dumps({"task": "faces"} | wrong))
            assert answer.status_code == 422 and text in answer.json()["detail"], answer.text
        size = {"width": 40, "height": 30}
        estimate = asks("POST", "/estimate", json=size | {"options": {"task": "faces"}})
        assert estimate.status_code == 200


GUIDED = '{"upscale": 2, "options": {"guidance_scale": 0.5}}'


def test_a_mask_weighs_guidance_and_is_repeated_with_its_sidecar(served, client):
    """It may have another scale, not other proportions; a sidecar wants the same one."""
    mask, other = png(8 * 4, 12 * 4, 5), png(16, 24, 6)
    answer = client.restore(PNG, GUIDED, mask=mask)
    expected = np.rint(np.asarray(Image.open(io.BytesIO(mask)), float).mean(axis=2))
    np.testing.assert_array_equal(served.works.masks[-1], expected)
    sidecar = answer.headers["diffbir-sidecar"]
    assert json.loads(sidecar)["mask"]["path"] == "m.png"
    assert client.restore(PNG, sidecar, mask=mask).content == answer.content
    for options, masked, status, text in (
        (sidecar, None, 422, "names a mask; send `fidelity_mask`"),
        (sidecar, other, 422, "the mask is not the one that the sidecar names"),
        (client.restore(PNG, GUIDED).headers["diffbir-sidecar"], mask, 422, "names no mask; leave out"),
        (GUIDED, LARGE, 422, "mask is 100x100, of other proportions than the input of 24x16"),
        (GUIDED, b"x", 415, "fidelity_mask: is not a PNG"),
        (GUIDED, png(300, 300), 413, "fidelity_mask: "),
        ("", mask, 422, "`fidelity_mask` weighs guidance, which is off; give `guidance_scale`"),
        ('{"stage1_only": true}', mask, 422, "knows no"),
    ):
        refused = client.restore(PNG, options, mask=masked)
        assert refused.status_code == status and text in refused.json()["detail"], refused.text


def test_sixteen_bits_gray_and_alpha_as_on_the_command_line(client):
    deep = (picture(16, 24, 0)[..., 0].astype(np.uint16) << 8) + 7
    for image, mode in ((Image.fromarray(deep), "I;16"), (Image.new("LA", (24, 16), (90, 128)), "LA")):
        file = io.BytesIO()
        image.save(file, "PNG")
        assert Image.open(io.BytesIO(client.restore(file.getvalue()).content)).mode == mode
    tiff = client.restore(PNG, '{"format": "tiff", "bit_depth": "16"}')
    assert tiff.headers["content-type"] == "image/tiff" and "a.tif" in tiff.headers["content-disposition"]


def test_sidecars_name_the_loras_of_the_service_wherever_they_were(client):
    """The same number with the same scales; whether the bytes are the same is seen with the weights."""
    sidecar = json.loads(client.restore(PNG).headers["diffbir-sidecar"])
    version = sidecar["parameters"]["version"]
    own = (Lora(Path("snow.safetensors"), 0.5),)
    bases = {version: dataclasses.replace(base_recipe(version), lora=own)}

    def repeated(scales: list[float], **changes: bool) -> Recipe:
        loras = [{"path": "/elsewhere/old.safetensors", "scale": scale} for scale in scales]
        changed = sidecar | {"parameters": sidecar["parameters"] | {"lora": loras} | changes}
        return read_wish(json.dumps(changed), "a.png", bases).recipe

    assert repeated([0.5]).lora == own
    for scales in ([], [0.7], [0.5, 0.5]):
        with pytest.raises(Refusal, match="`lora` is .*; this service has "):
            repeated(scales)
    assert repeated([], stage1_only=True).lora == ()
    assert read_wish('{"stage1_only": true}', "a.png", bases).recipe.lora == ()
    assert read_wish("", "a.png", bases).recipe.lora == own


def test_a_sidecar_repeats_a_result(client):
    first = client.restore(PNG, '{"upscale": 3, "options": {"seed": 4}}', "one.png")
    sidecar = first.headers["diffbir-sidecar"]
    again = client.restore(PNG, sidecar, "renamed.png")
    assert again.content == first.content and "one.png" in again.headers["content-disposition"]
    other = client.restore(png(seed=1), sidecar)
    assert other.status_code == 422 and "is not the one that the sidecar names" in other.json()["detail"]


def test_what_else_can_be_asked(client):
    assert client("GET", "/health").json() == {"status": "ok", "versions": ["one-step"]}
    text = client("GET", "/metrics").text
    assert "diffbir_jobs_total" in text and 'diffbir_wait_seconds_bucket{le="0.05"}' in text
    paths = client("GET", "/openapi.json").json()["paths"]
    assert {"/restore", "/jobs/{identity}", "/jobs/{identity}/events", "/estimate", "/health"} <= {*paths}
    assert client("GET", "/docs").status_code == 404
    found = client("POST", "/estimate", json={"width": 40, "height": 30, "options": {"upscale": 2}}).json()
    assert (found["width"], found["height"], found["bytes"]) == (80, 60, 2**30)
    about = client("GET", "/about").json()
    assert about["versions"]["one-step"]["options"]["steps"] == 1 and about["limits"]["pixels"] == 2**16


def test_no_answer_names_a_folder_of_the_machine(client):
    texts = [client("GET", path).text for path in ("/about", "/health", "/metrics", "/openapi.json")]
    texts += [client.restore(PNG).headers["diffbir-sidecar"], client.restore(b"x").text]
    for text in texts:
        assert str(Path.home()) not in text and str(Path(__file__).parents[2]) not in text


def test_keys_and_the_jobs_of_others():
    keys = {"anne-" + "1" * 16: "anne", "ben-" + "2" * 16: "ben"}
    with service(keys=keys) as served:
        served.works.gate.set()
        anne, ben = (served.client(Authorization=f"Bearer {key}") for key in keys)
        job = anne.job(PNG)
        assert anne.wait(job)["state"] == "done"
        for path in ("", "/result", "/results/1", "/events", "/sidecar", "/views/result"):
            assert ben("GET", f"/jobs/{job}{path}").status_code == 404
        assert ben("DELETE", f"/jobs/{job}").status_code == 404
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"X-API-Key": "anne"}):
            assert served.client(**headers)("GET", f"/jobs/{job}/result").status_code == 401
            assert served.client(**headers).restore(PNG).status_code == 401
        assert served.client()("GET", "/health").status_code == 200
        assert served.client(**{"X-API-Key": [*keys][0]})("GET", f"/jobs/{job}/result").status_code == 200


def test_a_full_queue_is_429():
    with service(queue=1) as served:
        client = served.client()
        first = client.job(PNG)
        assert served.works.begun.wait(30)
        second = client.job(PNG)
        answer = client.restore(PNG)
        assert answer.status_code == 429 and answer.headers["retry-after"] == "5"
        assert client.state(second)["before"] == 0 and client.state(first)["stage"] == "sampling"
        assert client("GET", f"/jobs/{first}/result").status_code == 409
        served.works.gate.set()
        assert client.wait(second)["state"] == "done"


def test_too_many_requests_per_minute_are_429(monkeypatch):
    """Of each client by itself; pictures and estimates are counted apart, all else is not."""
    monkeypatch.setattr(guard, "Allowance", functools.partial(Allowance, clock=lambda: 0.0))
    keys, size = {"anne-" + "1" * 16: "anne", "ben-" + "2" * 16: "ben"}, {"width": 40, "height": 30}
    with service(keys=keys, rate=2) as served:
        anne, ben = (served.client(Authorization=f"Bearer {key}") for key in keys)
        assert [anne.restore(b"").status_code for _ in range(3)] == [415, 415, 429]
        refused = anne.restore(b"")
        assert refused.headers["retry-after"] == "30" and "per minute are sent" in refused.json()["detail"]
        assert [ben.restore(b"").status_code for _ in range(3)] == [415, 415, 429]
        assert [anne("POST", "/estimate", json=size).status_code for _ in range(3)] == [200, 200, 429]
        assert {anne("GET", "/about").status_code for _ in range(9)} == {200}
    with service(rate=1) as served:
        # By address: a proxy on this machine names its clients.
        found = [served.client().restore(b"", headers={"X-Forwarded-For": name}) for name in "aba"]
        assert [answer.status_code for answer in found] == [415, 415, 429]


def test_a_client_that_leaves_cancels_its_job():
    with service() as served:
        address = ("127.0.0.1", served.port)
        body = (
            b"--x\r\nContent-Disposition: form-data; name=image; filename=a.png\r\n\r\n%s\r\n--x--\r\n" % PNG
        )
        head = f"POST /restore HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        with socket.create_connection(address) as line:
            line.sendall(head.encode() + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + body)
            assert served.works.begun.wait(30)
            (job,) = served.engine._jobs.values()
            over = threading.Event()
            job.listeners.append(lambda: over.set() if job.over else None)
        assert job.over or over.wait(30)
        assert job.state == "cancelled"
        served.works.gate.set()
        assert served.client().restore(PNG).status_code == 200


def test_cancelling_by_request():
    with service() as served:
        client = served.client()
        running, waiting = client.job(PNG), client.job(PNG, '{"upscale": 1}')
        assert client("DELETE", f"/jobs/{waiting}").json()["state"] == "cancelled"
        assert client("DELETE", f"/jobs/{running}").json()["error"] == "the job was cancelled"
        assert client.wait(running)["state"] == "cancelled"
        assert client("GET", f"/jobs/{waiting}/result").status_code == 410


def test_two_hundred_requests_by_sixteen_clients():
    """Of three sizes and two options: each client gets its own pictures, and none is lost."""
    sides = [(16, 24), (40, 30), (100, 70)]
    with service() as served:
        served.works.gate.set()
        client = served.client()

        def ask(number: int) -> tuple[bytes, bytes]:
            height, width = sides[number % 3]
            data = png(height, width, number)
            options = json.dumps({"upscale": 1, "options": {"seed": number % 2}})
            answer = client.restore(data, options, f"{number}.png")
            assert answer.status_code == 200, answer.text
            assert f"''{number}.png" in answer.headers["content-disposition"]
            return data, answer.content

        with ThreadPoolExecutor(16) as pool:
            pairs = [*pool.map(ask, range(200))]
        for given, found in pairs:
            a, b = (np.asarray(Image.open(io.BytesIO(data))).astype(int) for data in (given, found))
            # The restorer halves values and adds less than 7.
            assert a.shape == b.shape and np.ptp(b - a // 2) == 0
        assert sum(map(len, served.works.packs)) == 200 and max(map(len, served.works.packs)) == 2
        assert all(job.photo is None and job.result is None for job in served.engine._jobs.values())


def test_events_tell_of_each_stage():
    with service() as served:
        client = served.client()
        job = client.job(PNG)
        answer = client("GET", f"/jobs/{job}/events", stream=True)
        lines = (line for line in answer.iter_lines(decode_unicode=True) if line.startswith("data: "))
        assert served.works.begun.wait(30)
        first = json.loads(next(lines)[6:])
        assert first["state"] in ("waiting", "running")
        served.works.gate.set()
        rest = [json.loads(line[6:]) for line in lines]
        assert rest[-1]["state"] == "done" and answer.headers["content-type"].startswith("text/event-stream")
