"""Models to and from other programs: one file per format."""
