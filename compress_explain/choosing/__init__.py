"""What strategies choose with: budgets and what they are counted in, rankings, targets, and what else they ask of a model."""
