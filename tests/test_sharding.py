import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from diffbir_jax.models.apply import abstract
from diffbir_jax.models.presets import PRESETS
from diffbir_jax.sharding import make_mesh, prefetch_to_device, put_batch, tree_shardings
from diffbir_jax.training import vae
from diffbir_jax.training.loop import place
from diffbir_jax.training.objective import make_objective
from tests.models.reference import away_from_zero
from tests.training.micro import MICRO, make_photos, micro_config

RULES = ((r"attention/.*kernel$", (None, "fsdp")), (r"kernel$", ("fsdp", None)), (r"bias$", ("fsdp",)))


def test_a_mesh_takes_all_devices():
    assert dict(make_mesh().shape) == {"data": 4, "fsdp": 1}
    assert dict(make_mesh(fsdp=2).shape) == {"data": 2, "fsdp": 2}
    assert make_mesh(1, 1, jax.devices()[2:3]).devices.tolist() == [[jax.devices()[2]]]


@pytest.mark.parametrize("sizes", [(3, 1), (4, 2), (-1, 3), (-1, 8), (2, 0), (-1, 0)])
def test_a_mesh_that_does_not_fit_is_refused(sizes):
    with pytest.raises(ValueError, match=r"does not cover 4 devices: change config\.mesh"):
        make_mesh(*sizes)


def test_the_first_rule_found_in_a_path_counts():
    tree = {
        "attention": {"q": {"kernel": jnp.zeros((6, 4))}},
        "conv": {"kernel": jnp.zeros((3, 3, 4, 5)), "bias": jnp.zeros(5)},
        "norm": {"scale": jnp.zeros(4), "bias": jnp.zeros(4)},
        "kernel": jnp.zeros(()),
    }
    specs = jax.tree.map(lambda s: s.spec, tree_shardings(tree, make_mesh(2, 2), RULES))
    assert specs["attention"]["q"]["kernel"] == PartitionSpec(None, "fsdp")
    assert specs["conv"]["kernel"] == PartitionSpec(None, None, "fsdp", None)
    assert specs["conv"]["bias"] == PartitionSpec(None)  # 5 does not divide by 2
    assert specs["norm"] == {"scale": PartitionSpec(None), "bias": PartitionSpec("fsdp")}
    assert specs["kernel"] == PartitionSpec()


def test_batches_are_split_over_all_devices():
    batch = {"hq": np.arange(8 * 3, dtype=np.uint8).reshape(8, 3)}
    placed = put_batch(batch, make_mesh(2, 2))["hq"]
    assert sorted(int(shard.data[0, 0]) for shard in placed.addressable_shards) == [0, 6, 12, 18]
    with pytest.raises(
        ValueError, match=r"batch of 6 on 4 devices: config\.data\.batch_size must be a multiple of 4"
    ):
        put_batch({"hq": np.zeros((6, 3))}, make_mesh(2, 2))


def test_texts_stay_on_the_host():
    placed = put_batch({"hq": np.zeros((4, 3)), "prompt": np.array(["a", "bc", "", "d"])}, make_mesh())
    assert isinstance(placed["hq"], jax.Array) and placed["prompt"].tolist() == ["a", "bc", "", "d"]


@pytest.mark.parametrize(("count", "depth"), [(7, 2), (2, 2), (1, 3), (0, 2), (4, 0)])
def test_batches_lie_on_the_devices_ahead(count, depth):
    asked = []

    def host():
        for i in range(count):
            asked.append(i)
            yield {"x": np.full(4, i)}

    for i, batch in enumerate(prefetch_to_device(host(), make_mesh(), depth)):
        assert batch["x"].tolist() == [i] * 4 and len(batch["x"].addressable_shards) == 4
        assert len(asked) == min(i + depth + 1, count)
    assert asked == list(range(count))


@pytest.mark.slow
def test_devices_do_not_change_the_training_step(tmp_path, monkeypatch):
    """Three steps of the autoencoder, whose loss draws random numbers, on one and on four devices."""
    monkeypatch.setitem(PRESETS, "micro", MICRO)
    # An initialisation takes long to compile.
    monkeypatch.setattr(vae, "init", lambda module, _, *inputs: away_from_zero(abstract(module, *inputs)))
    config = micro_config("vae", make_photos(tmp_path))
    config.train.warmup = 0

    objective = make_objective(config)

    def run(mesh):
        state, step = place(objective, mesh, config)
        for i in range(3):
            state, _ = step(state, {}, put_batch(objective.batches(i), mesh))
        return state

    with jax.numpy_dtype_promotion("standard"):  # which optax relies on
        alone, spread, split = (
            run(mesh) for mesh in (make_mesh(1, 1, jax.devices()[:1]), make_mesh(4, 1), make_mesh(2, 2))
        )
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), alone.params, objective.params)
    assert max(jax.tree.leaves(moved)) > 1e-3
    kernels = [state.params["decoder"]["conv_in"]["kernel"] for state in (alone, spread, split)]
    assert [k.addressable_shards[0].data.shape[-1] for k in kernels] == [8, 8, 4]
    assert [len(k.addressable_shards) for k in kernels] == [1, 4, 4]
    for state in (spread, split):
        for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(alone)):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
