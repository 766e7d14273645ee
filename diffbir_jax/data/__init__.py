"""Degradations and photo sources: numpy and OpenCV on the host."""
