"""Faces in whole photos: find them, align them, restore them, paste them back."""
