"""What a client asks for: JSON with the names and the schema of a sidecar's parameters, or a whole sidecar."""

import argparse
import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from diffbir_jax.batch.auto import left_alone
from diffbir_jax.batch.checks import check_flags, check_version
from diffbir_jax.batch.jobs import noise_index
from diffbir_jax.batch.settings import MADE, Recipe, as_record, from_record
from diffbir_jax.batch.sidecar import Sidecar
from diffbir_jax.console.errors import UserError
from diffbir_jax.faces.choice import Faces
from diffbir_jax.files.checked import checked
from diffbir_jax.models.presets import get_preset
from diffbir_jax.restoration.auto import Decision, check_auto
from diffbir_jax.restoration.defaults import default_options
from diffbir_jax.restoration.names import AUTO_VERSION, FACES
from diffbir_jax.restoration.plan import Plan
from diffbir_jax.serve.refusals import Refusal

# Characters of the largest JSON, and bytes of the longest name.
MOST, LONGEST = 2**16, 200
# Fields that clients of a service may not choose: they name files of its machine, or ask for files that it never makes.
FIXED = (
    "weights",
    "stage1",
    "lora",
    "copied",
    "compare",
    "save_stages",
    "max_pixels",
    "precision",
)
# Sidecars of the command may have these. They decide which files are written, not the pixels of results.
ASIDE = ("compare", "save_stages", "save_faces")
# These say where files of the sidecar's machine were.
PLACES = ("weights", "max_pixels")
# What faces can be pasted into, of `faces.flags.BACKGROUNDS`: results are whole pictures.
GROUNDS = ("sr", "resize")
_FLAG = re.compile(r"--([a-z][a-z0-9-]*)")


class Wish(NamedTuple):
    """How a picture is restored.

    Attributes:
        recipe: as in sidecars.
        index: selects the noise.
        name: of the input, without folders.
        plan: how the picture is cut, or None: as the service chooses.
        sidecar: what is repeated, or None.
        crops: how crops of faces are cut, likewise.
        given: names of what the client set, if the recipe is chosen from an estimate that is not made yet; else None.
        decision: how the recipe was chosen from an estimate, or None.
    """

    recipe: Recipe
    index: int
    name: str
    plan: Plan | None = None
    sidecar: Sidecar | None = None
    crops: Plan | None = None
    given: frozenset[str] | None = None
    decision: Decision | None = None

    @property
    def may_copy(self) -> bool:
        """Whether the result may be the picture's file."""
        return self.recipe.copied or (self.given is not None and self.recipe.upscale == 1)

    @property
    def caption(self) -> str:
        """Words for what the picture shows, from the sidecar that is repeated."""
        return "" if self.sidecar is None else self.sidecar.caption

    @property
    def networks(self) -> str:
        """The name of the networks: the version, and whether they are those for photos with faces, or none."""
        if self.recipe.leaves_alone:
            return alone_of(self.recipe.version)
        return self.recipe.version if self.recipe.faces is None else faces_of(self.recipe.version)

    @property
    def alike(self) -> tuple[Recipe, Plan | None, Plan | None]:
        """What pictures share that can be computed side by side: all but the form of the file."""
        return (
            dataclasses.replace(self.recipe, format="png", quality=95, bit_depth="same", copied=False),
            self.plan,
            self.crops,
        )


def faces_of(version: str) -> str:
    """Return the name of a version's networks for photos with faces."""
    return f"{version} {FACES}"


def alone_of(version: str) -> str:
    """Return the name of what computes photos that are left alone, which is no network."""
    return f"{version} alone"


def plain_name(name: str | None) -> str:
    """Return a client's file name without folders and control characters, and not too long."""
    last = PureWindowsPath(PurePosixPath(name or "").name).name
    clean = "".join(letter for letter in last if letter.isprintable()).strip(" .")
    while len(clean.encode(errors="replace")) > LONGEST:
        clean = clean[1:]
    return clean.encode("utf-8", "replace").decode() or "image"


def read_wish(
    text: str, name: str, bases: Mapping[str, Recipe], faces: bool = False, mask: bool = False
) -> Wish:
    """Return what a client asks for.

    Args:
        text: JSON: entries of a sidecar's `parameters` by name, all optional; or a sidecar; or nothing.
        name: of the input, see `plain_name`.
        bases: by version, the recipe without a client's changes; the first is the default.
        faces: whether there are networks for photos with faces.
        mask: whether the client sends a fidelity mask.

    Raises:
        Refusal: it is no such JSON, or asks for what the service does not have.
    """
    given = _parsed(text)
    try:
        if "parameters" in given:
            if isinstance(given.get("auto"), bool):
                raise Refusal("a sidecar decides all settings; leave out `auto`")
            return _repeated(given, bases, faces, mask)
        auto = given.pop("auto", False)
        chosen = _left_to_auto(auto, given, _base(given, bases), mask)
        recipe = _recipe(given, bases, faces, mask)
    except RecursionError:
        raise Refusal("options: is nested too deeply") from None
    except Refusal:
        raise
    except UserError as error:
        raise Refusal(f"options: {_named(str(error))}") from None
    return Wish(recipe, noise_index(Path(name)), name, given=chosen)


def _left_to_auto(
    auto: object, given: Mapping[str, object], base: Recipe, mask: bool
) -> frozenset[str] | None:
    """The names of what a client set besides `auto`, which wins; None without it.

    Raises:
        UserError: something in it does not go with `auto`.
    """
    if not isinstance(auto, bool):
        raise Refusal(f"`auto` is {auto!r}; allowed are true and false")
    if not auto:
        return None
    options = given.get("options")
    words = changed(given, as_record(base)) | {*given} & {"quality"}
    words |= {*options} if isinstance(options, dict) else set()
    # A service for another task has networks of its own.
    own = {"lora": base.lora, "fidelity_mask": mask, "task": base.task != "sr"}
    words |= {name for name, there in own.items() if there}
    check_auto(base.version, words)
    return frozenset(words)


def _parsed(text: str) -> dict[str, object]:
    if len(text) > MOST:
        raise Refusal(f"options: {len(text)} characters are given, allowed are {MOST}")
    try:
        given = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        raise Refusal('options: is no JSON; give an object such as {"upscale": 2}') from None
    if not isinstance(given, dict):
        raise Refusal('options: is no JSON object; give one such as {"upscale": 2}')
    return given


def _recipe(given: dict[str, object], bases: Mapping[str, Recipe], faces: bool, mask: bool) -> Recipe:
    """A version's operating point with a client's changes."""
    base = _with_task(_base(given, bases), given, faces)
    record, options, changes = as_record(base), dataclasses.asdict(base.options), given.get("options", {})
    if not isinstance(changes, dict):
        raise Refusal('`options` inside is no object; give one such as {"seed": 1}')
    for field in FIXED:
        if field in given and given[field] != record[field]:
            raise Refusal(f"`{field}` is {given[field]!r}; this service has {record[field]!r}, leave it out")
    if given.get("save_faces"):
        raise Refusal("this service gives whole pictures; leave out `save_faces`")
    made = {"options": options | changes, "faces": _choice(given, base)}
    recipe = from_record(record | given | made)
    if recipe.stage1_only or base.stage1_only:
        # LoRAs change no network of stage 1.
        recipe = dataclasses.replace(recipe, stage1_only=True, lora=())
    if recipe.hides is not None:
        raise Refusal("`operator` has a mask, which is a file of this machine; leave the mask out")
    words = changed(given, record) | changed(changes, options)
    words |= {"fidelity_mask"} if mask else set()
    namespace = argparse.Namespace(version=recipe.version, given=words, guidance_map=None, fidelity_mask=mask)
    check_version(namespace)
    check_flags(namespace, recipe)
    return recipe


def _with_task(base: Recipe, given: Mapping[str, object], faces: bool) -> Recipe:
    """The base for a client's task: that of the service, or faces where it has them."""
    task = given.get("task", base.task)
    if task == base.task:
        return base
    if task != FACES or not faces:
        known = f"{base.task!r} and {FACES!r}" if faces else repr(base.task)
        raise Refusal(f"`task` is {task!r}; this service has {known}")
    if given.get("background", "sr") not in GROUNDS:
        raise Refusal(f"`background` is {given['background']!r}; this service has {' and '.join(GROUNDS)}")
    return dataclasses.replace(base, task=FACES, faces=Faces())


def _choice(given: Mapping[str, object], base: Recipe) -> dict[str, object] | None:
    """Which faces are restored: the usual choice with a client's changes; None without faces."""
    usual, changes = base.faces and dataclasses.asdict(base.faces), given.get("faces")
    if changes is None:
        return usual
    if usual is None or not isinstance(changes, dict):
        raise Refusal(f'`faces` is an object for pictures of `"task": "{FACES}"`; give both, or leave it out')
    if unknown := changes.keys() - usual.keys():
        raise Refusal(f"`faces` has unknown {', '.join(sorted(unknown))}; known are {', '.join(usual)}")
    return usual | changes


def changed(given: Mapping[str, object], record: Mapping[str, object]) -> frozenset[str]:
    """Return the names of entries that are not as in `record`."""
    return frozenset(name for name in given.keys() - {*MADE} if given[name] != record.get(name))


def _base(given: Mapping[str, object], bases: Mapping[str, Recipe]) -> Recipe:
    version = given.get("version", next(iter(bases)))
    if not isinstance(version, str) or version not in bases:
        raise Refusal(f"`version` is {version!r}; this service has {', '.join(bases)}")
    return bases[version]


def _repeated(given: dict[str, object], bases: Mapping[str, Recipe], faces: bool, mask: bool) -> Wish:
    """The wish that a sidecar describes."""
    sidecar = checked(given, Sidecar)
    if sidecar.clean or sidecar.ground:
        raise Refusal("the sidecar names further pictures; repeat it by diffbir restore --from-sidecar")
    if mask != (sidecar.mask is not None):
        what = "no mask; leave out" if mask else "a mask; send"
        raise Refusal(f"the sidecar names {what} `fidelity_mask`")
    then = from_record(sidecar.parameters)
    recorded = as_record(then)
    now = _base(recorded, bases)
    if then.leaves_alone and then.version == AUTO_VERSION:
        now = left_alone(dataclasses.replace(now, upscale=then.upscale), then.copied)
        bases = {**bases, then.version: now}
    base = as_record(now)
    places = (*ASIDE, *PLACES, *(("lora",) if _same_loras(then, now) else ()))
    recipe = _recipe(recorded | {name: base[name] for name in places}, bases, faces, mask)
    name = plain_name(sidecar.name)
    return Wish(recipe, sidecar.noise_index, name, sidecar.plan, sidecar, sidecar.crops)


def _same_loras(recorded: Recipe, base: Recipe) -> bool:
    """Whether a sidecar's LoRAs may be the service's in another place; `Networks.check` compares their bytes."""
    return recorded.stage1_only or [lora.scale for lora in recorded.lora] == [
        lora.scale for lora in base.lora
    ]


def _named(message: str) -> str:
    """A message with names of entries in place of flags: --tile-stride becomes `tile_stride`."""
    return " ".join(_FLAG.sub(lambda found: f"`{found[1].replace('-', '_')}`", message).split())


def base_recipe(version: str, **changes: object) -> Recipe:
    """Return the recipe of a version without a client's changes.

    Args:
        version: name of a preset.
        changes: fields of `Recipe` that the service decides.
    """
    recipe = Recipe(
        version=version,
        task="sr",
        weights=None,
        stage1=None,
        stage1_only=get_preset(version).stage1_only,
        precision="fp32",
        upscale=4.0,
        n_samples=1,
        compare=False,
        save_stages=False,
        std_map=False,
        format="png",
        quality=95,
        bit_depth="same",
        max_pixels=2**25,
        options=default_options(version),
    )
    return dataclasses.replace(recipe, **changes)
