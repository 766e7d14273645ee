"""What the service refuses: bad requests, hostile names, uploads too large or too slow, pages of other sites."""

import json
import socket
from typing import Any
from urllib.parse import quote

import pytest

from tests.serve.pictures import LARGE, PNG, png

BAD: list[tuple[str, dict[str, Any], int, str]] = [
    ("no picture", {"data": b"hello"}, 415, "is not a PNG, JPEG"),
    ("an empty file", {"data": b""}, 415, "is empty"),
    ("a cut file", {"data": PNG[:60]}, 415, "cut off"),
    ("a small picture", {"data": png(8, 8)}, 415, "at least 16"),
    ("many pixels", {"data": png(300, 300)}, 413, "more than the limit of 65536"),
    ("a large result", {"data": PNG, "options": '{"upscale": 100}'}, 413, "allowed are 1048576"),
    ("no JSON", {"options": "{"}, 422, "is no JSON"),
    ("no object", {"options": "[1]"}, 422, "no JSON object"),
    ("deep JSON", {"options": '{"a":' * 9000 + "1" + "}" * 9000}, 422, "options:"),
    ("long JSON", {"options": " " * 70000}, 422, "allowed are 65536"),
    ("an unknown name", {"options": '{"upscal": 2}'}, 422, "unknown parameters upscal"),
    ("an unknown option", {"options": '{"options": {"stepz": 2}}'}, 422, "unknown parameters stepz"),
    ("a wrong type", {"options": '{"upscale": "2"}'}, 422, "upscale"),
    ("out of range", {"options": '{"options": {"detail": 2}}'}, 422, "detail is 2"),
    ("not a number", {"options": '{"upscale": NaN}'}, 422, "upscale"),
    ("no upscale", {"options": '{"upscale": 0}'}, 422, "upscale"),
    ("no pixel left", {"options": '{"upscale": 1e-9}'}, 422, "options: `upscale` is 1e-09, which leaves no pixel"),
    ("other networks", {"options": '{"version": "tiny"}'}, 422, "this service has one-step"),
    ("weights", {"options": '{"weights": "/etc"}'}, 422, "this service has None"),
    ("stage 1", {"options": '{"stage1": "../x.safetensors"}'}, 422, "this service has None"),
    ("too many samples", {"options": '{"n_samples": 5}'}, 422, "`n_samples` is 5; this service allows 1 to 4"),
    ("no samples", {"options": '{"n_samples": 0}'}, 422, "n_samples"),
    ("several for one answer", {"options": '{"n_samples": 2}'}, 422, "come as parts"),
    ("a map of one", {"options": '{"std_map": true}'}, 422, "`std_map` compares several results"),
    ("equal samples", {"options": '{"n_samples": 2, "upscale": 1}'}, 422, "all samples are equal"),
    ("large samples", {"data": LARGE, "options": '{"n_samples": 4, "upscale": 8}'}, 413, "4 results of 800x800"),
    ("faces", {"options": '{"task": "faces"}'}, 422, "this service has 'sr'"),
    ("a list as options", {"options": '{"options": [1]}'}, 422, "no object"),
    ("text", {"options": '{"options": {"pos_prompt": "a cat"}}'}, 422, "knows no text"),
    ("half a character", {"options": '{"options": {"pos_prompt": "\\ud800"}}'}, 422, "options:"),
    ("contradiction", {"options": '{"format": "jpeg", "bit_depth": "16"}'}, 422, "`bit_depth` is 16"),
    ("no sidecar", {"options": '{"parameters": {}}'}, 422, "Field required"),
    ("a wrong word", {"query": "?job=perhaps"}, 422, "job"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "request_", "status", "text"), BAD, ids=[bad[0] for bad in BAD])
def test_bad_requests_get_one_line(client, what, request_, status, text, capfd):
    answer = client.restore(**{"data": PNG} | request_)
    detail = answer.json()["detail"]
    assert (answer.status_code, text in detail) == (status, True), (answer.status_code, detail)
    assert "\n" not in detail and len(detail) < 400
    assert "Traceback" not in capfd.readouterr().err


def test_requests_of_another_form(client, capfd):
    for method, path, status, more in (
        ("POST", "/restore", 422, {}),
        ("POST", "/restore", 422, {"json": {"image": "x"}}),
        ("POST", "/restore", 422, {"files": {"image": (None, "no file")}}),
        ("POST", "/restore", 400, {"data": b"--x", "headers": {"Content-Type": "multipart/form-data"}}),
        ("GET", "/restore", 405, {}),
        ("GET", "/jobs/none", 404, {}),
        ("GET", "/jobs/none/result", 404, {}),
        ("DELETE", "/jobs/..%2f..%2fetc", 404, {}),
        ("GET", "/../../etc/passwd", 404, {}),
        ("POST", "/estimate", 422, {"json": {"width": 0, "height": 1}}),
        ("POST", "/estimate", 422, {"json": {"width": 15, "height": 16}}),
        ("POST", "/estimate", 422, {"json": {"width": 16, "height": 16, "options": {"upscale": 1e-9}}}),
        ("POST", "/estimate", 413, {"json": {"width": 90000, "height": 90000}}),
        ("POST", "/estimate", 422, {"data": b"{"}),
    ):
        answer = client(method, path, **more)
        assert answer.status_code == status and "\n" not in answer.json()["detail"], (path, answer.text)
    assert "Traceback" not in capfd.readouterr().err


NAMES = [
    "../../etc/passwd",
    "..\\..\\boot.ini",
    "/etc/cron.d/x.png",
    "a\r\nX-Evil: 1.png",
    "...",
    "a" * 900,
    "\u202egnp.exe",
]


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_stay_names(client, name):
    """Raw as browsers send them, with the line ends that would begin another header."""
    head = b"--x\r\nContent-Disposition: form-data; name=image; filename*=UTF-8''%s\r\n\r\n"
    data = head % quote(name).encode() + PNG + b"\r\n--x--\r\n"
    raw = client("POST", "/restore", data=data, headers={"Content-Type": "multipart/form-data; boundary=x"})
    named = client.restore(PNG, name=name.replace("\r\n", ""))
    assert named.status_code == 200 and raw.status_code in (200, 422)
    for answer in (raw, named)[raw.status_code != 200 :]:
        kept = json.loads(answer.headers["diffbir-sidecar"])["name"]
        assert not {*kept} & {"/", "\\", "\r", "\n", "\u202e"} and 0 < len(kept) <= 200
        assert "x-evil" not in answer.headers and "etc" not in answer.headers["content-disposition"]


def test_large_uploads_are_refused_before_they_are_read(client):
    answer = client.restore(b"x" * 2**21)
    assert answer.status_code == 413 and "allowed are 1048576" in answer.json()["detail"]


def test_large_uploads_without_a_length_are_cut_off(served):
    """In chunks: the header does not tell how many."""
    head = "POST /restore HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    head += "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    part = b"--x\r\nContent-Disposition: form-data; name=image; filename=a.png\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port)) as line:
        line.settimeout(30)
        line.sendall(head.encode() + b"%x\r\n%s\r\n" % (len(part), part))
        try:
            for _ in range(64):
                line.sendall(b"10000\r\n" + b"x" * 2**16 + b"\r\n")
        except OSError:
            pass  # The service has closed the line.
        assert line.recv(100).startswith(b"HTTP/1.1 413")


def test_slow_uploads_end(served):
    head = "POST /restore HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
    with socket.create_connection(("127.0.0.1", served.port)) as line:
        line.settimeout(30)
        line.sendall(head.encode() + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x")
        assert line.recv(100).startswith(b"HTTP/1.1 408")


def test_pages_of_other_sites_are_refused(client):
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
        answer = client.restore(PNG, headers=headers)
        assert answer.status_code == 403, headers
    assert client("GET", "/health", headers={"Host": "localhost:1"}).json()["status"] == "ok"
    own = {"Origin": client.base}
    assert client.restore(PNG, headers=own).status_code == 200
