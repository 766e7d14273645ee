"""Errors about files."""

from diffbir_jax.console.errors import UserError


class ImageFileError(UserError):
    """An image file that cannot be read or written; the message names it, says why and what to do."""
