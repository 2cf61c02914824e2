"""What a person at a terminal sees: commands, tables, trees, and the configuration to start from."""
