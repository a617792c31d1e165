"""The mapping between pixel values and the networks' range [-1, 1]: it is fixed when a model is trained, stored with
the model, and inverted on output.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from img2img.data.picture import DTYPES, Array, as_type


@dataclass(frozen=True)
class Scale:
    """A mapping of pixel values from `low` to `high`, of type `dtype`, to [-1, 1]."""

    low: int | float
    high: int | float
    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES or not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"invalid range of pixel values: {self.low} to {self.high} of {self.dtype!r}")

    def __str__(self) -> str:
        return f"{self.dtype} {self.low:g} to {self.high:g}"

    @classmethod
    def of(cls, arrays: Iterable[Array], dtype: str) -> "Scale":
        """Return 0..255 for 8 bits, and for other types the actual range of `arrays`, the whole training set."""
        if dtype == "uint8":
            return cls(0, 255, dtype)
        ranges = [(float(x.min()), float(x.max())) for x in arrays]
        low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
        return cls(low, high if high > low else low + 1, dtype)

    @property
    def _exact(self) -> type:
        """The type to compute in: fp32 holds 16 bits exactly, but lacks the precision and range for 32."""
        return np.float64 if np.dtype(self.dtype).itemsize > 2 else np.float32

    def encode(self, array: Array) -> Tensor:
        """Map pixel values (H, W, C) to a tensor (C, H, W) in [-1, 1], fp32."""
        return self.encode_all(array[None])[0]

    def encode_all(self, arrays: Array) -> Tensor:
        """Encode a batch (N, H, W, C)."""
        x = torch.from_numpy(np.ascontiguousarray(arrays.transpose(0, 3, 1, 2), dtype=self._exact))
        return ((x - self.low) * (2 / (self.high - self.low)) - 1).float()

    def decode(self, x: Tensor) -> Array:
        """Map (C, H, W) in [-1, 1] to pixel values (H, W, C), rounded and clipped to the range of an integer type."""
        signal: Array = x.float().cpu().numpy().astype(self._exact, copy=False).transpose(1, 2, 0)
        return np.ascontiguousarray(as_type((signal + 1) * ((self.high - self.low) / 2) + self.low, self.dtype))

    def outside(self, array: Array) -> int:
        """Count the values of `array` outside `low` to `high`, which a network ending in tanh cannot reproduce."""
        return int(np.count_nonzero((array < self.low) | (array > self.high))) if self.dtype != "uint8" else 0
