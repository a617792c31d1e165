"""From a model file to results, for arrays and for folders."""
