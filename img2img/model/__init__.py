"""From a model file to results: on arrays and on folders."""
