"""A plug-in of img2img: one paper, one generator, one objective."""
