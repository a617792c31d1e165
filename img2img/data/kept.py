"""Tiles and chunks of images, of which those that were decoded last are kept."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from img2img.data.picture import Array

CACHE = 2**27  # bytes


class Kept:
    """The tiles of a file that were used last, up to a number of bytes. Several threads may share it."""

    def __init__(self, most: int = CACHE) -> None:
        self.most, self.lock = most, threading.Lock()
        self.tiles: OrderedDict[Hashable, Array] = OrderedDict()
        self.size = 0

    def get(self, key: Hashable, decode: Callable[[], Array]) -> Array:
        """Return a tile, which is decoded unless it is there."""
        with self.lock:
            if key in self.tiles:
                self.tiles.move_to_end(key)
                return self.tiles[key]
        tile = decode()
        with self.lock:
            if key not in self.tiles:
                self.tiles[key] = tile
                self.size += tile.nbytes
            while self.size > self.most and len(self.tiles) > 1:
                self.size -= self.tiles.popitem(last=False)[1].nbytes
        return tile
