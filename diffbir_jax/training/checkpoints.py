"""Training checkpoints through Orbax."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp

from diffbir_jax.console.errors import UserError
from diffbir_jax.weights.safetensors import mismatches

# Items of a checkpoint: arrays, under the name that Orbax gives to a sole item, as which they were once stored; and the
# data position.
STATE, POSITION = "default", "position"


class Checkpoints:
    """The training checkpoints of a work folder: asynchronous, the newest `keep` kept.

    A context that closes itself, whatever happens inside: only then is the last one sure to be on disk.
    """

    def __init__(self, folder: str | Path, keep: int = 2):
        """Open (or create) `folder`."""
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._folder = Path(folder).expanduser().absolute()
        handlers = {STATE: ocp.StandardCheckpointHandler(), POSITION: ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self._folder, options=options, item_handlers=handlers)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, position: Mapping[str, Any] | None = None) -> None:
        """Write the checkpoint of `step` unless it exists; returns before the files are complete.

        Args:
            step: steps done.
            state: a tree of arrays.
            position: where the data are, as JSON has it.
        """
        if self.latest != step:
            items = {STATE: ocp.args.StandardSave(state), POSITION: ocp.args.JsonSave(dict(position or {}))}
            self._manager.save(step, args=ocp.args.Composite(**items))

    def position(self) -> dict[str, Any] | None:
        """Return the data position in the newest checkpoint, None if it was written before positions were."""
        step = self._newest()
        if not (self._folder / str(step) / POSITION).exists():
            return None
        args = ocp.args.Composite(**{POSITION: ocp.args.JsonRestore()})
        return self._manager.restore(step, args=args)[POSITION]

    def restore(self, like: Any) -> Any:
        """Read the newest checkpoint into the structure, dtypes and shardings of `like`.

        Raises:
            FileNotFoundError: if there is no checkpoint.
            ValueError: if keys are missing, unexpected or misshapen (all are listed).
        """
        step = self._newest()
        stored: Any = self._manager.item_metadata(step)[STATE]
        problems = mismatches(_leaves(stored.tree), _leaves(like))
        if problems:
            raise UserError(
                f"checkpoint {self._folder / str(step)} is of another model ({len(problems)} problems; give a "
                "new --workdir):\n  " + "\n  ".join(problems)
            )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(**{STATE: ocp.args.StandardRestore(abstract)})
        return self._manager.restore(step, args=args)[STATE]

    def _newest(self) -> int:
        """The step of the newest checkpoint, which is on disk as a whole."""
        step = self.latest
        if step is None:
            raise FileNotFoundError(f"no checkpoint in {self._folder}: train first.")
        self._manager.wait_until_finished()
        return step

    def close(self) -> None:
        """Wait until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def _leaves(tree: Any) -> dict[str, Any]:
    """Leaves by path; tuples that Orbax stored as lists or dicts have the same paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
