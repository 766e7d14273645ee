import numpy as np
import pytest

from diffbir_jax.data.captions import CaptionConfig, choose
from diffbir_jax.data.example import DataError

BOTH = {"short": "a cat", "long": "a black cat on a red sofa"}


def shares(captions: dict[str, str], config: CaptionConfig, draws: int = 20_000) -> dict[str, float]:
    """How often each text is drawn; the standard deviation of a share is below 0.0036."""
    rng = np.random.default_rng(0)
    texts = [choose(captions, rng, config) for _ in range(draws)]
    return {text: texts.count(text) / draws for text in ("", *captions.values())}


def test_shares_are_those_of_the_configuration() -> None:
    found = shares(BOTH, CaptionConfig(p_long=0.3, p_empty=0.4))
    expected = {"": 0.4, BOTH["short"]: 0.6 * 0.7, BOTH["long"]: 0.6 * 0.3}
    assert found == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("kind", BOTH)
def test_the_only_caption_is_used(kind: str) -> None:
    found = shares({kind: "a cat"}, CaptionConfig(p_long=0.3, p_empty=0.4))
    assert found == pytest.approx({"": 0.4, "a cat": 0.6}, abs=0.015)


def test_an_empty_caption_counts_as_none() -> None:
    always = CaptionConfig(p_long=1, p_empty=0)
    assert choose({"short": "a cat", "long": ""}, np.random.default_rng(0), always) == "a cat"
    assert choose({}, np.random.default_rng(0), always) == ""


def test_as_many_numbers_are_drawn_whatever_there_is() -> None:
    left = []
    for captions in (BOTH, {"short": "a cat"}, {}):
        rng = np.random.default_rng(3)
        choose(captions, rng)
        left.append(rng.random())
    assert len(set(left)) == 1


@pytest.mark.parametrize("field", ["p_long", "p_empty"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_refused(field: str, value: float) -> None:
    with pytest.raises(DataError, match=f"{field} is {value}; give a probability"):
        CaptionConfig(**{field: value})
