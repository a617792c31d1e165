"""A page and an HTTP API for trained models: `img2img serve`."""
