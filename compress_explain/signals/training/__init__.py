"""The same signals over the checkpoints of a training."""
