"""Joint training of both stages on the smallest networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.models.apply import apply
from diffbir_jax.sharding import make_mesh, put_batch, replicated
from diffbir_jax.training import joint, regeneration
from diffbir_jax.training.loop import place
from diffbir_jax.training.objective import Objective, make_objective
from diffbir_jax.weights.safetensors import flatten
from tests.training.micro import MICRO, make_photos, make_weights, micro, surrounded

WEIGHT = 0.25
KEY = jax.random.key(3)


@pytest.fixture(scope="module", autouse=True)
def surroundings():
    """The preset `micro`, whose control is no copy of the UNet: its zeros would hide stage 1 from the loss."""
    with surrounded(stage=regeneration):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_weights(make_photos(tmp_path_factory.mktemp("joint")))


def config(folder, gradient: str = "through", weight: float = WEIGHT):
    made = micro(folder, "joint")
    made.model.control.init = "scratch"
    made.joint.update(gradient=gradient, weight=weight)
    made.train.weight_decay = 0.0  # which would move anything
    return made


@pytest.fixture(scope="module")
def objectives(folder) -> dict[str, Objective]:
    return {name: make_objective(config(folder, name)) for name in ("through", "stop", "alternate")}


def slopes(objective: Objective, batch) -> tuple[dict, dict]:
    """Metrics and gradient."""
    run = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
    (_, said), gradient = run(objective.params, objective.frozen, batch, KEY)
    return said, gradient


@pytest.fixture(scope="module")
def found(objectives):
    batch = objectives["stop"].batches(0)
    return {name: slopes(objectives[name], batch) for name in ("through", "stop")}


def squares(params, batch) -> jax.Array:
    """The squared error of stage 1, without any code of the objective."""
    image, wanted = (jnp.asarray(batch[name], jnp.float32) / 255 for name in ("lq", "hq"))
    return jnp.mean(jnp.square(apply(MICRO.make_rm(), params, image) - wanted))


def test_stopped_the_restoration_module_learns_from_its_error_alone(objectives, found) -> None:
    batch, (said, gradient) = objectives["stop"].batches(0), found["stop"]
    wanted = jax.jit(jax.grad(squares))(objectives["stop"].params["rm"], batch)
    for name, value in flatten(wanted).items():
        np.testing.assert_allclose(flatten(gradient["rm"])[name], value, rtol=1e-4, atol=1e-6)
    assert float(said["psnr_rm"]) > 0 and float(said["diffusion"]) > 0


def test_through_the_encoder_it_also_learns_from_stage_2(objectives, found) -> None:
    """The slope of the loss along the gradient, by differences; and the control's gradient is the same as before."""
    (_, gradient), objective = found["through"], objectives["through"]
    extra = jax.tree.map(lambda a, b: a - b, gradient["rm"], found["stop"][1]["rm"])
    assert max(float(np.abs(x).max()) for x in jax.tree.leaves(extra)) > 1e-5
    batch, norm = (
        objective.batches(0),
        np.sqrt(sum(float(np.sum(x * x)) for x in jax.tree.leaves(gradient["rm"]))),
    )
    loss = jax.jit(lambda rm: objective.loss(objective.params | {"rm": rm}, objective.frozen, batch, KEY)[0])
    step = 1e-3 / norm
    ahead, behind = (
        float(loss(jax.tree.map(lambda p, g, s=s: p + s * step * g, objective.params["rm"], gradient["rm"])))
        for s in (1, -1)
    )
    assert (ahead - behind) / (2 * step) == pytest.approx(norm**2, rel=0.02)
    for a, b in zip(
        *(jax.tree.leaves(found[name][1]["control"]) for name in ("through", "stop")), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gradient", ("through", pytest.param("alternate", marks=pytest.mark.slow)))
def test_a_step_trains_both_stages_and_nothing_else(folder, objectives, gradient) -> None:
    objective, mesh = objectives[gradient], make_mesh(devices=jax.devices()[:1])
    before = jax.tree.map(np.array, (objective.params, objective.frozen))
    state, step = place(objective, mesh, config(folder, gradient))
    frozen = jax.device_put(objective.frozen, replicated(mesh))
    for i in range(2):
        state, metrics = step(state, frozen, put_batch(objective.batches(i), mesh))
    assert np.isfinite(metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, before[1], frozen)
    after = flatten(state.params)
    assert not [name for name, value in flatten(before[0]).items() if np.array_equal(value, after[name])]
    assert objective.export(state.ema).keys() == {"rm", "control"} and "rm" not in frozen


def test_validation_sees_the_trained_restoration_module(objectives) -> None:
    objective = objectives["through"]
    metrics, _ = objective.validate(objective.params, objective.frozen)
    changed = objective.params | {"rm": jax.tree.map(lambda x: 0.5 * x, objective.params["rm"])}
    others, _ = objective.validate(changed, objective.frozen)
    assert metrics["psnr_rm"] != others["psnr_rm"] and metrics["loss"] != others["loss"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"joint.gradient": "both"}, "allowed are through, stop, alternate"),
        ({"joint.weight": -1.0}, "must be at least 0"),
        ({"joint.weight": float("nan")}, "must be at least 0"),
        ({"model.stage1": False}, "needs a restoration module"),
        ({"data.cache": "crops.npz"}, "fixes the result of stage 1"),
    ],
)
def test_what_cannot_be_is_one_line(folder, change, said) -> None:
    made = config(folder)
    made.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=said):
        joint.make(made)
