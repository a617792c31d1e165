"""Batch equalization of lab data: images of several experimental batches moved onto one reference."""
