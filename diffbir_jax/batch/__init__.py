"""Folders of thousands of images: what there is to do, doing it without losing any, repeating it."""
