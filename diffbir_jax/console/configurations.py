"""Training configurations: the shipped ones by name, others by path; their settings, and changes to them."""

import difflib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from diffbir_jax.console.errors import UserError
from diffbir_jax.console.pages import shipped

if TYPE_CHECKING:
    from ml_collections import ConfigDict

# Longer values of a setting are cut where settings are listed.
LONGEST = 60


def names() -> dict[str, str]:
    """Return the names of the shipped configurations, with the first sentence of each."""
    texts = {path.stem: path.read_text("utf-8") for path in sorted(shipped("configs").glob("*.py"))}
    return {
        name: text.strip('"').split(". ")[0].split("\n\n")[0].replace("\n", " ").rstrip('."')
        for name, text in texts.items()
        if "\ndef get_config(" in text
    }


def read(
    given: str,
    changes: Sequence[str] = (),
    photos: str | None = None,
    pairs: Sequence[str] | None = None,
) -> Any:
    """Return a configuration with changes.

    Args:
        given: as `load` takes it.
        changes: `--config.KEY=VALUE`, or these as two words each.
        photos: folder of photos that takes the place of the configuration's data source.
        pairs: folders of degraded and of clean photos that take its place.

    Raises:
        UserError: there is no such configuration or setting, a value does not fit, or both kinds of photos are given.
    """
    config = load(given)
    if photos is not None and pairs is not None:
        raise UserError("--photos and --pairs are both given; give one of them")
    if photos is not None:
        use_photos(config, photos)
    if pairs is not None:
        use_pairs(config, *pairs)
    return changed(config, changes)


def load(given: str) -> "ConfigDict":
    """Return the `ml_collections.ConfigDict` of a configuration.

    Args:
        given: NAME or NAME:VARIANT of a shipped one, or FILE.py or FILE.py:VARIANT.

    Raises:
        UserError: there is no such configuration, or no such variant of it.
    """
    stem, variant = split(given)
    make = run(locate(stem)).get_config
    if variant is not None and not inspect.signature(make).parameters:
        raise UserError(f"--config {given}: {stem} has no variants; give --config {stem}")
    try:
        return make() if variant is None else make(variant)
    except ValueError as error:
        raise UserError(f"--config {given}: {error}") from error


def split(given: str) -> tuple[str, str | None]:
    """Return the name or file, and the variant behind its colon; the colon of a Windows drive is none."""
    stem, colon, variant = given.rpartition(":")
    if not colon or "/" in variant or "\\" in variant:
        return given, None
    return stem, variant


def locate(stem: str) -> Path:
    """Return the file of a configuration; UserError if there is none."""
    path = Path(stem).expanduser()
    known = names()
    if stem in known:
        return shipped("configs") / f"{stem}.py"
    if path.is_file():
        return path
    near = difflib.get_close_matches(path.stem, known, n=1)
    advice = (
        f"did you mean --config {near[0]}?" if near else f"shipped are {', '.join(known)}; or give a file"
    )
    raise UserError(f"--config {stem}: no such {'file' if path.suffix else 'configuration'}; {advice}")


def run(path: Path) -> ModuleType:
    """Return the module of a configuration, which has `get_config`; UserError if it is none."""
    importable()
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--config {path}: is no Python file; give one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"--config {path}: has no function get_config, which returns a configuration")
    return module


def importable() -> None:
    """Let configurations import `configs.common` and the like, wherever the shipped ones lie."""
    place = str(shipped("configs"))
    if place not in getattr(sys.modules.get("configs"), "__path__", ()):
        package = ModuleType("configs")
        package.__path__ = [place]
        sys.modules["configs"] = package


def use_photos(config: "ConfigDict", folder: str) -> None:
    """Let a configuration train on a folder of photos, part of which it holds out."""
    from ml_collections import ConfigDict

    if "source" in config.data:
        config.data.source = ConfigDict({"kind": "folder", "path": folder})
        config.data.validation = None
    else:
        config.data.update(folder=folder, held_out="")


def use_pairs(config: "ConfigDict", lq: str, hq: str) -> None:
    """Let a configuration train on pairs of two folders, part of which it holds out; nothing is degraded."""
    from ml_collections import ConfigDict

    data = config.data
    if "source" not in data:
        size = {
            name: data[name] for name in ("batch_size", "validation_size", "cache", "pool") if name in data
        }
        data = config.data = ConfigDict(
            {"crop": {"kind": "random", "size": data.crop.size}, "workers": 0, "keep_decoded": 1024, **size}
        )
        data.update(flip=True, rotate=True)
    data.source = ConfigDict({"kind": "pairs", "lq": lq, "hq": hq})
    data.validation = None
    data.degradation = None


def changed(config: "ConfigDict", changes: Sequence[str]) -> Any:
    """Return a configuration with the values of a command line; UserError if there is no such setting or value."""
    from absl import flags
    from ml_collections import config_flags

    command, values = ["diffbir", *changes], flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=command)
        rest = values(command)
    except (AttributeError, KeyError) as error:
        # The KeyError knows the name; around one for the last part of a key there is an AttributeError.
        known = error if isinstance(error, KeyError) else error.args[0]
        raise UserError(f"no such setting in the config: {known.args[0]}") from error
    except (flags.Error, TypeError) as error:
        raise UserError(str(error)) from error
    if rest[1:]:
        raise UserError(f"{rest[1]!r} is not expected here; give settings as --config.KEY=VALUE")
    return values["config"].value


def is_change(word: str) -> bool:
    """Whether a word of a command line sets a value of the configuration."""
    return word.startswith(("--config.", "-config.", "--noconfig."))


def settings(config: "ConfigDict", prefix: str = "--config") -> Iterator[str]:
    """Yield every setting of a configuration with its value, as one would give it."""
    for name in sorted(config.keys(), key=lambda name: hasattr(config[name], "keys")):
        value, key = config[name], f"{prefix}.{name}"
        if hasattr(value, "keys"):
            yield from settings(value, key)
        else:
            text = str(value) if value != "" else "''"
            yield f"{key}={text[:LONGEST]}{'...' if len(text) > LONGEST else ''}"
