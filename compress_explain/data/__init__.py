"""Rows: where they come from, what they hold, how a model reads them, and the slices that they belong to."""
