"""Judging results: of a model, of the checkpoints of a run, of two folders, of several runs side by side."""
