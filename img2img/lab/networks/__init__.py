"""Adversarial networks that equalize: their training on patches of all batches, and their use on whole images."""
