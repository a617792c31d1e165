"""Image-to-image translation: one file per paper."""
