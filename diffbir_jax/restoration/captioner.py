"""Captions by an image-to-text model of transformers: words for what a photo shows. Needs the extra [captions]."""

import contextlib
import importlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from PIL import Image

from diffbir_jax.console.errors import UserError
from diffbir_jax.console.extras import MissingExtraError, require
from diffbir_jax.files.errors import reason
from diffbir_jax.restoration.first_use import Allow, permit
from diffbir_jax.weights import MissingWeightsError
from diffbir_jax.weights.places import is_offline

# Asked of models that chat.
QUESTION = "Describe this photo in one sentence."
# The text encoders of the restorers read 77 tokens, with the prompt.
TOKENS = 64
# Longest side that a captioner sees: some models cut photos into patches of 28 pixels, without a limit.
SIDE = 1024
EXAMPLE = "microsoft/git-large-coco"


@dataclass(frozen=True)
class Captioner:
    """Describes photos; call it with Pillow's image. The same photo always gets the same words.

    Attributes:
        name: folder of the model, or its name on huggingface.co.
        model: what transformers made of it, in float32 on the CPU.
        processor: prepares its inputs and decodes its outputs.
        prompt: what the model is asked, or the beginning of the caption for models like BLIP; "" for `QUESTION` to
            models that chat, and nothing to others.
    """

    name: str
    model: Any
    processor: Any
    prompt: str = ""

    @classmethod
    def load(cls, name: str | Path, prompt: str = "", *, download: bool = False) -> "Captioner":
        """Load a captioner of transformers, such as BLIP, GIT, or a model that chats about images.

        Only weights in safetensors files are read, and no code of the model's folder runs.

        Args:
            name: a folder, or a name on huggingface.co; a model of that name is read from transformers' cache.
            prompt: see `Captioner`.
            download: whether a model that is not in the cache may be downloaded.

        Raises:
            MissingExtraError: transformers or PyTorch is not installed.
            MissingWeightsError: the model is not here.
            UserError: it is no captioner, or cannot be loaded.
        """
        return load_captioner(name, prompt, permit if download else refuse)

    def __call__(self, image: Image.Image) -> str:
        """Return the caption of a photo, by greedy or beam search as the model's settings say.

        Args:
            image: upright RGB of 8 bits; large ones are reduced to `SIDE`.

        Raises:
            UserError: the model fails.
        """
        try:
            with quiet():
                return self._described(reduced(image))
        except Exception as error:
            raise UserError(
                f"the captioner {self.name} fails ({type(error).__name__}: {reason(error)}); give another prompt for "
                "it, or another captioner"
            ) from error

    def _described(self, image: Image.Image) -> str:
        inputs = self.processor(images=image, return_tensors="pt", **self._words())
        tokens = self.model.generate(**inputs, do_sample=False, max_new_tokens=TOKENS)[0]
        given = inputs.get("input_ids")
        # Models without an encoder of text repeat what they were given.
        if given is not None and tokens[: given.shape[1]].tolist() == given[0].tolist():
            tokens = tokens[given.shape[1] :]
        return " ".join(self.processor.batch_decode(tokens[None], skip_special_tokens=True)[0].split())

    def _words(self) -> Mapping[str, str]:
        """What the processor takes beside the image."""
        if not getattr(self.processor, "chat_template", None):
            return {"text": self.prompt} if self.prompt else {}
        content = [{"type": "image"}, {"type": "text", "text": self.prompt or QUESTION}]
        turns = [{"role": "user", "content": content}]
        return {"text": self.processor.apply_chat_template(turns, add_generation_prompt=True)}


def load_captioner(name: str | Path, prompt: str, allow: Allow) -> Captioner:
    """As `Captioner.load`; `allow` is asked before a download."""
    require("captions")
    check_version()
    name = str(name)
    local = Path(name).is_dir() or is_cached(name)
    if not local:
        if is_offline():
            raise MissingWeightsError(
                f"the captioner {name} is not here, and DIFFBIR_OFFLINE forbids a download; give a folder, or unset it"
            )
        allow(f"Captioner {name}: from huggingface.co, kept in transformers' cache")
    return loaded(name, prompt, local)


def refuse(text: str) -> NoReturn:
    """Refuse every download: raise MissingWeightsError."""
    raise MissingWeightsError(
        f"the weights are not here. {text}. Pass download=True, or the folder of a model"
    )


def check_version() -> None:
    """Raise MissingExtraError for a version of transformers whose functions have other names."""
    found = importlib.import_module("transformers").__version__
    if int(found.split(".")[0]) < 5:
        raise MissingExtraError(f"transformers is {found}, 5 is needed: pip install 'diffbir-jax[captions]'")


def is_cached(name: str) -> bool:
    """Whether transformers' cache has all weights of a model; UserError for what is the name of no model."""
    hub = importlib.import_module("huggingface_hub")

    def cached(file: str) -> str | None:
        found = hub.try_to_load_from_cache(name, file)
        return found if isinstance(found, str) else None

    try:
        if Path(name).exists():
            raise ValueError("a file")
        config, whole, index = map(
            cached, ("config.json", "model.safetensors", "model.safetensors.index.json")
        )
    except ValueError:
        raise UserError(
            f"the captioner {name} is no folder, and no name of a model; give a folder, or a name such as {EXAMPLE}"
        ) from None
    if config is None or index is None:
        return config is not None and whole is not None
    parts = json.loads(Path(index).read_text("utf-8"))["weight_map"].values()
    return all(map(cached, {*parts}))


def loaded(name: str, prompt: str, local: bool) -> Captioner:
    """The captioner; `local` keeps to files that are here. UserError if it cannot be loaded."""
    transformers = importlib.import_module("transformers")
    # For a model without safetensors it would else call a service, even if it keeps to local files.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    safe = {"local_files_only": local, "trust_remote_code": False}
    try:
        with quiet(local):
            processor = transformers.AutoProcessor.from_pretrained(name, **safe)
            model, report = transformers.AutoModelForImageTextToText.from_pretrained(
                name, use_safetensors=True, dtype="float32", output_loading_info=True, **safe
            )
    except Exception as error:
        raise UserError(
            f"the captioner {name} cannot be loaded ({reason(error)}); give an image-to-text model of transformers "
            "with safetensors weights"
        ) from error
    # transformers would draw them at random.
    if lacking := sorted(report["missing_keys"]):
        raise UserError(
            f"the captioner {name} lacks {len(lacking)} weights, such as {lacking[0]}; give a model for captions"
        )
    return Captioner(name, model, processor, prompt)


@contextlib.contextmanager
def quiet(local: bool = True) -> Iterator[None]:
    """A context in which transformers says nothing; unless `local` is False, it uses no network and shows no bars."""
    logging = importlib.import_module("transformers").utils.logging
    constants = importlib.import_module("huggingface_hub").constants
    level, shown, offline = (
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
        constants.HF_HUB_OFFLINE,
    )
    logging.set_verbosity_error()
    (logging.disable_progress_bar if local else logging.enable_progress_bar)()
    # `local_files_only` alone leaves some requests, for a model in the cache.
    constants.HF_HUB_OFFLINE = local or offline
    try:
        yield
    finally:
        logging.set_verbosity(level)
        (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
        constants.HF_HUB_OFFLINE = offline


def reduced(image: Image.Image) -> Image.Image:
    """Return an image, or a copy with sides of at most `SIDE`."""
    if max(image.size) <= SIDE:
        return image
    image = image.copy()
    image.thumbnail((SIDE, SIDE))
    return image
