"""Monotone intensity curves and smooth illumination fields: what `tone` and `tone+field` fit to each batch."""
