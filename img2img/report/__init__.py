"""The report of a run: page, curves, diagnosis, remarks."""
