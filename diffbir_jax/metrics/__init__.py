"""Image quality measured against a ground truth; host-side, in float64."""
