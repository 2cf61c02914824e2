"""What is looked at: the residual stream of both models, where it is written, and what it holds."""
