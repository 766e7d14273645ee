"""Images that stay decoded: of a folder of a few photos every crop would decode a whole one again."""

import threading
from dataclasses import dataclass, field, replace

from diffbir_jax.data.decoding import pixels
from diffbir_jax.data.example import BrokenExampleError, Example, Source


@dataclass
class Decoded:
    """A source whose images stay in memory as pixels, as many as there is room for.

    What came first stays: an epoch asks for every example once, so letting the oldest go would find no more of them.
    Threads may share it; a worker process begins with an empty one of its own.

    Attributes:
        source: the examples.
        room: for pixels (bytes).
    """

    source: Source
    room: int
    _kept: dict[int, Example] = field(default_factory=dict, init=False, repr=False)
    _used: int = field(default=0, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        """Return example `index`, its image as pixels (H, W, 3) uint8; one that is broken comes as it is.

        Raises:
            BrokenExampleError: it cannot be read; the message names it.
        """
        if (kept := self._kept.get(index)) is not None:
            return kept
        example = self.source[index]
        try:
            image = pixels(example.image)
        except BrokenExampleError:
            return example  # whoever decodes it says what is wrong
        example = replace(example, image=image)
        with self._lock:
            if index not in self._kept and self._used + image.nbytes <= self.room:
                self._kept[index] = example
                self._used += image.nbytes
        return example

    def __reduce__(self) -> tuple[type["Decoded"], tuple[Source, int]]:
        return Decoded, (self.source, self.room)

    @property
    def fingerprint(self) -> str:
        """That of the source."""
        return self.source.fingerprint
