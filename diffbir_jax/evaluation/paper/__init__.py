"""`diffbir reproduce`: the paper's numbers beside ours."""
