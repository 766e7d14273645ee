"""Which keys of a state dict belong to the network: the prefix of its keys, and what else stands beside them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from diffbir_jax.console.plain import shown
from diffbir_jax.conversion import families
from diffbir_jax.conversion.contents import EMA, Contents
from diffbir_jax.conversion.families import Family, Network, check_relatives, unknown
from diffbir_jax.conversion.lora import is_lora
from diffbir_jax.conversion.shapes import Shapes
from diffbir_jax.conversion.stored import CheckpointError, Shaped, State

T = TypeVar("T")

# Parts of keys that tools add, anywhere in them: data parallelism, compilation, sharding, checkpointed activations.
TOOLS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Keys may have any length in a damaged file.
MOST_PARTS = 16
# First parts of keys that stand beside a network without a prefix: counters, and what training needs.
BESIDE = re.compile(
    r"n_averaged|num_updates|(global_)?step|epoch|iter(ation)?|"
    r"(net_?)?d(_\w+)?|disc\w*|discriminator\w*|loss\w*|\w+_loss\w*|criterion\w*|lpips\w*|perceptual\w*|vgg\w*",
    re.IGNORECASE,
)
# The averaged weights of Stable Diffusion's trainers; their names have lost all dots.
AVERAGED = "model_ema."
# Averages hold what is trained; the rest of a network is not in them.
UNTRAINED = re.compile(r".*\.(relative_position_index|attn_mask|num_batches_tracked|running_(mean|var))")


def select(contents: Contents, prefix: str | None = None) -> tuple[Family, Contents]:
    """The family of a checkpoint, and the weights under the names that the family's tables have.

    Args:
        contents: the dict of weights.
        prefix: the prefix of the network's keys; None: it is found.

    Returns:
        the family; the weights without the prefix, with notes on what was taken and what was left out.

    Raises:
        CheckpointError: no family fits, or several networks could be meant.
    """
    if prefix == AVERAGED:
        return _averaged(contents.state, contents.notes)
    state, left = _within(contents.state, prefix) if prefix else (contents.state, [])
    state = without_tools(state)
    check_relatives(state)
    family, found = _family(state)
    chosen, notes = _chosen(found)
    taken = {key.removeprefix(chosen): x for key, x in state.items() if key.startswith(chosen)}
    # Nearly all other keys of the network would be missing, or all of a LoRA's be unexpected.
    if any(map(is_lora, taken)):
        raise unknown(taken)
    beside = left + [key for key in state if not key.startswith(chosen)]
    foreign = _foreign(taken, family)
    if averages := _note_of_averages(contents.state):
        beside = [key for key in beside if not key.startswith(AVERAGED)]
        notes += averages
    notes += [f"takes the keys {shown(prefix or chosen)}*"] if (prefix or chosen) and not notes else []
    notes += _note_of_rest([*beside, *foreign])
    kept = {key: x for key, x in taken.items() if key not in foreign}
    return family, Contents(kept, (*contents.notes, *notes))


def without_tools(state: Mapping[str, T]) -> dict[str, T]:
    """The same without the parts of keys that tools add; unchanged if two keys would become one."""
    plain = {".".join(part for part in key.split(".") if part not in TOOLS): x for key, x in state.items()}
    return plain if len(plain) == len(state) else dict(state)


def _within(state: State, prefix: str) -> tuple[State, list[str]]:
    dotted = prefix if prefix.endswith((".", "_")) else f"{prefix}."
    inside = {key.removeprefix(dotted): x for key, x in state.items() if key.startswith(dotted)}
    if not inside:
        first = sorted({key.split(".")[0] for key in state})
        raise CheckpointError(
            f"no key starts with --prefix {shown(prefix)}; keys start with {_listed(first)}"
        )
    return inside, [key for key in state if not key.startswith(dotted)]


def _family(state: Mapping[str, Shaped]) -> tuple[Family, list[str]]:
    """The first family with a network under any prefix, and these prefixes."""
    splits = [(key, at) for key in state for at in _starts(key)]
    for family in families.FAMILIES:
        found = {key[:at] for key, at in splits if re.fullmatch(family.mark, key[at:])}
        found = {prefix for prefix in found if _also(state, prefix, family)}
        if found:
            return family, sorted(found)
    raise unknown(state)


def _starts(key: str) -> list[int]:
    """Places in a key where the network's own name may start."""
    dots = [match.end() for match in re.finditer(r"\.", key)]
    return [0, *dots][:MOST_PARTS]


def _also(state: Mapping[str, Shaped], prefix: str, family: Family) -> bool:
    return not family.also or any(
        key.startswith(prefix) and re.fullmatch(family.also, key.removeprefix(prefix)) for key in state
    )


def _chosen(found: list[str]) -> tuple[str, list[str]]:
    """The only prefix, or the only one of averaged weights."""
    if len(found) == 1:
        return found[0], []
    names = ", ".join(shown(prefix, 40) or "(none)" for prefix in found)
    averaged = [prefix for prefix in found if EMA.search(prefix)]
    if len(averaged) != 1:
        raise CheckpointError(
            f"the file has {len(found)} such networks, with the prefixes {names}: choose by --prefix"
        )
    others = ", ".join(shown(prefix, 40) or "(none)" for prefix in found if prefix != averaged[0])
    note = (
        f"takes the averaged weights {averaged[0]}*; the file also has {others} (--prefix NAME takes another)"
    )
    return averaged[0], [note]


def _foreign(state: Mapping[str, Shaped], family: Family) -> list[str]:
    """Keys of other things beside a network without a prefix; all others must fit its table."""
    shapes = {key: tuple(x.shape) for key, x in state.items()}
    roots = {root for network in family.networks for root in _roots(network, shapes)}
    return [key for key in state if (root := key.split(".")[0]) not in roots and BESIDE.fullmatch(root)]


def _roots(network: Network, shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
    if network.prefix:
        return {network.prefix.split(".")[0]}
    kind = network.architecture
    return {rule.key.split(".")[0] for rule in kind.rules(kind.sizes(Shapes(shapes)))}


def _averaged(state: State, notes: Iterable[str]) -> tuple[Family, Contents]:
    """A network with the averaged weights in place of the last ones."""
    swapped = dict(state)
    for key in state:
        name = AVERAGED + key.removeprefix("model.").replace(".", "")
        if key.startswith("model.") and name in state:
            swapped[key] = state[name]
    family, found = select(Contents(swapped, tuple(notes)))
    count = sum(swapped[key] is not state[key] for key in state)
    if not count:
        raise CheckpointError(
            f"no key starts with --prefix {AVERAGED}, or none has a counterpart under model."
        )
    wanted = count + sum(
        key.startswith("model.") and swapped[key] is state[key] and not UNTRAINED.fullmatch(key)
        for key in state
    )
    if count < wanted:
        raise CheckpointError(
            f"{AVERAGED}* has {count} of the {wanted} weights of model.*: leave --prefix out"
        )
    said = tuple(note for note in found.notes if AVERAGED not in note)
    return family, replace(
        found, notes=(*said, f"takes the averaged weights {AVERAGED}* in place of model.*")
    )


def _note_of_averages(state: Mapping[str, Shaped]) -> list[str]:
    names = [key.removeprefix(AVERAGED) for key in state if key.startswith(AVERAGED)]
    # The counters alone, or names with dots: those are a network with a prefix.
    if len(names) < 3 or any("." in name for name in names):
        return []
    return [f"takes model.*; the file also has averaged weights (--prefix {AVERAGED} takes them)"]


def _note_of_rest(keys: list[str]) -> list[str]:
    if not keys:
        return []
    groups = sorted({key.split(".")[0] + (".*" if "." in key else "") for key in keys})
    return [f"left out: {_listed(groups)} ({len(keys)} {'keys' if len(keys) > 1 else 'key'})"]


def _listed(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown(name, 40) for name in names[:most]) + more
