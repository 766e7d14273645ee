"""A client's job: what is to be done, how far it is, and what came of it."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from diffbir_jax.faces.reports import FaceReport
from diffbir_jax.files.digest import FileRecord
from diffbir_jax.imaging.photo import Photo
from diffbir_jax.restoration.results import Restored
from diffbir_jax.serve.networks import Course
from diffbir_jax.serve.wishes import Wish

State = Literal["waiting", "running", "done", "failed", "cancelled"]
OVER = ("done", "failed", "cancelled")


class File(NamedTuple):
    """A file for a client.

    Attributes:
        data: its content.
        media: its media type.
        name: its name, without folders.
    """

    data: bytes
    media: str
    name: str


class Result(NamedTuple):
    """What came of a picture.

    Attributes:
        pictures: the result, or one per sample.
        sidecar: how they were made, as JSON can hold it.
        views: 8-bit pictures for a page, by name; none unless asked for.
        deviation: the map of differences between the samples, or None.
    """

    pictures: tuple[File, ...]
    sidecar: Mapping[str, object]
    views: Mapping[str, bytes] = {}
    deviation: File | None = None

    @property
    def files(self) -> tuple[File, ...]:
        """All files but the sidecar."""
        return self.pictures if self.deviation is None else (*self.pictures, self.deviation)

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return sum(len(file.data) for file in self.files) + sum(map(len, self.views.values()))


@dataclass(eq=False)
class Job:
    """A picture to restore.

    The engine changes it under its lock and calls the listeners after each change.

    Attributes:
        wish: how it is restored.
        photo: the input; without pixels once the restorer has them, None once the job is over.
        files: path (only a name), SHA-256 and size of input and mask, for the sidecar.
        mask: of fidelity, (h, w) uint8, or None; likewise.
        owner: the client that may see it.
        views: whether pictures for a page are made as well.
        waits: whether the client waits on the line for the result, which then is not kept.
        data: the file of the input while it may become the result, else None.
        id: cannot be guessed.
        size: height and width of the input in pixels.
        accepted, started, ended: times by the engine's clock.
        state: see `State`.
        stage: of the restorer, as in `Progress`.
        done, total: tiles of this stage.
        share: of the whole work, 0 to 1.
        left: expected seconds to the end of the computation, or None.
        error: why it failed, in one line.
        status: HTTP's status code for that.
        result: what came of it.
        fetched: names of the files that the client has.
        listeners: called without arguments after each change, in any thread.
    """

    wish: Wish
    photo: Photo | None
    files: Mapping[str, FileRecord | None]
    owner: str = ""
    mask: np.ndarray | None = None
    views: bool = False
    waits: bool = False
    data: bytes | None = None
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    size: tuple[int, int] = (0, 0)
    accepted: float = 0.0
    started: float | None = None
    ended: float | None = None
    state: State = "waiting"
    stage: str = ""
    done: int = 0
    total: int = 0
    share: float = 0.0
    left: float | None = None
    error: str = ""
    status: int = 500
    result: Result | None = None
    fetched: set[str] = field(default_factory=set)
    listeners: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Keep the size, which outlives the pixels."""
        if self.photo is not None:
            height, width = self.photo.pixels.shape[:2]
            self.size = (height, width)

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in OVER

    @property
    def collected(self) -> bool:
        """Whether the client has all files that there are."""
        return self.result is None or {file.name for file in self.result.files} <= self.fetched

    @property
    def pixels(self) -> int:
        """Number of pixels of the input."""
        return self.size[0] * self.size[1]

    @property
    def held(self) -> int:
        """Pixels that it holds, and its file as what that takes: 3 bytes are a pixel."""
        return self.pixels + len(self.data or b"") // 3

    def tell(self) -> None:
        """Call the listeners."""
        for listener in tuple(self.listeners):
            listener()


class Finished(NamedTuple):
    """A job whose pixels are computed, to be written as files.

    Attributes:
        job: the job.
        samples: what the restorer made, one per sample.
        course: how it was computed.
        seconds: the time that computing took, for the sidecar.
        faces: reports on the faces of the picture; None without `"task": "faces"`.
    """

    job: Job
    samples: tuple[Restored, ...]
    course: Course
    seconds: float
    faces: Sequence[FaceReport] | None = None
