import jax
import numpy as np
import pytest

from diffbir_jax.conversion.engine import (
    CONV,
    DENSE,
    POINTWISE,
    ConversionError,
    Rule,
    check,
    convert,
    export,
    flatten,
    torch_shapes,
    unflatten,
)

TABLE = [
    Rule("first.weight", "first/kernel", CONV),
    Rule("first.bias", "first/bias"),
    Rule("blocks.0.weight", "blocks/kernel", DENSE, 0),
    Rule("blocks.1.weight", "blocks/kernel", DENSE, 1),
    Rule("point.weight", "point/kernel", POINTWISE),
]
SHAPES = {
    "first": {"kernel": (5, 3, 2, 4), "bias": (4,)},
    "blocks": {"kernel": (2, 6, 7)},
    "point": {"kernel": (2, 3)},
}
TARGET = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, np.float32), SHAPES, is_leaf=lambda x: isinstance(x, tuple)
)


@pytest.fixture
def state():
    shapes = torch_shapes(TABLE, TARGET)
    return {key: np.random.default_rng(i).random(shape) for i, (key, shape) in enumerate(shapes.items())}


def test_axes_are_reordered(state):
    params = convert(state, TABLE, TARGET)
    assert jax.tree.map(np.shape, params) == SHAPES
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    weight = state["first.weight"].astype(np.float32)
    assert weight.shape == (4, 2, 5, 3)
    assert params["first"]["kernel"][4, 2, 1, 3] == weight[3, 1, 4, 2]
    np.testing.assert_array_equal(
        params["blocks"]["kernel"][1], state["blocks.1.weight"].T.astype(np.float32)
    )
    np.testing.assert_array_equal(
        params["point"]["kernel"], state["point.weight"][:, :, 0, 0].T.astype(np.float32)
    )


def test_export_is_the_inverse(state):
    state = {key: x.astype(np.float32) for key, x in state.items()}
    exported = export(convert(state, TABLE, TARGET), TABLE)
    assert exported.keys() == state.keys()
    for key, x in state.items():
        np.testing.assert_array_equal(exported[key], x)


def test_all_problems_come_in_one_message(state):
    state["extra.weight"] = np.zeros((2, 1))
    state["first.bias"] = np.zeros(9)
    state["point.weight"] = state["point.weight"][:, :, 0, 0]
    del state["blocks.1.weight"]
    with pytest.raises(ConversionError) as error:
        convert(state, TABLE, TARGET)
    lines = [line.strip() for line in str(error.value).splitlines()]
    assert lines == [
        "the checkpoint does not fit the network (4 problems):",
        "missing blocks.1.weight (7, 6)",
        "unexpected extra.weight (2, 1)",
        "misshapen first.bias: got (9,), expected (4,)",
        "misshapen point.weight: got (3, 2), expected (3, 2, 1, 1)",
    ]


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64, bool])
def test_weights_are_floating_numbers(state, dtype):
    """What no rule reads may be anything."""
    state["mask"] = np.zeros(1, bool)
    state["first.bias"] = state["first.bias"].astype(dtype)
    with pytest.raises(ConversionError, match=rf"first.bias: stored as {np.dtype(dtype)}$"):
        check(state, TABLE, TARGET, ignore=["mask"])


@pytest.mark.parametrize("dtype", ["bfloat16", np.float16, np.float64])
def test_floating_numbers_of_every_width(state, dtype):
    check({key: x.astype(dtype) for key, x in state.items()}, TABLE, TARGET)


def test_values_are_finite(state):
    state["first.bias"][1:] = [np.inf, -np.inf, np.nan]
    state["blocks.1.weight"][:] = np.nan
    with pytest.raises(ConversionError) as error:
        convert(state, TABLE, TARGET)
    assert str(error.value).splitlines() == [
        "the checkpoint is damaged (2 problems):",
        "  not finite first.bias: 3 of 4 values",
        "  not finite blocks.1.weight: 42 of 42 values",
    ]
    largest = np.full(4, np.finfo(np.float32).max)
    assert convert({**state, "first.bias": largest, "blocks.1.weight": np.zeros((7, 6))}, TABLE, TARGET)


def test_only_whole_keys_are_ignored(state):
    state["old.mask"] = np.zeros(1)
    assert convert(state, TABLE, TARGET, ignore=[r".*\.mask"]).keys() == SHAPES.keys()
    with pytest.raises(ConversionError, match="unexpected old.mask"):
        convert(state, TABLE, TARGET, ignore=[r".*\.mas"])


@pytest.mark.parametrize(
    "table, problem",
    [
        (TABLE[:-1], "no rule for the parameter point/kernel"),
        ([*TABLE, Rule("lost", "nowhere")], "no parameter nowhere"),
        ([*TABLE, Rule("first.bias", "point/kernel")], "two rules for the key first.bias"),
        ([*TABLE, Rule("other.bias", "first/bias")], "two rules for the parameter first/bias"),
        ([rule for rule in TABLE if rule.index != 1], r"no rule for the parameter blocks/kernel\[1\]"),
        ([*TABLE, Rule("blocks.2.weight", "blocks/kernel", DENSE, 2)], r"no parameter blocks/kernel\[2\]"),
    ],
)
def test_a_table_covers_the_network_exactly_once(table, problem):
    with pytest.raises(ConversionError, match=problem):
        torch_shapes(table, TARGET)


def test_flatten():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert flatten(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert unflatten(flatten(tree)) == tree
