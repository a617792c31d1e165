"""The classic papers on GANs from noise, one file each."""
