"""Options: declared once, as fields of dataclasses, with their help texts and limits."""
