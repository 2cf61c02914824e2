"""How alike two models, or two layers, arrange the same decisions."""
