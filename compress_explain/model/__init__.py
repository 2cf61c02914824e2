"""The model: its parts by name and where they lie, what it is for, and how it is loaded."""
