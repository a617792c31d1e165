"""Hand-made features of an image: the traces of a batch that an eye, or a probe, can see.

They serve the probes, which ask whether the batch can still be predicted, and the out-of-distribution score. They are
made to see everything a batch effect does (brightness, noise, blur, illumination, colour), so they have no invariances.
"""

from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np
from scipy import ndimage

from img2img.data.picture import Array
from img2img.errors import InputError
from img2img.lab.large import LargeImage, Reduction
from img2img.lab.reductions import Means, Picked

LEVELS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
BANDS = 5  # octaves of the pyramid
LAGS = (1, 2, 4, 8)  # pixels
GRID, TILES = 64, 8  # bins and tiles along each axis, for illumination and coarse texture
BINOMIAL = np.array([1, 4, 6, 4, 1], np.float32) / 16
FLOOR = 1e-5  # of the range; smaller amplitudes count as equal
SIDE = 256  # pixels; `quick_features` averages larger images over blocks, so that the shorter side is about this
PAIRED = 8  # channels up to which `quick_features` compares pairs of them, of which there are too many beyond
MAD_TO_SD = 1.4826  # of a normal distribution

PLANE_NAMES = (
    *(f"quantile {level:g}" for level in LEVELS),
    *("mean", "sd", "skewness", "kurtosis"),
    *("noise", "noise in the dark", "noise in the bright"),
    *("detail", *(f"sharpness {2**k}" for k in range(BANDS - 1))),
    *(f"{part} {trend}" for part in ("mean", "background") for trend in ("across", "down", "radial", "corners")),
    *(f"correlation {way} {lag}" for lag in LAGS for way in ("across", "down")),
    *("local contrast", "spread of local contrast", "spread of local mean"),
)
PAIR_NAMES = ("correlation", "correlation of detail")
FINE = 4  # features of single pixels, which `quick_features` adds for each channel


def in_range(image: Array, scale: Array) -> Array:
    """Convert pixels (C, H, W) to units of the fitted range: 0 is `scale[c, 0]`, 1 is `scale[c, 1]`; float32.

    Raises:
        InputError: if a channel's range is empty.
    """
    scale = np.asarray(scale, np.float64)
    span = scale[:, 1] - scale[:, 0]
    if not (span > 0).all():
        raise InputError(f"Channel {int(np.argmin(span))} has an empty range of values; leave the channel out.")
    return np.asarray((image - scale[:, :1, None]) / span[:, None, None]).astype(np.float32)


def feature_names(channels: int) -> list[str]:
    """Return the names of the features of `image_features`, in its order: channels first, then pairs of channels."""
    pairs = combinations(range(channels), 2)
    return [f"{c}: {name}" for c in range(channels) for name in PLANE_NAMES] + [
        f"{a}, {b}: {name}" for a, b in pairs for name in PAIR_NAMES
    ]


def image_features(image: Array, scale: Array) -> Array:
    """Return features of one image, finite whatever it holds, in units of the fitted range.

    All pixels of the image (C, H, W) are used. Trends of the illumination and the coarse texture are taken from the
    image binned to 64×64. The features (n,) are float64, and named by `feature_names(C)`.
    """
    planes = in_range(image, scale)
    details = [_detail(plane) for plane in planes]
    values = [value for plane, detail in zip(planes, details, strict=True) for value in _plane(plane, detail)]
    return np.array(values + _pairs(planes, details), np.float64)


def quick_features(image: Array | LargeImage, scale: Array) -> Array:
    """Return features of one image that cost a small part of `image_features`.

    They are those of the image (C, H, W) averaged over square blocks, in the same order; then come for each channel the
    noise and the detail of single pixels, which averages hide, on a grid of 2x2 pixels. Pairs of channels are only
    compared if there are at most `PAIRED`. The features (n,) are float64.
    """
    step = _step(image)
    parts: list[Sequence[Array] | None]
    if isinstance(image, LargeImage):
        means, *grids = image.gather(*reductions(image))
        averaged = means.astype(np.float32)
        parts = [[grid[c] for grid in grids] or None for c in range(len(image))]
    else:
        averaged, parts = _averaged(image, step), [_corners(plane, 2 * step) for plane in image]
    planes = in_range(averaged, scale)
    details = [_detail(plane) for plane in planes]
    values = [value for plane, detail in zip(planes, details, strict=True) for value in _plane(plane, detail)]
    values += _pairs(planes, details) if len(planes) <= PAIRED else []
    fine = [value for corners, ends in zip(parts, scale, strict=True) for value in _fine(corners, ends)]
    return np.array(values + fine, np.float64)


def _step(image: Array | LargeImage) -> int:
    """Return the edge of the blocks that an image is averaged over."""
    height, width = image.shape[1:]
    return max(1, int(min(height, width)) // SIDE)


def reductions(image: LargeImage) -> list[Reduction]:
    """Return what `quick_features` needs of a large image: means over blocks, and four grids of single pixels."""
    step = _step(image)
    (height, width), ends = (n - 1 for n in image.shape[1:]), ((y, x) for y in (0, 1) for x in (0, 1))
    grids = [Picked((y, y + height, 2 * step), (x, x + width, 2 * step)) for y, x in ends]
    return [Means(step), *(grids if min(image.shape[1:]) > 1 else [])]


def _averaged(image: Array, step: int) -> Array:
    """Return the means of square blocks of `step` pixels; rows and columns that fill no block are left out."""
    if step == 1:
        return image
    channels, height, width = image.shape
    rows, columns = height // step, width // step
    bands = image[:, : rows * step].reshape(channels, rows, step, width)
    total = sum((bands[:, :, i] for i in range(1, step)), bands[:, :, 0].astype(np.float32))
    means: Array = sum(
        (total[..., i : columns * step : step] for i in range(1, step)), total[..., : columns * step : step]
    )
    return means / np.float32(step**2)


def _corners(pixels: Array, step: int) -> list[Array] | None:
    """Return 2x2 pixels at every `step`th row and column, as four arrays; None if there is no such square."""
    if min(pixels.shape) < 2:
        return None
    height, width = (n - 1 for n in pixels.shape)
    return [pixels[y : y + height : step, x : x + width : step] for y in (0, 1) for x in (0, 1)]


def _fine(corners: Sequence[Array] | None, ends: Array) -> list[float]:
    """Return the noise and the detail of single pixels, of the corners of squares."""
    if corners is None:
        return [float(np.log10(FLOOR))] * FINE
    low, span = np.float32(ends[0]), np.float32(ends[1] - ends[0])
    a, b, c, d = (corner.astype(np.float32) for corner in corners)
    detail, here = (a - b - c + d) / (2 * span), (a - low) / span
    return [*_noise(here, detail, _quantiles(here, LEVELS)), _log(float(np.sqrt(np.mean(detail * detail))))]


def _pairs(planes: Array, details: list[Array]) -> list[float]:
    pairs = combinations(range(len(planes)), 2)
    return [_correlation(part[a], part[b]) for a, b in pairs for part in (planes, details)]


def _plane(x: Array, detail: Array) -> list[float]:
    quantiles = _quantiles(x, LEVELS)
    grid = block_means(x, *(np.arange(GRID) * n // GRID for n in x.shape))  # of a small image some pixels fill several
    return [*quantiles, *_moments(x), *_noise(x, detail, quantiles), *_sharpness(x), *_trends(grid), *_texture(x, grid)]


def _quantiles(x: Array, levels: Sequence[float]) -> Array:
    """Return numpy's quantiles by sorting, which is several times as fast for numbers of 32 bits."""
    x = np.sort(x, None)
    rank = np.multiply(levels, len(x) - 1)
    below = rank.astype(int)
    low, high = x[below], x[np.minimum(below + 1, len(x) - 1)]
    return np.asarray(low + (high - low) * (rank - below))


def _moments(x: Array) -> list[float]:
    centred = x - x.mean(dtype=np.float64)
    square = centred * centred
    variance = float(square.mean())
    if variance < FLOOR**2:
        return [float(x.mean()), variance**0.5, 0.0, 0.0]
    third, fourth = float((square * centred).mean()), float((square * square).mean())
    return [float(x.mean()), variance**0.5, third / variance**1.5, fourth / variance**2 - 3]


def _detail(x: Array) -> Array:
    """Return the second mixed difference (H-1, W-1), blind to planes and straight edges; white noise keeps its sd."""
    return np.diff(np.diff(x, axis=0), axis=1) / 2 if min(x.shape) > 1 else np.zeros((1, 1), x.dtype)


def _noise(x: Array, detail: Array, quantiles: Array) -> list[float]:
    """Return the robust noise level everywhere, in the dark and in the bright: shot noise grows, read noise does not.

    The levels are based on quantiles, so that blobs cannot pass for noise.
    """
    here = x[: detail.shape[0], : detail.shape[1]]
    amplitude = np.abs(detail)
    dark, bright = amplitude[here <= quantiles[LEVELS.index(0.5)]], amplitude[here >= quantiles[LEVELS.index(0.9)]]
    return [_log(MAD_TO_SD * float(_quantiles(a, (0.5,))[0]) if a.size else 0.0) for a in (amplitude, dark, bright)]


def _sharpness(x: Array) -> list[float]:
    """Return the finest octave's log energy in a binomial (difference of Gaussians) pyramid, and each over the next."""
    energies = []
    for _ in range(BANDS):
        smooth = ndimage.correlate1d(ndimage.correlate1d(x, BINOMIAL, 0), BINOMIAL, 1)
        energies.append(_log(float(np.sqrt(np.mean((x - smooth) ** 2)))))
        x = smooth[::2, ::2]
    return [energies[0], *(fine - coarse for fine, coarse in pairwise(energies))]


def block_means(x: Array, rows: Array, columns: Array) -> Array:
    """Return the means of blocks of an image (..., H, W), which begin at these rows and columns."""
    for axis, starts in ((-2, rows), (-1, columns)):
        counts = np.diff(starts, append=x.shape[axis]).clip(1)
        x = np.add.reduceat(x, starts, axis) / (counts[:, None] if axis == -2 else counts)
    return x


def _tiles(grid: Array) -> Array:
    side = GRID // TILES
    return grid.reshape(TILES, side, TILES, side).swapaxes(1, 2).reshape(TILES, TILES, -1)


def _trends(grid: Array) -> list[float]:
    """Return linear and radial trends of the tiles' mean and background (lowest decile), and corners - centre."""
    tiles = _tiles(grid)
    background = np.partition(tiles, tiles.shape[-1] // 10, -1)[..., tiles.shape[-1] // 10]
    values = []
    for map_ in (tiles.mean(-1), background):
        corners = map_[np.ix_((0, -1), (0, -1))].mean()
        centre = map_[TILES // 2 - 1 : TILES // 2 + 1, TILES // 2 - 1 : TILES // 2 + 1].mean()
        values += [*(TREND_FIT @ map_.ravel())[1:], corners - centre]
    return [float(v) for v in values]


def _trend_fit() -> Array:
    """Return the least squares fit (4, TILES²) of 1, x, y and x² + y² to a map of tiles; x and y run from -1 to 1."""
    x, y = (a.ravel() for a in np.meshgrid(*[np.linspace(-1, 1, TILES)] * 2))
    return np.linalg.pinv(np.stack([np.ones_like(x), x, y, x**2 + y**2], 1))


TREND_FIT = _trend_fit()


def _texture(x: Array, grid: Array) -> list[float]:
    """Return the autocorrelation at each lag across and down, then the variation within and between the tiles."""
    tiles = _tiles(grid)
    contrast = tiles.std(-1)
    correlations = []
    for lag in LAGS:
        pairs = (x[:, lag:], x[:, :-lag]), (x[lag:], x[:-lag])
        correlations += [
            _correlation(*pair) if n > lag + 1 else 0.0 for pair, n in zip(pairs, x.shape[::-1], strict=True)
        ]
    return [*correlations, float(contrast.mean()), float(contrast.std()), float(tiles.mean(-1).std())]


def _correlation(a: Array, b: Array) -> float:
    """Return Pearson's correlation; 0 if either is constant."""
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt(float(np.vdot(a, a)) * float(np.vdot(b, b)))) / a.size
    return float(np.vdot(a, b)) / a.size / norm if norm > FLOOR**2 else 0.0


def _log(amplitude: float) -> float:
    return float(np.log10(max(amplitude, FLOOR)))
