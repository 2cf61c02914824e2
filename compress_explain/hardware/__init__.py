"""What a model takes on a machine: time, memory, energy; much of it measured with no more than numpy and a runtime."""
