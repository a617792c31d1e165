"""From a model file to translated arrays and folders."""
