"""Metrics of generated images: a file per kind of metric, the table of all, and the scorer that accumulates images."""
