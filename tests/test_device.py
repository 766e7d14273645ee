"""benchmarks/device.py on CPUs with tiny networks: what is measured, what is left out, and where it is written."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from benchmarks import device, pod_programs
from benchmarks.device import Part, measure, parts, row, section, with_section, within
from benchmarks.networks import Network
from benchmarks.results import Results
from diffbir_jax.models.presets import PRESETS
from diffbir_jax.models.restoration_unet import RestorationUNet, RestorationUNetConfig
from diffbir_jax.restoration.defaults import DEFAULTS
from diffbir_jax.sampling.options import Options
from tests.test_tpu_aot import PRESET

RM = RestorationUNet(RestorationUNetConfig(unshuffle=2, channels=(8, 8), blocks=(1, 1, 1)))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A tiny version and network under the names of published ones; no time is measured twice."""
    preset = dataclasses.replace(PRESET, name="v2.1")
    monkeypatch.setitem(PRESETS, "v2.1", preset)
    monkeypatch.setitem(DEFAULTS, "v2.1", Options(steps=2))
    monkeypatch.setitem(device.NETWORKS, "unet", Network(RM, ((1, 16, 16, 3),)))
    monkeypatch.setattr(pod_programs, "SIDE", 32)
    monkeypatch.setattr(device, "REPEATS", 1)
    with jax.numpy_dtype_promotion("standard"):
        yield


def part(title: str, **more: Any) -> Part:
    return Part("network", title, "v2.1", "fp32", **more)


def test_a_network_is_timed_without_its_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda _: None)
    found = measure(part("unet"))
    assert found["seconds"] > 0 and found["compile"] > 0 and found["arguments"] > 4 * 16 * 16 * 3
    assert "torch" not in found and row(part("unet"), found).endswith("|  |  |  |")


@pytest.mark.tools
@pytest.mark.parametrize(
    "kind, more",
    [("training", {}), ("restoration", {"steps": 2, "side": 64}), ("restoration", {"steps": 1, "side": 64})],
)
def test_the_other_kinds_run(kind: str, more: dict[str, int]) -> None:
    """Steps and restorations of the tiny version, from compilation to time."""
    found = measure(Part(kind, "all", "v2.1", "fp32", **more))
    assert "error" not in found and found["seconds"] > 0 and found["temporaries"] > 0


def test_what_a_device_refuses_is_in_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Part) -> dict[str, Any]:
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nwith much more")

    monkeypatch.setattr(device, "network", refuse)
    text = row(part("unet"), measure(part("unet")))
    assert "RESOURCE_EXHAUSTED: out of memory |" in text and text.count("|") == len(device.HEADER) + 1


def test_parts_are_left_out_when_time_ends(tmp_path: Path) -> None:
    """By a clock that each part moves on by 100 s; what is known already takes none and is always there."""
    now = [0.0]

    def taken(_: Part) -> dict[str, Any]:
        now[0] += 100.0
        return {"seconds": 0.25, "compile": 3.0, "torch": 0.5, "torch.compile": 0.2}

    wanted = [part(title) for title in ("a", "b", "c", "d")]
    results = Results(tmp_path / "found.json", taken, row)
    results.found[wanted[3].name] = {"seconds": 1.0, "compile": 1.0}
    done, left = within(wanted, results, 250.0, lambda: now[0])
    assert [each.title for each in done] == ["a", "b", "d"] and [each.title for each in left] == ["c"]
    text = section(done, left, results)
    assert (
        "Left out for lack of time: c." in text
        and "| a | 0.250 | 3 |  |  |  | 0.500 | 0.200 | 1.25 |" in text
    )


def test_every_part_has_its_own_name() -> None:
    every = list(parts("v2.1", "bf16"))
    assert len({each.name for each in every}) == len(every) == len(device.NETWORKS) + 4 + 1
    assert {each.kind for each in every[:6]} == {"network", "restoration", "training"}


def test_a_page_has_one_such_section() -> None:
    """In the place of the one before; what stands around it stays."""
    once = with_section("# GPUs\n\ntext\n", "first")
    assert once.startswith("# GPUs\n\ntext\n") and once.count("first") == 1
    twice = with_section(once + "after\n", "second")
    assert "first" not in twice and twice.endswith("after\n") and twice.index("second") < twice.index("after")
