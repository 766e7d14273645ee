"""The end of a service: a signal under load loses nothing that was accepted, and what is not done is named."""

import os
import re
import signal
import subprocess
import sys
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from diffbir_jax.cli.main import main
from diffbir_jax.console import extras
from diffbir_jax.console.errors import UserError
from diffbir_jax.serve import run
from tests.serve.fake import Client, service
from tests.serve.pictures import PNG, shape

ROOT = Path(__file__).parents[2]


def test_a_signal_under_load_loses_nothing_that_was_accepted(tmp_path):
    """Clients on the line and jobs in the queue get their pictures; new jobs are refused meanwhile."""
    command = [sys.executable, "-m", "tests.serve.fake", "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        found = re.search(r"http://127.0.0.1:(\d+) serves one-step", process.stderr.readline())
        assert found is not None
        client = Client(int(found[1]))
        jobs = [client.job(PNG) for _ in range(6)]
        with ThreadPoolExecutor(4) as pool:
            lines = [pool.submit(client.restore, PNG) for _ in range(4)]
            while "diffbir_accepted_total 10.0" not in client("GET", "/metrics").text:
                pass
            process.send_signal(signal.SIGTERM)
            assert "accepted jobs are finished first" in process.stderr.readline()
            refused = client.restore(PNG)
            assert refused.status_code == 503 and "takes no more jobs" in refused.json()["detail"]
            (tmp_path / "go").touch()
            assert all(line.result().status_code == 200 for line in lines)
        for job in jobs:
            assert client.wait(job)["state"] == "done"
            assert shape(client("GET", f"/jobs/{job}/result").content) == (64, 96, 3)
        assert process.wait(30) == 0
        assert process.stderr.read() == "diffbir: stopped, 0 jobs handed back\n"


def test_what_is_not_done_in_time_is_handed_back():
    """Clients on the line and those that follow a job are told; the server knows what it hands back."""
    with service() as served:
        client, server = served.client(), served.server
        job = client.job(PNG)
        with ThreadPoolExecutor(2) as pool:
            line, events = pool.submit(client.restore, PNG), pool.submit(client.wait, job)
            while "diffbir_accepted_total 2.0" not in client("GET", "/metrics").text:
                pass
            server._grace = 0.0
            server.handle_exit(signal.SIGTERM, None)
            answer, last = line.result(), events.result()
        told = "the service stopped before this job was done; send it again"
        assert (answer.status_code, answer.json()["detail"], last["error"]) == (503, told, told)
        served.thread.join(30)
        assert not served.thread.is_alive() and job in {one.id for one in server.handed}


def test_the_server_stays_for_jobs_and_for_results_in_bounds():
    """A server that does not run: only the test asks whether it is done."""
    with service() as served:
        client, server = served.client(), run.Server(served.server.config, served.engine, 60.0)
        job = client.job(PNG)
        server._left_at = 1000.0
        assert not server._done(1059.0)
        served.works.gate.set()
        assert client.wait(job)["state"] == "done"
        assert not server._done(1001.0) and not server._done(1001.0 + run.LINGER)
        assert server._done(1002.0 + run.LINGER)
        assert client("GET", f"/jobs/{job}/result").status_code == 200
        assert server._done(1001.0) and not server.handed


def test_the_server_leaves_once_results_are_fetched():
    with service() as served:
        client = served.client()
        job = client.job(PNG)
        served.server.handle_exit(signal.SIGTERM, None)
        served.works.gate.set()
        assert client.wait(job)["state"] == "done"
        assert client("GET", f"/jobs/{job}/result").status_code == 200
        served.thread.join(30)
        assert not served.thread.is_alive()
        with pytest.raises(requests.ConnectionError):
            client("GET", "/health")


def test_the_server_stays_until_all_samples_are_fetched():
    with service() as served:
        client = served.client()
        job = client.job(PNG, '{"n_samples": 2}')
        served.works.gate.set()
        assert client.wait(job)["state"] == "done"
        served.server.handle_exit(signal.SIGTERM, None)
        assert client("GET", f"/jobs/{job}/result").status_code == 200
        assert not served.engine.collected
        assert client("GET", f"/jobs/{job}/results/2").status_code == 200
        served.thread.join(30)
        assert not served.thread.is_alive()


def test_a_second_signal_ends_at_once():
    with service() as served:
        served.client().job(PNG)
        for _ in range(2):
            served.server.handle_exit(signal.SIGTERM, None)
        served.thread.join(30)
        assert not served.thread.is_alive() and served.server.force_exit and len(served.server.handed) == 1


def test_a_second_signal_waits_for_no_thread(tmp_path):
    """The device never answers, as while a program is compiled."""
    command = [sys.executable, "-m", "tests.serve.fake", "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        found = re.search(r"http://127.0.0.1:(\d+) serves one-step", process.stderr.readline())
        assert found is not None
        job = Client(int(found[1])).job(PNG)
        process.send_signal(signal.SIGTERM)
        assert "accepted jobs are finished first" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 1
        assert process.stderr.read().splitlines() == [
            f"diffbir: handed back: job {job} was not done",
            "diffbir: stopped, 1 jobs handed back",
        ]


def call(*command: str) -> str:
    """What a service says that cannot start."""
    with pytest.raises(SystemExit) as end:
        main(["serve", *command])
    return end.value.code if isinstance(end.value.code, str) else ""


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--host 203.0.113.1 --port 1", "203.0.113.1 port 1: "),
        ("--keys none.txt", "none.txt: cannot be read"),
        ("--keys short.txt", "short.txt, line 2: give a name and a key of at least 16"),
        ("--keys empty.txt", "empty.txt: holds no key"),
    ],
)
def test_what_cannot_be_served_is_one_line(flags, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("short.txt").write_text("# keys\nanne secret\n")
    Path("empty.txt").write_text("\n# none\n")
    said = call(*flags.split())
    assert line in said and "\n" not in said


def test_ports_have_a_range(capsys):
    call("--port", "99999")
    assert "'99999' given, allowed are whole numbers up to 65535" in capsys.readouterr().err


def test_without_the_extra_it_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(extras, "is_installed", lambda name: name != "uvicorn")
    call()
    assert capsys.readouterr().err == "diffbir serve: uvicorn missing: pip install 'diffbir-jax[serve]'\n"


def test_an_address_that_others_reach_is_warned_of(capsys):
    run.advise(Namespace(host="127.0.0.1"), "serve", {})
    assert capsys.readouterr().err == ""
    run.advise(Namespace(host="0.0.0.0"), "serve", {})
    assert "without any key" in capsys.readouterr().err


def test_faces_go_with_the_networks_of_whole_photos():
    args = Namespace(task="face", faces=True, version=None, precision="fp32", max_pixels=2**20, lora=None)
    with pytest.raises(UserError, match="--faces restores whole photos by --task sr, not face"):
        run.bases_of(args)
    args.task = "sr"
    assert [*run.bases_of(args)] == ["one-step"]
