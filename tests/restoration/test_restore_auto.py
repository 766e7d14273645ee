"""`restore(..., auto=True)`: each picture gets options of its own, and a clean one comes back as it is."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffbir_jax import restore
from diffbir_jax.console.errors import UserError
from diffbir_jax.restoration import auto
from diffbir_jax.restoration import restore as module
from diffbir_jax.restoration.candidates import default_plan
from diffbir_jax.restoration.defaults import DEFAULTS
from diffbir_jax.restoration.estimate import Estimate
from tests.command import save
from tests.micro import FEW, MICRO, micro, picture

CLEAN, NOISY, REDUCED = (
    Estimate(0.1, noise, 100.0, scale) for noise, scale in ((0.2, 1.0), (20.0, 1.0), (0.2, 2.0))
)
PICTURES = [picture(32, 32, seed) for seed in range(4)]
FOUND = [NOISY, CLEAN, REDUCED, NOISY]


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small network in place of one-step, and estimates for the pictures above."""
    monkeypatch.setattr(module, "loaded", lambda *args: micro())
    monkeypatch.setitem(DEFAULTS, "one-step", FEW)
    monkeypatch.setattr(
        module, "make_plan", lambda *args: SimpleNamespace(plan=default_plan(MICRO, args[3].options))
    )

    def estimated(image: np.ndarray) -> Estimate:
        eight = image if image.dtype == np.uint8 else np.rint(image * 255).astype(np.uint8)
        return next(found for known, found in zip(PICTURES, FOUND) if np.array_equal(eight, known))

    monkeypatch.setattr(auto, "estimate", estimated)


def test_each_picture_gets_its_own_options_and_keeps_its_place_and_noise(monkeypatch: pytest.MonkeyPatch):
    """As restored alone with these options; pictures of one choice share a run."""
    runs: list[tuple[list[int], Any]] = []
    before = module._restored

    def noted(restorer: Any, taken: Any, requests: Any, upscale: Any, wanted: Any, memory: Any) -> Any:
        runs.append(([request.index for request in requests], wanted.options))
        return before(restorer, taken, requests, upscale, wanted, memory)

    monkeypatch.setattr(module, "_restored", noted)
    found = restore(PICTURES, upscale=1, auto=True, seed=3)
    detail = auto.more_detail(2.0, 1.0)["detail"]
    assert [(places, options.texture, options.detail) for places, options in runs] == [
        ([0, 3], 0.0, None),
        ([2], FEW.texture, detail),
    ]
    assert all(options.seed == 3 for _, options in runs)
    np.testing.assert_array_equal(found[1], PICTURES[1])
    alone = restore(PICTURES[0], upscale=1, seed=3, texture=0.0)
    np.testing.assert_array_equal(found[0], alone)


@pytest.mark.parametrize("kind", ["uint8", "float", "pillow", "file"])
def test_a_clean_picture_comes_back_as_it_is(kind: str, tmp_path: Path):
    """As a picture of its own, of the given kind."""
    clean = PICTURES[1]
    given = {
        "uint8": clean,
        "float": clean / np.float32(255),
        "pillow": Image.fromarray(clean),
        "file": save(tmp_path / "a.png", (32, 32), 1),
    }[kind]
    found = restore(given, upscale=1, auto=True)
    wanted = given if isinstance(given, np.ndarray) else clean
    np.testing.assert_array_equal(np.asarray(found), wanted)
    assert not isinstance(found, np.ndarray) or (
        found.dtype == given.dtype and not np.shares_memory(found, given)
    )


def test_options_that_are_given_win():
    wanted = restore(PICTURES[1], upscale=1, texture=0.7)
    np.testing.assert_array_equal(restore(PICTURES[1], upscale=1, texture=0.7, auto=True), wanted)


def test_loras_leave_no_picture_alone(monkeypatch: pytest.MonkeyPatch):
    """However they are given; the networks get them."""
    asked: list[Any] = []
    monkeypatch.setattr(module, "loaded", lambda *args: asked.append(args[-1]) or micro())
    wanted = restore(PICTURES[1], upscale=1)
    found = restore(PICTURES[1], upscale=1, auto=True, lora=(name for name in ("a.safetensors",)))
    np.testing.assert_array_equal(found, wanted)
    assert [len(loras) for loras in asked] == [0, 1]


def test_a_picture_too_small_for_an_estimate_gets_the_usual_options(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    monkeypatch.setattr(module, "loaded", lambda *args: micro())
    monkeypatch.setattr(
        module, "make_plan", lambda *args: SimpleNamespace(plan=default_plan(MICRO, args[3].options))
    )
    monkeypatch.setitem(DEFAULTS, "one-step", FEW)
    with pytest.warns(
        UserWarning, match="picture 1: no estimate, so it gets the usual settings: the image is 32x32"
    ):
        found = restore(PICTURES[0], upscale=1, auto=True)
    np.testing.assert_array_equal(found, restore(PICTURES[0], upscale=1))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"version": "tiny"}, "`auto` knows settings of `version` one-step alone, tiny is given"),
        ({"stage1": "none"}, "knows no `stage1`; leave one out"),
        ({"stage1_only": True}, "knows no `stage1_only`"),
        ({"task": "denoise"}, "knows no `task`"),
        ({"task": "faces"}, "knows no `task`"),
    ],
)
def test_arguments_that_leave_nothing_to_choose(arguments: dict[str, Any], words: str):
    with pytest.raises(UserError, match=words):
        restore(PICTURES[0], upscale=1, auto=True, **arguments)
