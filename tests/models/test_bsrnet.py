import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from diffbir_jax.conversion.abstract import abstract_bsrnet
from diffbir_jax.conversion.engine import torch_shapes
from diffbir_jax.conversion.restoration import bsrnet_rules
from diffbir_jax.models.bsrnet import BSRNet, BSRNetConfig
from tests.models.reference import BSRNET, GOLDEN, filled, load, relative_error


@pytest.fixture(scope="module")
def params():
    return filled("bsrnet", bsrnet_rules(BSRNET), abstract_bsrnet(BSRNET))


def run(params, lq, dtype=jnp.float32):
    return jax.jit(BSRNet(BSRNET, dtype).apply)({"params": params}, lq)


def test_parity(params):
    golden = load("bsrnet_small")
    assert relative_error(run(params, golden["lq"]), golden["out"]) <= 1e-4


@pytest.mark.parametrize("dtype, bound", [(jnp.bfloat16, 0.03), (jnp.float16, 0.004)])
def test_16_bit_stays_close(params, dtype, bound):
    golden = load("bsrnet_small")
    out = run(jax.tree.map(lambda x: jnp.asarray(x, dtype), params), golden["lq"], dtype)
    assert out.dtype == jnp.float32
    assert 1e-5 < relative_error(out, golden["out"]) < bound


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_scale(scale):
    config = BSRNetConfig(num_feat=4, num_blocks=1, growth=2, scale=scale)
    lq = jax.ShapeDtypeStruct((2, 5, 7, 3), jnp.float32)
    out = jax.eval_shape(BSRNet(config).apply, {"params": abstract_bsrnet(config)}, lq)
    assert out.shape == (2, 5 * scale, 7 * scale, 3)


def published():
    manifest = json.loads(gzip.decompress((GOLDEN / "checkpoints" / "bsrnet.json.gz").read_bytes()))
    return {key: tuple(shape) for key, shape in manifest.items()}


def test_both_namings_are_the_same_network():
    """The keys as Real-ESRGAN publishes them, derived from the other manifest by its renaming of the layers."""
    renamed = {"HRconv": "conv_hr", "trunk_conv": "conv_body", "RRDB_trunk": "body", "RDB": "rdb"}
    renamed |= {"upconv": "conv_up"}
    expected = {}
    for key, shape in published().items():
        for old, new in renamed.items():
            key = key.replace(old, new)
        expected[key] = shape
    config = BSRNetConfig()
    rules = list(bsrnet_rules(config, "realesrgan"))
    assert torch_shapes(rules, abstract_bsrnet(config)) == expected
    assert [rule.path for rule in rules] == [rule.path for rule in bsrnet_rules(config)]
