"""Containers and manifests: they name files, flags and settings that exist, and end as they say."""

import os
import signal
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffbir_jax.batch import flags as restore_flags
from diffbir_jax.cli import train
from diffbir_jax.console import config_flags

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DOCKERFILES = ("Dockerfile", "Dockerfile.cuda")
JOBSETS = ("train.gpu.jobset.yaml", "train.tpu.jobset.yaml")
SCRIPTS = ("restore.slurm.sh", "train.slurm.sh")
UNPRIVILEGED = 10001


def instructions(name: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile with what follows them, without comments."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined if line)]


def last(name: str, word: str) -> str:
    return [rest for found, rest in instructions(name) if found == word][-1]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_copied_files_exist_and_are_sent_to_the_build(name: str) -> None:
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in sent
    sources = [
        rest.split()[:-1] for word, rest in instructions(name) if word == "COPY" and "--from" not in rest
    ]
    assert sources
    for source in sum(sources, []):
        assert (ROOT / source).exists() and f"!{source}" in sent, source


@pytest.mark.parametrize("name", DOCKERFILES)
def test_bases_are_pinned_and_one(name: str) -> None:
    bases = {rest.split()[0] for word, rest in instructions(name) if word == "FROM"}
    assert len(bases) == 1
    tag = bases.pop().rpartition(":")[2]
    assert tag.count(".") == 2 and tag[0].isdigit()


@pytest.mark.parametrize("name", DOCKERFILES)
def test_containers_run_without_root_and_tell_their_health(name: str) -> None:
    assert int(last(name, "USER")) == UNPRIVILEGED
    assert "127.0.0.1:8000/health" in last(name, "HEALTHCHECK")
    assert last(name, "EXPOSE") == "8000"
    assert last(name, "VOLUME") in last(name, "ENV").partition("XDG_CACHE_HOME=")[2]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_extras_exist(name: str) -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(last(name, "ARG").removeprefix("EXTRAS=").split(",")) <= known.keys()


def test_both_dockerfiles_differ_in_what_they_say_only() -> None:
    cpu, cuda = (
        [pair for pair in instructions(name) if pair[0] not in ("ARG", "ENV")] for name in DOCKERFILES
    )
    assert cpu == cuda


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / name).read_text())


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    """The pod of an indexed job, and what both kinds of manifest have in common."""
    assert job["completionMode"] == "Indexed" and job["completions"] == job["parallelism"]
    pod = job["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == UNPRIVILEGED
    mounts = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    return pod


def job_of(name: str) -> dict[str, Any]:
    """The only job of a set of jobs."""
    manifest = read(name)
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (group,) = manifest["spec"]["replicatedJobs"]
    assert group["replicas"] == 1
    return group["template"]["spec"]


def with_index(args: list[str], index: int) -> list[str]:
    """What Kubernetes makes of them."""
    return [word.replace("$(JOB_COMPLETION_INDEX)", str(index)) for word in args]


def test_pods_share_all_photos() -> None:
    job = read("restore.job.yaml")["spec"]
    (container,) = pod_of(job)["containers"]
    assert container["args"][0] == "restore"
    args = restore_flags.parse(with_index(container["args"][1:], job["completions"] - 1))
    assert (args.hosts, args.host_index) == (job["completions"], job["completions"] - 1)
    assert args.skip_existing
    final = job["podFailurePolicy"]["rules"][-1]["onExitCodes"]
    assert final["containerName"] == container["name"] and final["values"] == [1, 2]


@pytest.mark.parametrize("name", JOBSETS)
def test_flags_and_settings_of_training_exist(name: str) -> None:
    job = job_of(name)
    (container,) = pod_of(job)["containers"]
    parser = train.make_parser()
    args, words = config_flags.parse(parser, with_index(container["args"], 0))
    config = config_flags.read_config(parser, args, words)
    assert args.distributed and config.weights.folder == "/data/weights"
    assert args.hosts in (None, job["completions"])
    assert job["backoffLimit"] == 0


def test_the_coordinator_is_the_first_pod() -> None:
    name = "train.gpu.jobset.yaml"
    manifest, (container,) = read(name), pod_of(job_of(name))["containers"]
    host = f"{manifest['metadata']['name']}-{manifest['spec']['replicatedJobs'][0]['name']}-0-0"
    assert f"--coordinator={host}.{manifest['metadata']['name']}:1234" in container["args"]
    assert manifest["spec"]["network"]["enableDNSHostnames"]


def stub(folder: Path, name: str, text: str) -> None:
    """A program of that name."""
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {"PATH": f"{folder}:{os.environ['PATH']}", **more}


@pytest.mark.parametrize("name", JOBSETS)
def test_a_stopped_pod_fails_after_the_run_has_saved(tmp_path: Path, name: str) -> None:
    """It exits with 0 in `train`; the job would count as done."""
    (container,) = pod_of(job_of(name))["containers"]
    # KILL: a shell's child that has not become `sleep` yet would lose TERM.
    stub(tmp_path, "diffbir", "trap 'kill -KILL $!; echo saved; exit 0' TERM; sleep 60 & echo $1; wait")
    with subprocess.Popen(
        [*container["command"], "--distributed"], env=environment(tmp_path), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "train\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "saved\n"
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("status", [0, 3])
def test_a_pod_ends_as_its_run(tmp_path: Path, status: int) -> None:
    (container,) = pod_of(job_of(JOBSETS[0]))["containers"]
    stub(tmp_path, "diffbir", f"exit {status}")
    assert subprocess.run(container["command"], env=environment(tmp_path)).returncode == status


def slurm(name: str, folder: Path, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a script where `srun` and `scontrol` print what they are given."""
    for program in ("srun", "scontrol"):
        stub(folder, program, f'echo {program}; printf "%s\\n" "$@"')
    command = ["bash", str(DEPLOY / name), *args]
    return subprocess.run(command, env=environment(folder, **more), capture_output=True, text=True)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_say_what_is_missing(tmp_path: Path, name: str) -> None:
    found = slurm(name, tmp_path)
    assert found.returncode != 0 and "folder" in found.stderr and not found.stdout


def test_an_array_may_start_anywhere(tmp_path: Path) -> None:
    place = {"SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "5"}
    found = slurm("restore.slurm.sh", tmp_path, "my photos", "out", "--upscale", "2", **place)
    program, command, word, *words = found.stdout.splitlines()
    assert (program, command, word) == ("srun", "diffbir", "restore")
    args = restore_flags.parse(words)
    assert (args.hosts, args.host_index, args.upscale) == (3, 2, 2.0)


@pytest.mark.parametrize("finished", [True, False])
def test_an_unfinished_training_goes_back_into_the_queue(tmp_path: Path, finished: bool) -> None:
    if finished:
        (tmp_path / "run" / "export").mkdir(parents=True)
    args = (str(tmp_path / "run"), "--config", "bsr:tiny")
    found = slurm("train.slurm.sh", tmp_path, *args, SLURM_JOB_ID="12")
    assert found.returncode == 0
    assert found.stdout.endswith("scontrol\nrequeue\n12\n") != finished
    words = found.stdout.partition("\ntrain\n")[2].partition("\nscontrol\n")[0].splitlines()
    parsed, _ = config_flags.parse(train.make_parser(), words)
    assert parsed.distributed and parsed.workdir == args[0]
