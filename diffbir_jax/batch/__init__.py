"""Runs over folders of thousands of images: find the jobs, do them without losing any, repeat them."""
