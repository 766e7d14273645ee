"""The tokenizer of CLIP (Radford et al. 2021): byte-pair encoding of cleaned, lower-case text.

The tokens are those of open_clip, which Stable Diffusion 2.1's text tower was trained with. Its cleaning repairs damage
from a wrong decoding of the text (`ftfy`): curly quotes become straight ones, full-width letters plain ones, "cafÃ©"
becomes "café". Without it, prompts copied from web pages would give other tokens.
"""

import gzip
import html
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.resources import files
from itertools import islice

import ftfy
import numpy as np
from tokenizers import Regex
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Split
from tokenizers.pre_tokenizers import Sequence as Steps

LENGTH = 77
START, END = 49406, 49407
SPECIAL = {"<start_of_text>": START, "<end_of_text>": END}
# Only the file's first merges are used: with 256 bytes, 256 word-final bytes and the special tokens they make 49408.
MERGES = 49408 - 2 * 256 - len(SPECIAL)
# Contractions, runs of letters, single digits, runs of anything else. As in the original, which ignores case, a long s
# counts as s, and U+0345, the combining form of the letter iota, belongs to no class.
WORDS = r"<[sſ]tart_of_text>|<end_of_text>|'[sſ]|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}\x{345}]+"


def tokenize(texts: Sequence[str]) -> np.ndarray:
    """Tokens of prompts, equal to those of `open_clip.tokenize`.

    Args:
        texts: prompts in any language, of any length.

    Returns:
        int32 (B, 77): a start token, the text's tokens, an end token, zeros. A longer text is cut so that the end token
        comes last, and a warning shows the part that was cut.

    Raises:
        TypeError: a single string is given.
    """
    if isinstance(texts, str):
        raise TypeError(f"a sequence of prompts is expected; put the one given into a list: [{texts!r}]")
    tokens = np.zeros((len(texts), LENGTH), np.int32)
    for row, text in zip(tokens, texts):
        ids = [START, *_encode(_clean(text)), END]
        row[: len(ids)] = ids
    return tokens


def _clean(text: str) -> str:
    """Text repaired, without HTML entities (even doubly escaped ones), single-spaced, in lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def _encode(text: str) -> list[int]:
    """At most 75 tokens of a cleaned text."""
    ids, room = [], LENGTH - 2
    for token, word, byte in _tokens(text):
        if len(ids) == room:
            lost = text[word:].encode()[byte:].decode(errors="replace")
            warnings.warn(f"prompt cut after {room} tokens; left out: {lost!r}", stacklevel=3)
            break
        ids.append(token)
    return ids


def _tokens(text: str) -> Iterator[tuple[int, int, int]]:
    """Each token with the position of its word in the text and its own position in the word, in bytes."""
    splitter, merger = _load()
    for word, (start, _) in splitter.pre_tokenize_str(text):
        if word in SPECIAL:
            yield SPECIAL[word], start, 0
        else:
            byte = 0
            for token in merger.tokenize(word):
                yield token.id, start, byte
                # Each byte of the word is one character; `token.offsets` count the bytes of those characters.
                byte += len(token.value.removesuffix("</w>"))


@lru_cache(maxsize=1)
def _load() -> tuple[PreTokenizer, BPE]:
    """The splitter of a text into words of bytes, and the merger of a word's bytes into tokens."""
    path = files("diffbir_jax.text") / "bpe_simple_vocab_16e6.txt.gz"
    with path.open("rb") as packed, gzip.open(packed, "rt", encoding="utf-8") as lines:
        merges = [(left, right) for left, right in map(str.split, islice(lines, 1, 1 + MERGES))]
    # The order of their codes is the published one: printable bytes stand for themselves and come first.
    symbols = sorted(ByteLevel.alphabet())
    entries = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *map("".join, merges)]
    vocab = {entry: i for i, entry in enumerate(entries)}
    bytewise = ByteLevel(add_prefix_space=False, use_regex=False)
    splitter = Steps([Split(Regex(WORDS), "removed", invert=True), bytewise])
    return splitter, BPE(vocab, merges, end_of_word_suffix="</w>")
