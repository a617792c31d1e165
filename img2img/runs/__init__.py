"""What a training run leaves on disk: its folder, and the records in it."""
