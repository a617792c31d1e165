"""Exchange of models with other programs: one file per format."""
