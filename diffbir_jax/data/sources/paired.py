"""Pairs of photos: clean images of any source of files, and the file of the degraded one beside each."""

from collections.abc import Sequence
from dataclasses import replace

from diffbir_jax.data.example import Example, Source
from diffbir_jax.data.sources.files import join, read
from diffbir_jax.data.sources.shared import digest


class PairedSource:
    """A source of clean images with the file of the degraded one beside each."""

    def __init__(self, clean: Source, root: str, names: Sequence[str]):
        """Take the clean images and, in their order, the degraded files, paths below `root`."""
        self._clean, self._root, self._names = clean, root, names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Example:
        """Read both images of pair `index`; BrokenExampleError if that fails."""
        example = self._clean[index]
        return replace(example, lq=read(join(self._root, self._names[index])))

    @property
    def fingerprint(self) -> str:
        """Digest of the clean images and of the degraded ones' names, without the root: data may move."""
        return digest([self._clean.fingerprint, *self._names])
