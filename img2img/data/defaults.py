"""Defaults of reading and writing files. Imports nothing, so that help that prints them is quick."""

MAX_PIXELS = 2**28  # of a file, all pages together: 16384x16384
JPEG_QUALITY = 95  # of JPEG and lossy WebP
PAGES = {
    "images": "each page of a stack is an image",
    "channels": "pages without a stated meaning are the channels of one image",
}
