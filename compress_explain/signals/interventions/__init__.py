"""What happens when a part is exchanged between the models, or taken away."""
