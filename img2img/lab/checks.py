"""Checks of images and of their description. Every error names the image at fault and the remedy."""

from collections.abc import Iterable, Sequence, Set as AnySet
from datetime import datetime, time
from typing import Any, Protocol

import numpy as np
from joblib import cpu_count

from img2img.data.picture import Array
from img2img.errors import ConfigError, InputError, InputTypeError
from img2img.lab.large import LargeImage
from img2img.lab.reductions import Extremes

DTYPES = ("uint8", "uint16", "float32", "float64")
MAX_CHANNELS = 64  # a longer axis C must be rows or columns
FAR = 1000  # times the highest fitted value; floats beyond it are on another scale
CAMERA_TOPS = (1023, 4095, 16383, 65535)  # of 10, 12, 14 and 16 bits, whatever type holds them


class Images(Protocol):
    """The images that are checked: those of an array, or of a table."""

    @property
    def what(self) -> str: ...
    @property
    def names(self) -> list[str] | None: ...
    @property
    def channels(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __getitem__(self, i: int) -> Any: ...


# Checks of the array


def check_letters(axes: str) -> None:
    """Raise InputError unless `axes` has N, Y and X once each, C at most once, and nothing else."""
    if not isinstance(axes, str) or sorted(axes) not in (["C", "N", "X", "Y"], ["N", "X", "Y"]):
        raise InputError(
            f"axes={axes!r} is not valid; name each axis of the array by one letter, N for images, C for "
            "channels, Y for rows and X for columns, e.g. axes='NCYX', 'NYXC' or 'NYX'."
        )


def check_shape(shape: Sequence[int], axes: str, what: str) -> None:
    """Check that an array of this shape can have these axes; the arrays of a list have no axis N.

    Raises:
        InputError: if the number of axes differs, or the declared channels look like rows.
    """
    listed = "N" not in axes
    if len(shape) != len(axes):
        remedies = {
            2: f"for a single image give {what}[None] with axes='NYX'",
            3: "use axes='NYX'",
            4: "use axes='NCYX'",
        }
        raise InputError(
            f"{what} has {len(shape)} axes, of lengths {tuple(shape)}, but axes= names {len(axes)} for it: "
            f"{', '.join(axes)}; {remedies.get(len(shape) + listed, 'name each axis once')}."
        )
    if any(n != n for n in shape):
        raise InputError(f"{what} is a dask array of unknown shape; call {what}.compute_chunk_sizes() first.")
    length = dict(zip(axes, shape, strict=True))
    shortest = min(length["Y"], length["X"])
    if "C" not in axes or not shortest or length["C"] <= min(MAX_CHANNELS, shortest):
        return
    rest = axes.replace("C", "")
    images = [i for i, letter in enumerate(axes) if letter != "N"]
    place = min(images, key=lambda i: shape[i])
    better = rest[:place] + "C" + rest[place:]
    full = better if "N" in axes else "N" + better
    hint = f"if they are rows or columns, use axes='{full}'" if better != axes else "name the axis C in axes="
    raise InputError(
        f"{what} has the shape {tuple(shape)}, in which axes='{axes}' declares {length['C']} channels, more than "
        f"{'rows or columns' if length['C'] > shortest else MAX_CHANNELS}; {hint}."
    )


def check_type(name: str, what: str, of_file: bool = False) -> None:
    """Raise InputTypeError unless `name` is one of `DTYPES`; `what` is an expression, or the name of a file."""
    if name in DTYPES:
        return
    lossless = "uint16 if all values are from 0 to 65535, or else float32"
    hints = {"object": "give images of unequal sizes as a list", "bool": f"convert it: {what}.astype('uint8')"}
    hint = hints.get(name, f"convert it to {lossless}: {what}.astype('float32')")
    if of_file:
        hint = f"save all images of the table as {lossless}"
    raise InputTypeError(f"{what} holds {name} values, but the supported types are {', '.join(DTYPES)}; {hint}.")


def check_names(names: list[str], count: int, what: str) -> None:
    if len(names) != count:
        raise InputError(
            f"{what} has {count} channels, but {len(names)} are named ({', '.join(names)}); name each once, in order."
        )
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"Two channels of {what} are called {double[0]}; give each a unique name.")


# Checks against what was fitted


def check_channels(stack: Images, count: int, names: Sequence[str] | None = None) -> None:
    """Check that these are the channels that were fitted; names are compared if both are known.

    Raises:
        InputError: if their number, names or order differ.
    """
    has = f"{stack.channels} channels" + (f" ({', '.join(stack.names)})" if stack.names else "")
    wants = f"{count}" + (f" ({', '.join(names)})" if names else "")
    if stack.channels != count:
        raise InputError(
            f"{stack.what} has {has}, but the equalizer was fitted to {wants}; give the same channels in that order."
        )
    if stack.names is None or names is None or stack.names == list(names):
        return
    remedy = "give the same channels, under the same names"
    if sorted(stack.names) == sorted(names):
        remedy = f"put them in that order: {[stack.names.index(name) for name in names]}"
    raise InputError(
        f"{stack.what} has the channels {', '.join(stack.names)}, but the equalizer was fitted to {', '.join(names)}; "
        f"{remedy}."
    )


def check_dtype(stack: Images, fitted: Any, fitted_high: float | None = None) -> None:
    """Check that the values have the type, and thus the scale, that was fitted; float64 counts as float32.

    Of floats the first image is checked as in `check_range`.

    Raises:
        InputTypeError: if type or scale differ.
    """
    fitted = np.dtype(fitted)
    if stack.dtype.kind != "f" and stack.dtype != fitted:
        raise InputTypeError(
            f"{stack.what} holds {stack.dtype} values, but the equalizer was fitted to {fitted}; give images of that "
            "type as they came from the camera, or fit again."
        )
    if stack.dtype.kind == "f":
        check_range(stack[0], stack.what, fitted, fitted_high)


def check_range(image: Array | LargeImage, what: str, fitted: Any, fitted_high: float | None = None) -> None:
    """Check that the floats of one image (C, H, W) called `what` are on the scale that was fitted.

    Floats in [0, 1] are refused if `fitted_high` is above 10, and so are values above `FAR` times `fitted_high`.
    """
    fitted = np.dtype(fitted)
    if image.dtype.kind != "f" or (fitted.kind == "f" and fitted_high is None):
        return
    if isinstance(image, LargeImage):
        extent = image.gather(Extremes())[0]
        low, high = extent.low.min(), extent.high.max()
    else:
        low, high = np.nanmin(image, initial=np.inf), np.nanmax(image, initial=-np.inf)
    unit = bool(image.size) and bool(low >= 0 and high <= 1)
    if fitted.kind == "f" and fitted_high is not None:
        scaled = fitted_high > 10 and unit and not is_flat(image)
        if not scaled and (not np.isfinite(high) or high <= max(fitted_high, 1e-12) * FAR):
            return
    has = f"{image.dtype} values" + (" between 0 and 1" if unit else (f" up to {high:g}" if fitted.kind == "f" else ""))
    wants = str(fitted) if fitted.kind != "f" else f"values up to {fitted_high:g}"
    raise InputTypeError(
        f"{what} holds {has}, but the equalizer was fitted to {wants}; give the images as they came from the camera, "
        "unscaled."
    )


def check_finite(image: Array | LargeImage, what: str, names: Sequence[str] | None = None) -> None:
    """Check one image (C, H, W) called `what` for NaN and infinities.

    Raises:
        InputError: for the first one, with its channel, row and column.
    """
    if image.dtype.kind != "f":
        return
    if isinstance(image, LargeImage):
        extent = image.gather(Extremes())[0]
        if extent.broken is None:
            return
        channel, row, column = extent.broken
        value, wrong = image[:, row : row + 1, column : column + 1][channel, 0, 0], image.size - extent.finite.sum()
    elif (finite := np.isfinite(image)).all():
        return
    else:
        channel, row, column = (int(i) for i in np.argwhere(~finite)[0])
        value, wrong = image[channel, row, column], (~finite).sum()
    raise InputError(
        f"{what} has {'NaN' if np.isnan(value) else 'infinity'} in channel {names[channel] if names else channel}, "
        f"row {row}, column {column} ({int(wrong)} such values in all); fix it, leave the image out, or "
        "use nan='mask' in transform."
    )


# Checks of the description


def check_batch(batch: Any, n: int, what: str = "batch") -> list[str]:
    """Return the names of the batches of n images as strings; 3 and 3.0 are both "3", and spaces around do not count.

    They are a list, array, tensor or pandas Series of names or numbers, which errors call `what`.

    Raises:
        InputError: if the number of entries differs, or an entry is missing.
    """
    values = _values(batch, n, what, "the name of a batch" if what == "batch" else "a name")
    for i, value in enumerate(values):
        if _missing(value):
            raise InputError(f"{what}[{i}] is missing ({value!r}); give every image one, or leave the image out.")
    return [_text(value) for value in values]


def _text(value: Any) -> str:
    """Return a name as text: 3.0 is "3", a day is "2024-01-05", and spaces around a name do not count."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime) and value.time() == time():
        return value.date().isoformat()
    return str(value).strip()


def check_mask(mask: Any, n: int, what: str = "control") -> Array:
    """Return a mask of n values, given as booleans or as 0 and 1.

    Raises:
        InputError: if the number of entries differs, or an entry is something else.
    """
    values = _values(mask, n, what, "True or False")
    for i, value in enumerate(values):
        if _missing(value) or isinstance(value, str) or value not in (0, 1):
            raise InputError(f"{what}[{i}] is {value!r}; give True or False for each image.")
    return np.array(values, dtype=bool)


def _values(entries: Any, n: int, what: str, entry: str) -> list[Any]:
    expected = f"give a list with {entry} for each of the {n} images"
    if isinstance(entries, str | bytes | dict | AnySet) or not isinstance(entries, Iterable):
        raise InputError(f"{what} is {entries!r}; {expected}.")
    if not hasattr(entries, "tolist") and hasattr(entries, "to_numpy"):
        entries = entries.to_numpy()
    if isinstance(entries, np.ndarray) and entries.dtype.kind == "M":  # whose nanoseconds would become integers
        entries = entries.astype("datetime64[us]")
    listed = entries.tolist() if hasattr(entries, "tolist") else list(entries)
    values = [value.item() if hasattr(value, "item") else value for value in listed]
    if any(isinstance(value, list | tuple | np.ndarray) for value in values):
        raise InputError(f"{what} has more than one axis; {expected}.")
    if len(values) != n:
        raise InputError(f"{what} has {len(values)} entries, but there are {n} images; give one for each.")
    return values


def _missing(value: Any) -> bool:
    """Return whether a value is None, NaN, NaT, pandas' NA or an empty string."""
    if value is None or type(value).__name__ == "NAType":
        return True
    return not value.strip() if isinstance(value, str) else bool(value != value)


# Properties of an image


def is_flat(image: Array | LargeImage) -> bool:
    """Return whether every channel of an image (C, H, W) is constant or empty; NaN and infinities do not count."""
    if isinstance(image, LargeImage):
        extent = image.gather(Extremes())[0]
        return bool(((extent.finite == 0) | (extent.low == extent.high)).all())
    return all(not values.size or bool(values.min() == values.max()) for values in map(_finite, image))


def _finite(channel: Array) -> Array:
    return channel[np.isfinite(channel)] if channel.dtype.kind == "f" else channel


def saturated(image: Array | LargeImage) -> Array:
    """Return the share (C,) of pixels of an image (C, H, W) at the top of the camera's range.

    The top is the largest number of an integer type. Cameras of 10, 12 or 14 bits fill 16-bit files to 1023, 4095 or
    16383: if a channel's own maximum is one of these (or 65535, in floats), the pixels there are counted. A single
    pixel that has such a value by chance counts only as itself.
    """
    tops: tuple[int, ...] = (255,) if image.dtype == np.uint8 else CAMERA_TOPS
    if isinstance(image, LargeImage):
        extent = image.gather(Extremes())[0]
        return np.where(np.isin(extent.high, tops), extent.at_high / extent.finite.clip(1), 0.0)
    shares = np.zeros(len(image))
    for c, channel in enumerate(map(_finite, image)):
        if channel.size and (top := channel.max()) in tops:
            shares[c] = np.count_nonzero(channel == top) / channel.size
    return shares


def threads(n_jobs: int) -> int:
    """Return the number of threads that `n_jobs` means; -1 is one for each core.

    Raises:
        ConfigError: if it is neither -1 nor a positive number.
    """
    if n_jobs < 1 and n_jobs != -1:
        raise ConfigError(f"n_jobs must be a positive number of threads, or -1 for all cores, not {n_jobs}.")
    return int(cpu_count()) if n_jobs == -1 else n_jobs  # of those that this process may use
