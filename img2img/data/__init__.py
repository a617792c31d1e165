"""From image files and arrays to batches."""
