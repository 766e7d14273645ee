"""Image processing outside the networks: files, resizing, colour."""
