"""Preservation of the outlines of the source, for translations without a known target."""

import torch
import torch.nn.functional as F
from torch import Tensor

from img2img.metrics.paired import unit

FLAT = 1e-6  # root mean square of edges below which they are rounding errors of a constant image


def structure(source: Tensor, fake: Tensor) -> Tensor:
    """Return the correlation of edge magnitudes of source and translation, (N,), in [-1, 1]; 1 means the same edges.

    The edge magnitude of an image is |∇m|: m is the mean over channels, ∇ the Sobel operator on pixels that have all
    their neighbours. The correlation over these pixels is Pearson's. It does not change when an image is inverted or
    its contrast scaled, so it measures where the edges are and not what lies between them. It is 1 if neither image
    has edges, and 0 if only one has.
    """
    a, b = (_edges(x).flatten(1) for x in (source, fake))
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    norms = a.norm(dim=1), b.norm(dim=1)
    flat = [norm < FLAT * a.shape[1] ** 0.5 for norm in norms]
    r = (a * b).sum(1) / (norms[0] * norms[1]).clamp_min(torch.finfo(a.dtype).tiny)
    return torch.where(flat[0] | flat[1], (flat[0] & flat[1]).to(r), r)


def _edges(x: Tensor) -> Tensor:
    """Map (N, C, H, W) to the magnitude of the gradient, (N, 1, H - 2, W - 2)."""
    across = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]) / 8
    plane = unit(x).mean(1, keepdim=True)
    sobel = torch.stack([across, across.T])[:, None].to(plane)
    return F.conv2d(plane, sobel).square().sum(1, keepdim=True).sqrt()
