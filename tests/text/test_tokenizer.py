import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from tokenizers.decoders import ByteLevel

from diffbir_jax.text.tokenizer import END, LENGTH, START, _load, tokenize

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "tokens.json").read_text(encoding="utf-8"))["cases"]


@pytest.mark.filterwarnings("ignore:prompt cut")
@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case["text"])[:40])
def test_tokens_of_open_clip(case):
    expected = np.zeros(LENGTH, np.int32)
    expected[: len(case["tokens"])] = case["tokens"]
    np.testing.assert_array_equal(tokenize([case["text"]])[0], expected)


def test_prompts_of_the_reference():
    with np.load(GOLDEN / "clip_small.npz") as data:
        tokens = tokenize([str(prompt) for prompt in data["prompts"]])
        assert tokens.dtype == np.int32
        np.testing.assert_array_equal(tokens, data["tokens"])


@pytest.mark.parametrize(
    "text, lost",
    [
        ("word " * 75 + "and, more", "and, more"),
        ("word " * 74 + "antidisestablishmentarianism  ENDS", "disestablishmentarianism ends"),
        ("é " * 75 + "été", "été"),
        ("word " * 75 + "<end_of_text>", "<end_of_text>"),
    ],
)
def test_a_cut_prompt_is_shown(text, lost):
    with pytest.warns(UserWarning, match=f"after 75 tokens; left out: '{lost}'$") as caught:
        tokens = tokenize([text])[0]
    assert caught[0].filename == __file__
    assert tokens[0] == START and tokens[-1] == END


@pytest.mark.parametrize(
    "text, split",
    [("🙂" * 90, 0), ("é" * 120, 0), ("日本語のテキスト" * 20, 0), ("ひらがな、" * 30, 1)],
    ids=["emoji", "accents", "kanji", "kana"],
)
def test_what_is_kept_and_what_is_shown_make_the_text(text, split):
    """Cut inside a word of several bytes per character; but for one character if the cut runs through it."""
    with pytest.warns(UserWarning, match="after 75 tokens") as caught:
        kept = [
            (_load()[1].id_to_token(i) or "").removesuffix("</w>") for i in tokenize([text])[0, 1:-1].tolist()
        ]
    before = ByteLevel().decode(kept).rstrip("\ufffd")
    after = str(caught[0].message).split("left out: ")[1].strip("'").lstrip("\ufffd")
    assert text == before + text[len(before) :][:split] + after


def test_what_fits_is_not_cut():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokens = tokenize(["word " * 75, ""])
    assert tokens[0, -1] == END
    assert tokens[1].tolist() == [START, END] + 75 * [0]


def test_a_batch_is_expected():
    assert tokenize([]).shape == (0, LENGTH)
    with pytest.raises(TypeError, match=r"into a list: \['a cat'\]"):
        tokenize("a cat")


def test_neither_torch_nor_a_hub_is_needed():
    code = "import sys; from diffbir_jax.text.tokenizer import tokenize; tokenize(['a']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "huggingface_hub", "transformers", "jax"} & set(loaded.split())
