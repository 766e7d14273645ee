import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax.conversion.abstract import abstract_clip
from diffbir_jax.conversion.stable_diffusion import clip_rules
from diffbir_jax.models.clip import CLIPText
from tests.models.reference import CLIP, GOLDEN, filled, relative_error


@pytest.fixture(scope="module")
def params():
    return filled("clip", clip_rules(CLIP), abstract_clip(CLIP))


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "clip_small.npz") as data:
        return {"tokens": jnp.asarray(data["tokens"], jnp.int32), "embedding": data["embedding"]}


def run(params, tokens, dtype=jnp.float32):
    return jax.jit(CLIPText(CLIP, dtype).apply)({"params": params}, tokens)


def test_parity(params, golden):
    assert relative_error(run(params, golden["tokens"]), golden["embedding"]) <= 1e-4


def test_bfloat16_stays_close(params, golden):
    out = run(params, golden["tokens"], jnp.bfloat16)
    assert out.dtype == jnp.float32
    assert 1e-5 < relative_error(out, golden["embedding"]) < 0.03


def test_no_token_sees_a_later_one(params, golden):
    tokens = golden["tokens"]
    change = jnp.abs(run(params, tokens.at[:, 40].add(1)) - run(params, tokens)).max(axis=(0, 2))
    assert (change[:40] == 0).all()
    assert (change[40:] > 0).all()


def test_length_must_fit(params):
    with pytest.raises(ValueError, match="sequences of 70 tokens.* 77"):
        run(params, jnp.zeros((1, 70), jnp.int32))
