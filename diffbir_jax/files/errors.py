"""Errors about files."""


class ImageFileError(Exception):
    """An image file that cannot be read or written; the message names it, says why and what to do."""
