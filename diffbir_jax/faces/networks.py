"""Two restorers of one version: that of photos and that of aligned faces share all networks but a few."""

from collections.abc import Callable, Iterable
from pathlib import Path

from diffbir_jax.models.apply import Params
from diffbir_jax.models.presets import Preset
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.weights.loading import load_params


def differing(preset: Preset, other: Preset) -> list[str]:
    """The networks of a preset that another one has not: of other files or sizes."""

    def network(of: Preset, name: str) -> tuple[object, object]:
        return getattr(of.files, name), of.rm if name == "rm" else None

    return [
        name
        for name in preset.modules
        if name not in other.modules or network(preset, name) != network(other, name)
    ]


def with_networks(
    restorer: Restorer,
    preset: Preset,
    folder: str | Path | None,
    names: Iterable[str],
    change: Callable[[dict[str, Params]], dict[str, Params]] | None = None,
) -> Restorer:
    """A restorer of another preset that shares the networks of `restorer`, but for some that are loaded.

    Args:
        restorer: a restorer whose preset differs from `preset` in these networks only.
        preset: the other preset.
        folder: of the weights, see `load_params`.
        names: of the networks to load.
        change: see `load_params`; that of `restorer`.
    """
    own = load_params(preset, folder, restorer.dtype, names, change)
    # An encoder of the condition belongs to its control.
    left = {*own, "condition"} if "control" in own else {*own}
    shared = {name: params for name, params in restorer.params.items() if name not in left}
    return Restorer(preset, shared | own, restorer.dtype, restorer.programs.mesh)
