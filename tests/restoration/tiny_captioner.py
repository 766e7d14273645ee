"""Captioners of transformers with two layers of width 32, drawn at random."""

import importlib
import socket
from pathlib import Path

import pytest

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
WORDS = [*SPECIAL, "a", "red", "boat", "on", "the", "lake", "snow", "tree", "sky"]
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SIGHT = SMALL | {"image_size": 32, "patch_size": 8, "projection_dim": 32}
READING = SMALL | {
    "vocab_size": len(WORDS),
    "max_position_embeddings": 96,
    "pad_token_id": 0,
    "eos_token_id": 3,
}
SIDES = {"height": 32, "width": 32}


def make(folder: Path, kind: str) -> Path:
    """Write a captioner, "blip" or "git", into a folder; needs transformers and torch."""
    t = importlib.import_module("transformers")
    t.set_seed(1)
    tokenizer = t.BertTokenizer({word: place for place, word in enumerate(WORDS)}, bos_token="[DEC]")
    if kind == "blip":
        text = {"encoder_hidden_size": 32, "projection_dim": 32, "bos_token_id": 5, "sep_token_id": 3}
        config = t.BlipConfig(text_config=READING | text, vision_config=SIGHT, projection_dim=32)
        model, processor = t.BlipForConditionalGeneration(config), t.BlipProcessor
        images = t.BlipImageProcessor(size=SIDES)
    else:
        model = t.GitForCausalLM(t.GitConfig(vision_config=SIGHT, **READING, bos_token_id=2))
        processor = t.GitProcessor
        images = t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SIDES)
    for parameter in model.parameters():
        if parameter.shape == (len(WORDS),):
            # Say words only.
            parameter.data[: len(SPECIAL)] = -9
    model.save_pretrained(folder)
    processor(images, tokenizer).save_pretrained(folder)
    return folder


def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Take the network away; the list tells later where programs tried to connect to."""
    tried: list[object] = []

    def fail(*given: object, **_: object) -> None:
        tried.append(given)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", fail)
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    return tried
