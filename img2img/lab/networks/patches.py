"""Training patches with the same content in every batch."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from img2img.data.picture import Array
from img2img.errors import ConfigError

BINS = 8


class Patches(Dataset[dict[str, Tensor]]):
    """Training samples {"image": (C, size, size), "label": ()}, without end, alike in content in every batch.

    A discriminator that sees crowded patches of one batch and sparse patches of another learns density, and the
    generator then draws or removes objects. So patches are drawn by content: every patch on a grid is put into one of
    `BINS` bins by its share of foreground; for N successive samples one bin is drawn, with the frequency that all
    batches have in common, and one patch of each of the N batches is drawn from it. Foreground is what lies above
    Otsu's threshold (1979) of the smoothed mean over channels. All batches share one threshold, so their images must be
    on a common scale. For stains on white the background is balanced instead, which has the same effect.

    Sample n is of batch n modulo N, and a pure function of the seed and n. Quarter turns and mirrorings are drawn too.

    Args:
        images: float32 (C, H, W), each at least `size` high and wide.
        batch_index: the batch of each image, 0 to N - 1, each at least once.
        size: side of a patch in pixels.
        seed: of everything drawn.

    Attributes:
        overlap: share of the distributions over the bins that all batches have in common. At 0 there is no common
            content, and patches are drawn from everywhere.

    Raises:
        ConfigError: if an image is smaller than a patch.
    """

    def __init__(self, images: Sequence[Array], batch_index: Sequence[int], size: int, seed: int = 0) -> None:
        self.images, self.size, self.seed = images, size, seed
        self.batches = max(batch_index) + 1
        for i, image in enumerate(images):
            if min(image.shape[1:]) < size:
                h, w = image.shape[1:]
                raise ConfigError(f"Image {i} is {w}x{h} pixels, smaller than a patch of {size}. Use a smaller patch.")
        maps = [ndimage.uniform_filter(image.mean(0), 5, mode="nearest") for image in images]
        level = _otsu([[maps[i] for i, b in enumerate(batch_index) if b == k] for k in range(self.batches)])
        stride = max(1, size // 4)
        tables = [_shares(plane > level, size, stride) for plane in maps]  # (share, y, x) of each patch of an image
        owner = np.concatenate([np.full(len(t), i) for i, t in enumerate(tables)])
        share, y, x = np.concatenate(tables).T
        self.share: Array = share
        self.places: Array = np.stack([owner, y, x], 1).astype(np.int64)
        batch = np.asarray(batch_index)[owner]
        self.bin_of: Array = np.digitize(share, np.quantile(share, np.linspace(0, 1, BINS + 1)[1:-1]))
        self.members = [
            [np.flatnonzero((batch == b) & (self.bin_of == k)) for k in range(BINS)] for b in range(self.batches)
        ]
        counts = np.array([[len(m) for m in row] for row in self.members], float)
        common = (counts / counts.sum(1, keepdims=True)).min(0)
        self.overlap = float(common.sum())
        if self.overlap == 0:
            self.members = [[np.flatnonzero(batch == b)] * BINS for b in range(self.batches)]
            common = np.ones(BINS)
        self.weights: Array = common / common.sum()

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, n: int, batch: int) -> tuple[int, np.random.Generator]:
        """Return the place that sample `n` of `batch` shows, and the generator of its other random choices."""
        bin_ = np.random.default_rng((self.seed, 0, n // self.batches)).choice(BINS, p=self.weights)
        rng = np.random.default_rng((self.seed, 1, n))
        return int(rng.choice(self.members[batch][bin_])), rng

    def patch(self, n: int, batch: int) -> Tensor:
        """Return the patch (C, size, size) of sample `n` of `batch`."""
        place, rng = self.draw(n, batch)
        i, y, x = self.places[place]
        patch = self.images[i][:, y : y + self.size, x : x + self.size]
        turned = np.rot90(patch, int(rng.integers(4)), (1, 2))[:, :: rng.choice((1, -1))]
        return torch.from_numpy(np.array(turned, np.float32))

    def __getitem__(self, n: int) -> dict[str, Tensor]:
        batch = n % self.batches
        return {"image": self.patch(n, batch), "label": torch.tensor(batch)}


class Sides(Dataset[dict[str, Tensor]]):
    """The patches of two batches as the domains of a translation: "a" is the other batch, "b" the target."""

    def __init__(self, patches: Patches, target: int) -> None:
        self.patches, self.target = patches, target

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, n: int) -> dict[str, Tensor]:
        a, b = 1 - self.target, self.target
        return {"a": self.patches.patch(2 * n + a, a), "b": self.patches.patch(2 * n + b, b)}


def _otsu(planes: Sequence[Sequence[Array]]) -> float:
    """Return Otsu's threshold (1979) of `planes[batch]`; every batch has the same weight."""
    low, high = (float(f([f([p.min(), p.max()]) for row in planes for p in row])) for f in (np.min, np.max))
    shares = np.zeros(256)
    for row in planes:
        counts = sum(np.histogram(p, 256, (low, high))[0] for p in row)
        shares += counts / np.sum(counts)
    below, moment = np.cumsum(shares), np.cumsum(shares * np.arange(256))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (moment[-1] * below / below[-1] - moment) ** 2 / (below * (below[-1] - below))
    return low + (high - low) * (int(np.nanargmax(between[:-1])) + 1) / 256 if high > low else low


def _shares(mask: Array, size: int, stride: int) -> Array:
    """Return (share of foreground, y, x) of every patch on the grid, as rows."""
    total = np.pad(mask.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    ys, xs = (np.unique([*range(0, n - size + 1, stride), n - size]) for n in mask.shape)
    y, x = (g.ravel() for g in np.meshgrid(ys, xs, indexing="ij"))
    inside = total[y + size, x + size] - total[y, x + size] - total[y + size, x] + total[y, x]
    return np.stack([inside / size**2, y, x], 1)
