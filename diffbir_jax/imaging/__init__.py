"""Images outside of the networks: files, resizing, colour."""
