"""PyTorch checkpoints to Flax parameters."""
