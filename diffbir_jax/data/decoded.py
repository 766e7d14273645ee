"""Images that stay decoded in memory. Without this, every crop decodes its whole photo again."""

import threading
from dataclasses import dataclass, field, replace

from diffbir_jax.data.decoding import pixels
from diffbir_jax.data.example import BrokenExampleError, Example, Source


@dataclass
class Decoded:
    """A source that keeps the pixels of its images in memory, as many as there is room for.

    The first images stay. Each epoch uses every example once, so a cache that drops the oldest would never hit.
    Threads may share it; a worker process starts with its own empty cache.

    Attributes:
        source: the examples.
        room: memory for pixels (bytes).
    """

    source: Source
    room: int
    _kept: dict[int, Example] = field(default_factory=dict, init=False, repr=False)
    _used: int = field(default=0, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        """Return example `index` with its image as pixels (H, W, 3) uint8; a broken image is returned unchanged.

        Raises:
            BrokenExampleError: it cannot be read; the message names it.
        """
        if (kept := self._kept.get(index)) is not None:
            return kept
        example = self.source[index]
        try:
            image = pixels(example.image)
            lq = None if example.lq is None else pixels(example.lq)
        except BrokenExampleError:
            return example  # its next decoder reports the error with the example's name
        example, size = replace(example, image=image, lq=lq), image.nbytes + (0 if lq is None else lq.nbytes)
        with self._lock:
            # Another thread may have decoded the same image meanwhile; its bytes must not count twice.
            if index not in self._kept and self._used + size <= self.room:
                self._kept[index] = example
                self._used += size
        return example

    # A lock cannot be pickled, and pixels are too large to send to workers.
    def __reduce__(self) -> tuple[type["Decoded"], tuple[Source, int]]:
        return Decoded, (self.source, self.room)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the source."""
        return self.source.fingerprint
