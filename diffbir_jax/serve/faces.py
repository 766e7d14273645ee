"""The networks of one version for photos with faces: photos go one by one."""

import dataclasses
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path

from diffbir_jax.batch.faces import advice, crop_networks, face_restorer
from diffbir_jax.batch.settings import Recipe
from diffbir_jax.faces.choice import Faces
from diffbir_jax.faces.memory import crop_sizes, crops_plan, photos_plan
from diffbir_jax.faces.restoring import FaceRestorer
from diffbir_jax.restoration.first_use import Allow
from diffbir_jax.restoration.image import Request
from diffbir_jax.restoration.names import FACES
from diffbir_jax.restoration.planner import Size
from diffbir_jax.restoration.results import Outcome, Progress
from diffbir_jax.serve.networks import Course, Networks, given, scaled
from diffbir_jax.serve.wishes import Wish


class FaceNetworks(Networks):
    """A `FaceRestorer` with its plans, see `Networks`."""

    def __init__(self, both: FaceRestorer, files: Mapping[str, Path], memory: int | None = None):
        """Take the networks, the file of each (those of crops alone by face_NAME), and the bytes that may be taken."""
        super().__init__(both.behind, files, memory)
        self._both = both

    def check(self, wish: Wish) -> None:
        """Raise UserError for a wish that the networks cannot use, or a sidecar of other weights."""
        super().check(wish)
        if not wish.recipe.stage1_only:
            self._both.check(wish.recipe.options)
        if wish.crops is not None:
            self._check_plan(wish.crops, wish.recipe, self._both.faces)

    def _restorer(self, recipe: Recipe) -> FaceRestorer:
        """The restorer for a client's choice of faces and background."""
        both, choice, word = self._both, recipe.faces, recipe.background
        assert choice is not None
        way = dataclasses.replace(both.way, choice=choice, background=word)  # pyright: ignore[reportArgumentType]
        return FaceRestorer(both.faces, both.behind, way)

    def _course(self, wish: Wish, size: Size, keep: bool) -> Course:
        """How a photo is computed. Nothing tells how long it takes before its faces are counted."""
        both, wanted = self._restorer(wish.recipe), self._wanted(wish.recipe, keep)
        pair = (size, scaled(size, wish.recipe.upscale))
        # Photos come one by one and show few faces: the first result comes sooner without batches.
        crops = crops_plan(both, wanted, [pair], self.memory, count=1)
        crops = given(both.faces, wish.crops, [crop_sizes(both)], wanted, crops)
        if wish.recipe.background != "sr":
            return Course(None, 1, size, crops.peak, {}, crops=crops.executor.plan)
        photo = photos_plan(both, wanted, [pair], self.memory)
        photo = given(both.behind, wish.plan, [pair], wanted, photo)
        peak = max(crops.peak, photo.peak)
        return Course(photo.executor.plan, 1, size, peak, {}, crops=crops.executor.plan)

    def shape(self, wish: Wish, size: Size, course: Course) -> Hashable:
        """Return the sides of a photo, which shares its pack with no other one."""
        return size

    def restore(
        self,
        requests: Iterable[Request],
        recipe: Recipe,
        course: Course,
        keep: bool,
        listen: Callable[[Progress], None],
    ) -> Iterator[Outcome]:
        """Restore photos and their faces; see `FaceRestorer.restore_many`."""
        both = self._restorer(recipe)
        both.plan = course.crops
        return both.restore_many(
            requests,
            recipe.upscale,
            recipe.options,
            plan=course.plan,
            count=recipe.n_samples,
            keep=keep,
            stage1_only=recipe.stage1_only,
            listen=listen,
        )


def with_faces(networks: Networks, recipe: Recipe, allow: Allow) -> FaceNetworks:
    """Return the networks for photos with faces that share those for photos without, for the same base recipe.

    Raises:
        UserError, OSError: files for crops are missing.
    """
    recipe = dataclasses.replace(recipe, task=FACES, faces=Faces())
    if text := advice(recipe):
        warnings.warn(text, stacklevel=2)
    crops = crop_networks(recipe, networks.restorer.preset, networks.files, allow)
    files = {**networks.files, **{f"face_{name}": file for name, file in crops.files.items()}}
    return FaceNetworks(face_restorer(recipe, networks.restorer, crops), files, networks.memory)
