"""Training checkpoints through Orbax."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from diffbir_jax.console.errors import OtherRunError
from diffbir_jax.console.plain import counted
from diffbir_jax.files.trees import Params, Tree
from diffbir_jax.training.distributed import is_first, jointly
from diffbir_jax.training.intact import check_shared, seal, set_damaged_aside
from diffbir_jax.weights.safetensors import mismatches

T = TypeVar("T")
# Items of a checkpoint. "default" is Orbax's name for an only item: older checkpoints hold just the arrays, and with
# this name they can still be read.
STATE, POSITION = "default", "position"


class Checkpoints:
    """The training checkpoints of a work folder: asynchronous, the newest `keep` kept, with checksums.

    A context manager. The last checkpoint is complete on disk only after it has closed.

    Attributes:
        damaged: what was wrong with checkpoints that were set aside when the folder was opened, a line each.
    """

    def __init__(self, folder: str | Path, keep: int = 2):
        """Open (or create) `folder`; all processes must do it together.

        Raises:
            UserError, OSError: it cannot be opened, in this process or in another one; see `distributed.jointly`.
        """
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._folder = Path(folder).expanduser().absolute()
        self.damaged: list[str] = []
        with jointly():
            if is_first():
                # Orbax would make it while the other processes wait, and they would not learn of an error.
                self._folder.mkdir(parents=True, exist_ok=True)
                self.damaged = set_damaged_aside(self._folder)
        with jointly():
            check_shared(self._folder)
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

    def save(self, step: int, state: Tree, position: Mapping[str, object] | None = None) -> None:
        """Write the checkpoint of `step` unless it exists; return before the files are complete.

        Args:
            step: number of steps done.
            state: a tree of arrays.
            position: position in the data, serialisable as JSON.
        """
        if self.latest != step:
            # Orbax would wait for the checkpoint before this one anyway; here it also gets its checksums.
            self.flush()
            items = {STATE: ocp.args.StandardSave(state), POSITION: ocp.args.JsonSave(dict(position or {}))}
            self._manager.save(step, args=ocp.args.Composite(**items))

    def position(self) -> Any:
        """Return the data position in the newest checkpoint; None for older checkpoints without one."""
        step = self._newest()
        if not (self._folder / str(step) / POSITION).exists():
            return None
        args = ocp.args.Composite(**{POSITION: ocp.args.JsonRestore()})
        return self._manager.restore(step, args=args)[POSITION]

    def restore(self, like: T) -> T:
        """Read the newest checkpoint into the structure, dtypes and shardings of `like`.

        Raises:
            FileNotFoundError: if there is no checkpoint.
            ValueError: if keys are missing, unexpected or misshapen (all are listed).
        """
        step = self._newest()
        stored = self._manager.item_metadata(step)[STATE]
        # Orbax's own errors are long and stop at the first key; this lists all mismatches at once.
        problems = mismatches(_leaves(stored.tree), _leaves(like))
        if problems:
            place = f"checkpoint {self._folder / str(step)}"
            raise OtherRunError(
                f"{place} is of another model ({counted(len(problems), 'problem')}; give a new `workdir`):\n  "
                + "\n  ".join(problems),
                place,
                "model",
            )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(**{STATE: ocp.args.StandardRestore(abstract)})
        return self._manager.restore(step, args=args)[STATE]

    def _newest(self) -> int:
        """Return the step of the newest checkpoint after its files are complete on disk."""
        step = self.latest
        if step is None:
            raise FileNotFoundError(f"no checkpoint in {self._folder}: train first.")
        self._manager.wait_until_finished()
        return step

    def flush(self) -> None:
        """Wait until everything is on disk, and seal it: write its checksums, see `intact.seal`."""
        self._manager.wait_until_finished()
        if is_first():
            seal(self._folder)

    def close(self) -> None:
        """Wait until everything is on disk and sealed; then nothing can be saved any more."""
        self.flush()
        self._manager.close()


def _leaves(tree: Tree) -> Params:
    """Return leaves by path. Orbax stores tuples as lists or dicts; their paths are the same."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
