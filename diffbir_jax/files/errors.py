"""Errors about files."""


class ImageFileError(Exception):
    """An image file that cannot be read or written; the message names the file, the reason and what to do."""
