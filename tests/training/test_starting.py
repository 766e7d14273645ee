"""`config.init`: trained parameters from existing weights."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from diffbir_jax.console.errors import UserError
from diffbir_jax.data.batches import Batches
from diffbir_jax.files.digest import sha256
from diffbir_jax.models.presets import PRESETS
from diffbir_jax.training import loop
from diffbir_jax.training.loop import train
from diffbir_jax.training.objective import Objective
from diffbir_jax.training.starting import started
from diffbir_jax.weights.loading import abstract_params
from diffbir_jax.weights.safetensors import flatten, save_weights
from tests.models.reference import away_from_zero
from tests.training.micro import MICRO, make_photos, micro_config

ENCODER = {"encoder": {"kernel": np.full((2, 3), 7.0, np.float32)}}


def tree(value: float, *names: str) -> dict[str, Any]:
    return {name: {"kernel": np.full((len(names), 2), value, np.float32)} for name in names}


def objective(params: Any, export: Any) -> Objective:
    return Objective(params, {}, lambda *_: None, Batches(), lambda *_: ({}, np.zeros(1)), export)  # pyright: ignore


def single() -> Objective:
    """Trains a network whose parameters are the whole tree, like stage 1."""
    return objective(tree(1.0, "a", "b"), lambda ema: {"rm": ema})


def parts() -> Objective:
    """Trains two networks, half of another, and a discriminator, like the one-step stage."""
    params = {name: tree(1.0, name) for name in ("unet", "vae", "discriminator")}
    params["control"] = tree(1.0, "c", "d")
    return objective(
        params, lambda ema: {k: ema[k] for k in ("unet", "control")} | {"vae": ema["vae"] | ENCODER}
    )


def same(found: Any, wanted: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_a_file_takes_the_place_of_the_whole_tree(tmp_path: Path) -> None:
    file = save_weights(tmp_path / "mine.safetensors", tree(3.0, "a", "b"), {})
    found = started(single(), file)
    same(found.params, tree(3.0, "a", "b"))
    assert found.metadata == {"init": f"mine.safetensors {sha256(file)}"}


def test_a_file_is_recognised_by_its_shapes(tmp_path: Path) -> None:
    file = save_weights(tmp_path / "any.safetensors", tree(3.0, "c", "d"), {})
    same(started(parts(), file).params, parts().params | {"control": tree(3.0, "c", "d")})


def test_a_folder_starts_every_network_that_it_has(tmp_path: Path) -> None:
    """The discriminator keeps its own start, and the encoder is not trained."""
    save_weights(tmp_path / "unet.safetensors", tree(2.0, "unet"), {})
    save_weights(tmp_path / "vae.safetensors", tree(3.0, "vae") | ENCODER, {})
    found = started(parts(), tmp_path)
    same(found.params, parts().params | {"unet": tree(2.0, "unet"), "vae": tree(3.0, "vae")})
    assert found.metadata["init"].count("safetensors") == 2


def test_another_frozen_part_is_refused(tmp_path: Path) -> None:
    """A decoder of other latents would be worthless."""
    other = jax.tree.map(lambda x: x + 1, ENCODER)
    file = save_weights(tmp_path / "vae.safetensors", tree(3.0, "vae") | other, {})
    with pytest.raises(UserError, match="encoder/kernel is not trained by this stage, and differs"):
        started(parts(), file)


@pytest.mark.parametrize(
    "params, told",
    [
        (
            {"c": {"kernel": np.ones((2, 2))}, "d": {"kernel": np.ones((3, 2))}},
            r"does not fit the control that config.init starts \(1 problem\):\s+d/kernel has shape \(3, 2\)",
        ),
        ({"x": np.ones(2)}, r"does not fit the \w+ that config.init starts \(2 problems\)"),
    ],
)
def test_shapes_are_checked(tmp_path: Path, params: Any, told: str) -> None:
    file = save_weights(tmp_path / "a.safetensors", params, {})
    with pytest.raises(UserError, match=told):
        started(parts(), file)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights at .*gone \(config.init\): give a"):
        started(single(), tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="this stage trains unet, control, vae"):
        started(parts(), tmp_path)


def test_the_loop_starts_from_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state before the first step is that of the file; nothing is compiled for it."""
    monkeypatch.setitem(PRESETS, "micro", MICRO)
    params = away_from_zero(abstract_params(MICRO, ["rm"])["rm"])
    config = micro_config("rm", make_photos(tmp_path))
    config.init = str(save_weights(tmp_path / "rm.safetensors", params, MICRO.header("rm")))

    class Begun(Exception):
        pass

    def begin(first: Any, *_: Any) -> None:
        for path, value in flatten(first).items():
            np.testing.assert_array_equal(value, flatten(params)[path])
        raise Begun

    monkeypatch.setattr(loop, "init_state", begin)
    with pytest.raises(Begun):
        train(config, tmp_path / "work")
