import hashlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from diffbir_jax.console.errors import MissingFileError, OtherRunError
from diffbir_jax.sharding import make_mesh, tree_shardings
from diffbir_jax.training.checkpoints import Checkpoints
from diffbir_jax.training.state import TrainState, init_state
from diffbir_jax.weights.safetensors import (
    checksum,
    flatten,
    load_weights,
    read_metadata,
    save_weights,
    unflatten,
    write_arrays,
)

PARAMS = {
    "a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3) / 7, "bias": np.ones(3, np.float32)},
    "b": np.zeros(2, np.float32),
}
OPTIMIZER = optax.adamw(1e-3)


def state(params) -> TrainState:
    return init_state(jax.tree.map(jnp.asarray, params), OPTIMIZER, seed=3)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def test_flatten_and_back():
    assert list(flatten(PARAMS)) == ["a/kernel", "a/bias", "b"]
    assert_same(unflatten(flatten(PARAMS)), PARAMS)


def test_weights_are_read_as_written(tmp_path):
    path = save_weights(tmp_path / "new" / "w.safetensors", PARAMS, {"preset": "tiny"})
    assert_same(load_weights(path, PARAMS), PARAMS)
    with safe_open(path, "np") as file:
        assert file.metadata() == {"preset": "tiny"}
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]  # nothing partial is left


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_files_are_read_as_float32(tmp_path, dtype):
    path = save_weights(tmp_path / "w.safetensors", PARAMS, {}, dtype=dtype)
    rounded = jax.tree.map(lambda x: x.astype(jnp.dtype(dtype)).astype(np.float32), PARAMS)
    assert_same(load_weights(path, PARAMS), rounded)
    assert not np.array_equal(rounded["a"]["kernel"], PARAMS["a"]["kernel"])


def test_metadata_is_read_without_the_weights(tmp_path):
    assert read_metadata(save_weights(tmp_path / "w", PARAMS, {"family": "swinir"})) == {"family": "swinir"}
    assert read_metadata(save_weights(tmp_path / "v", PARAMS, {})) == {}


def test_arrays_are_written_part_by_part(tmp_path):
    """Other readers of the format agree, and the checksum is the file's."""
    shapes, dtypes = {"i": (2,), "w": (2, 3), "one": ()}, {"i": "int64", "w": "float32", "one": "bfloat16"}
    parts = [("i", np.arange(2)), ("w", np.ones((1, 3))), ("w", np.zeros((1, 3))), ("one", np.float32(0.5))]
    digest = write_arrays(tmp_path / "w", shapes, iter(parts), {"k": "v"}, dtypes)
    assert digest == hashlib.sha256((tmp_path / "w").read_bytes()).hexdigest()
    stored = load_file(tmp_path / "w")
    assert {key: (x.shape, str(x.dtype)) for key, x in stored.items()} == {
        key: (shapes[key], dtypes[key]) for key in shapes
    }
    np.testing.assert_array_equal(stored["i"], [0, 1])
    np.testing.assert_array_equal(stored["w"], [[1, 1, 1], [0, 0, 0]])
    assert float(stored["one"]) == 0.5


@pytest.mark.parametrize("parts", [[], [("w", np.ones(2))], [("w", np.ones(2)), ("w", np.ones(2))]])
def test_parts_must_add_up(tmp_path, parts):
    with pytest.raises(ValueError, match="do not add up to the shapes"):
        write_arrays(tmp_path / "w", {"w": (3,)}, parts, {}, {"w": "float32"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_nothing_is_left_of_what_fails_midway(tmp_path, error):
    def parts():
        yield "w", np.ones(2)
        raise error

    (tmp_path / "w").write_bytes(b"before")
    with pytest.raises(error):
        write_arrays(tmp_path / "w", {"w": (3,)}, parts(), {}, {"w": "float32"})
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_other_precisions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="dtype 'int8' given, allowed are float32, bfloat16, float16"):
        save_weights(tmp_path / "w", PARAMS, {}, dtype="int8")


def test_arrays_that_are_not_contiguous_keep_their_values(tmp_path):
    params = {"w": PARAMS["a"]["kernel"].T}
    assert_same(load_weights(save_weights(tmp_path / "w", params, {}), params), params)


def test_a_home_folder_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_weights(tmp_path / "w.safetensors", PARAMS, {})
    assert_same(load_weights("~/w.safetensors", PARAMS), PARAMS)


def test_every_mismatch_is_listed(tmp_path):
    path = save_weights(tmp_path / "w", PARAMS, {})
    like = {"a": {"kernel": np.zeros((3, 2)), "scale": np.zeros(5)}, "b": np.zeros(2)}
    with pytest.raises(ValueError) as error:
        load_weights(path, like)
    head, *problems = str(error.value).split("\n  ")
    assert head.endswith("w does not fit the model (3 problems):")
    assert problems == [
        "missing a/scale (5,)",
        "unexpected a/bias (3,)",
        "a/kernel has shape (2, 3), wanted (3, 2)",
    ]


@pytest.mark.parametrize("read", [checksum, read_metadata, partial(load_weights, like=PARAMS)])
def test_absent_weights(tmp_path, read):
    with pytest.raises(
        MissingFileError, match="no weights at .*absent: train them first or give another file"
    ):
        read(tmp_path / "absent")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "w").write_bytes(b"PK\3\4 something else altogether")
    with pytest.raises(ValueError, match="w is not a safetensors file"):
        load_weights(tmp_path / "w", PARAMS)


def test_checksums_tell_weights_apart(tmp_path):
    first, same = (checksum(save_weights(tmp_path / name, PARAMS, {"name": name})) for name in ("a", "bc"))
    other = checksum(save_weights(tmp_path / "d", PARAMS | {"b": np.full(2, 1e-7, np.float32)}, {}))
    assert first == same != other
    assert len(first) == 8


def test_checkpoints_keep_the_newest(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest is None
        for step in (1, 2, 3):
            checkpoints.save(step, state({"w": np.full(4, step, np.float32)}))
        checkpoints.save(3, state({"w": np.full(4, 99.0, np.float32)}))  # there already
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3"]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 3
        assert_same(
            checkpoints.restore(state({"w": np.zeros(4, np.float32)})),
            state({"w": np.full(4, 3, np.float32)}),
        )


def test_the_data_position_lies_beside_the_state(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state(PARAMS), {"next_batch": 3, "broken": [[7, "7.png: is cut off"]]})
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.position() == {"next_batch": 3, "broken": [[7, "7.png: is cut off"]]}
        assert_same(checkpoints.restore(state(jax.tree.map(np.zeros_like, PARAMS))), state(PARAMS))


def test_checkpoints_from_before_positions_are_restored(tmp_path):
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(5, args=ocp.args.StandardSave(state(PARAMS)))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.position() is None
        assert_same(checkpoints.restore(state(jax.tree.map(np.zeros_like, PARAMS))), state(PARAMS))


def test_a_checkpoint_holds_its_own_step_while_training_goes_on(tmp_path):
    """Steps donate their input, so its memory is used again while the files are written."""
    step = jax.jit(lambda x: jax.tree.map(lambda leaf: leaf + 1, x), donate_argnums=0)
    x = {name: jnp.zeros((512, 512)) for name in "abcdefgh"}
    with Checkpoints(tmp_path) as checkpoints:
        for i in range(1, 41):
            x = step(x)
            if i == 5:
                checkpoints.save(i, x)
        stored = checkpoints.restore(x)
    assert {float(leaf[0, 0]) for leaf in x.values()} == {40.0}
    for leaf in stored.values():
        np.testing.assert_array_equal(leaf, 5.0)


def test_the_last_checkpoint_is_whole_after_an_error(tmp_path):
    with pytest.raises(KeyError), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(PARAMS))
        raise KeyError
    with Checkpoints(tmp_path) as checkpoints:
        assert_same(checkpoints.restore(state(jax.tree.map(np.zeros_like, PARAMS))), state(PARAMS))


def test_a_run_goes_on_with_other_devices(tmp_path):
    """Written by four devices that share the kernels, read onto one and onto four in a row."""
    rules = ((r"kernel$", ("fsdp",)),)
    params = {"kernel": np.arange(32, dtype=np.float32).reshape(4, 8), "bias": np.ones(3, np.float32)}
    square, row = make_mesh(2, 2), make_mesh(4, 1)
    placed = jax.device_put(state(params), tree_shardings(state(params), square, rules))
    assert placed.params["kernel"].addressable_shards[0].data.shape == (4, 4)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, placed)
    for mesh in (make_mesh(1, 1, jax.devices()[:1]), row, square):
        shardings = tree_shardings(placed, mesh, rules)
        empty = jax.device_put(jax.tree.map(jnp.zeros_like, state(params)), shardings)
        with Checkpoints(tmp_path) as checkpoints:
            restored = checkpoints.restore(empty)
        assert_same(restored, placed)
        assert jax.tree.map(lambda x: x.sharding, restored) == shardings


def test_a_checkpoint_of_another_model_lists_every_difference(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, state(PARAMS).params)
        with pytest.raises(OtherRunError) as error:
            checkpoints.restore(
                {"a": {"kernel": jnp.zeros((3, 2)), "scale": jnp.zeros(5)}, "b": jnp.zeros(2)}
            )
    assert error.value.differs == "model" and error.value.place == f"checkpoint {tmp_path / '7'}"
    head, *problems = str(error.value).split("\n  ")
    assert f"checkpoint {tmp_path / '7'} is of another model (3 problems; give a new `workdir`)" in head
    assert problems == [
        "missing a/scale (5,)",
        "unexpected a/bias (3,)",
        "a/kernel has shape (2, 3), wanted (3, 2)",
    ]


def test_nothing_to_restore(tmp_path):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(FileNotFoundError, match="no checkpoint in"):
        checkpoints.restore(PARAMS)
