"""How good is it: of a model, of a run's checkpoints, of two folders, of several runs side by side."""
