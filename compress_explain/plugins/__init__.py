"""What can be plugged in: what a strategy, an evaluator and a registry are, and how they are found by name."""
