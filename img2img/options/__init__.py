"""Options: declared once as fields of dataclasses, with their help and their limits."""
