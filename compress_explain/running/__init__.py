"""The steps of a run, what is checked before the first, and undoing edits when a gate fails."""
