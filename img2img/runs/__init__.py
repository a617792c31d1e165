"""A training run on disk: its folder, and the records in it."""
