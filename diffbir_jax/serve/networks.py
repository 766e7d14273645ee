"""The networks of one version as a service uses them: how a picture is cut, what that takes, and the work itself."""

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import jax

from diffbir_jax.batch.run import networks
from diffbir_jax.batch.settings import Recipe
from diffbir_jax.files.digest import weights_record
from diffbir_jax.restoration import loras
from diffbir_jax.restoration.candidates import candidates
from diffbir_jax.restoration.effort import costs, effort, passes
from diffbir_jax.restoration.executor import Executor
from diffbir_jax.restoration.first_use import Allow
from diffbir_jax.restoration.geometry import measure
from diffbir_jax.restoration.image import Request
from diffbir_jax.restoration.plan import Plan
from diffbir_jax.restoration.planner import Forecast, Size, Sizes, forecast, make_plan
from diffbir_jax.restoration.restorer import Restorer
from diffbir_jax.restoration.results import Outcome, Progress, Wanted
from diffbir_jax.serve.refusals import Refusal, TooLargeError
from diffbir_jax.serve.wishes import Wish
from diffbir_jax.sharding import make_mesh
from diffbir_jax.weights.loading import PRECISIONS, load_params

# Courses that are remembered: each is a few hundred bytes, beside programs that are kept anyway.
REMEMBERED = 256
T = TypeVar("T")


class Course(NamedTuple):
    """How pictures of a size are computed.

    Attributes:
        plan: how one is cut. Batches for several would be padded, and take a single one several times as long.
        pack: how many go together, see `Works.packed`.
        shape: what these share.
        peak: bytes that the process or the device needs.
        work: operations by stage, for one picture.
        passes: how many times a pack goes through a stage, 1 unless named.
        crops: how crops of faces are cut; None without faces.
    """

    plan: Plan | None
    pack: int
    shape: Hashable
    peak: int
    work: Mapping[str, float]
    passes: Mapping[str, int] = {}
    crops: Plan | None = None


class Works(Protocol):
    """What the engine needs of networks; tests have some without networks."""

    files: Mapping[str, Path]

    def check(self, wish: Wish) -> None:
        """Raise UserError for a wish that the networks cannot use."""
        ...

    def course(self, wish: Wish, size: Size, keep: bool) -> Course:
        """Return how a picture of this height and width is computed; UserError if the memory does not suffice."""
        ...

    def packed(self, wish: Wish, size: Size, keep: bool) -> Plan | None:
        """Return how several pictures of a course are cut, to share batches."""
        ...

    def shape(self, wish: Wish, size: Size, course: Course) -> Hashable:
        """Return what a picture shares with those that it can be computed with, as in a course."""
        ...

    def restore(
        self,
        requests: Iterable[Request],
        recipe: Recipe,
        course: Course,
        keep: bool,
        listen: Callable[[Progress], None],
    ) -> Iterator[Outcome]:
        """Restore pictures of one shape as a course says; see `Restorer.restore_many`."""
        ...


class Networks:
    """A `Restorer` with its plans. Threads may share it; only one may restore at a time."""

    def __init__(self, restorer: Restorer, files: Mapping[str, Path], memory: int | None = None):
        """Take the networks, the file of each, and the bytes that may be taken (default: most of the memory)."""
        self.restorer, self.files, self.memory = restorer, files, memory
        self._known: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, wish: Wish) -> None:
        """Raise UserError for a wish that the networks cannot use, or a sidecar of other weights."""
        if not wish.recipe.stage1_only:
            self.restorer.check(wish.recipe.options)
        if wish.plan is not None:
            self._check_plan(wish.plan, wish.recipe, self.restorer)
        if wish.sidecar is not None:
            self._check_weights(wish)

    def _check_plan(self, plan: Plan, recipe: Recipe, restorer: Restorer) -> None:
        """Refuse plans that no planner makes: they could take any memory and time."""
        known = (
            dataclasses.replace(plan_, norms=plan.norms)
            for many in (False, True)
            for plan_ in candidates(restorer.preset, recipe.options, restorer.programs.devices, many)
        )
        if plan not in known:
            raise Refusal(
                "the sidecar's plan is not one for this machine; repeat it by diffbir restore --from-sidecar"
            )

    def _check_weights(self, wish: Wish) -> None:
        assert wish.sidecar is not None
        found, wanted = weights_record(self.files), wish.sidecar.weights
        for module in sorted(wanted):
            if module not in found or found[module]["sha256"] != wanted[module].sha256:
                raise Refusal(
                    f"the weights of {module} are not those that the sidecar names (their SHA-256 differs)"
                )

    def _wanted(self, recipe: Recipe, keep: bool) -> Wanted:
        return Wanted(recipe.options, recipe.n_samples, keep, stage1_only=recipe.stage1_only)

    def course(self, wish: Wish, size: Size, keep: bool) -> Course:
        """Return how a picture is computed. The first of a size compiles the programs, which takes seconds.

        Raises:
            UserError: the memory does not suffice.
        """
        return self._remembered(self._course, wish, size, keep)

    def packed(self, wish: Wish, size: Size, keep: bool) -> Plan | None:
        """Return the plan for several; that for one if the memory does not suffice. The first use compiles."""
        return self._remembered(self._packed, wish, size, keep)

    def _remembered(self, make: Callable[[Wish, Size, bool], T], wish: Wish, size: Size, keep: bool) -> T:
        key = (make.__name__, wish.alike, size, keep)
        with self._lock:
            if key not in self._known:
                self._known[key] = make(wish, size, keep)
                while len(self._known) > REMEMBERED:
                    self._known.popitem(last=False)
            return self._known[key]

    def _course(self, wish: Wish, size: Size, keep: bool) -> Course:
        pair = (size, scaled(size, wish.recipe.upscale))
        found = self._forecast(wish, pair, keep)
        executor, shape = found.executor, found.shape
        batched = dataclasses.replace(executor, plan=self._batched(executor.plan, wish))
        work = effort(executor, pair, costs(executor, [pair], shape))
        return Course(executor.plan, batched.pack_size(shape), shape, found.peak, work, passes(executor))

    def _packed(self, wish: Wish, size: Size, keep: bool) -> Plan | None:
        pair = (size, scaled(size, wish.recipe.upscale))
        found = self._forecast(wish, pair, keep)
        batched = dataclasses.replace(found.executor, plan=self._batched(found.executor.plan, wish))
        fits = forecast(batched, [pair], found.budget).peak <= found.budget
        return batched.plan if fits else found.executor.plan

    def _batched(self, plan: Plan, wish: Wish) -> Plan:
        """The plan with batches for several pictures; smaller tiles than the usual tell of little memory."""
        restorer = self.restorer
        usual = next(candidates(restorer.preset, wish.recipe.options, restorer.programs.devices, True))
        same = wish.plan is None and plan.sample == usual.sample._replace(batch=plan.sample.batch)
        return plan.with_batch(usual.sample.batch) if same else plan

    def _forecast(self, wish: Wish, pair: tuple[Size, Size], keep: bool) -> Forecast:
        """The plan of the wish, or the fastest one."""
        restorer, wanted = self.restorer, self._wanted(wish.recipe, keep)
        best = make_plan(restorer, restorer.programs, [pair], wanted, self.memory)
        return given(restorer, wish.plan, [pair], wanted, best)

    def shape(self, wish: Wish, size: Size, course: Course) -> Hashable:
        """Return the sides of a picture in every stage."""
        assert course.plan is not None
        return measure(size, scaled(size, wish.recipe.upscale), self.restorer.preset, course.plan)[1]

    def restore(
        self,
        requests: Iterable[Request],
        recipe: Recipe,
        course: Course,
        keep: bool,
        listen: Callable[[Progress], None],
    ) -> Iterator[Outcome]:
        """Restore pictures of one shape; see `Restorer.restore_many`."""
        return self.restorer.restore_many(
            requests,
            recipe.upscale,
            recipe.options,
            plan=course.plan,
            count=recipe.n_samples,
            keep=keep,
            stage1_only=recipe.stage1_only,
            listen=listen,
        )


def given(restorer: Restorer, plan: Plan | None, images: Sizes, wanted: Wanted, best: Forecast) -> Forecast:
    """Return the forecast of a sidecar's plan, or `best` without one; TooLargeError for more memory than there is."""
    if plan is None:
        return best
    found = forecast(Executor(restorer, restorer.programs, plan, wanted), images, best.budget)
    if found.peak > found.budget:
        raise TooLargeError(f"the sidecar's plan takes {found.peak / 2**30:.2f} GiB; leave out `plan`")
    return found


def scaled(size: Size, upscale: float) -> Size:
    """Return height and width of the result for those of the input."""
    return max(1, round(size[0] * upscale)), max(1, round(size[1] * upscale))


def load(recipe: Recipe, allow: Allow, memory: int | None = None) -> Networks:
    """Load the networks of a recipe on all devices of this machine; errors as in `batch.run.networks`."""
    preset, files = networks(recipe, ready=False, allow=allow)
    dtype, devices = PRECISIONS[recipe.precision], jax.local_devices()
    mesh = make_mesh(devices=devices) if len(devices) > 1 else None
    change = loras.merging(preset, recipe.lora)
    params = load_params(preset, recipe.weights, dtype, files, change)
    return Networks(Restorer(preset, params, dtype, mesh), files | loras.recorded(recipe.lora), memory)
