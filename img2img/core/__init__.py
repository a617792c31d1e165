"""The adversarial game, shared by every method."""
