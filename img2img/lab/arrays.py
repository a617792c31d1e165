"""Arrays of the caller as images (C, H, W), and results back in the caller's kind and order.

**Axes are declared**, never guessed: one letter for each axis, N images, C channels, Y rows, X columns; without C the
images have one channel. The dims of an xarray replace the declaration.

**Types.** uint8, uint16, float32, and float64, which is treated like float32. Other types are refused, because their
values would have to be scaled or clipped.

A dask array is read lazily, and `Stack.map` gives a dask array that has not been computed yet. Other arrays that are
read by indexing, such as those of zarr and h5py, are read one image at a time, and results are arrays of numpy.
"""

import importlib
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from img2img.data.picture import Array
from img2img.errors import InputError, InputTypeError
from img2img.lab.checks import check_letters, check_names, check_shape, check_type
from img2img.lab.options import ORDER

Function = Callable[[int, Array], Array]


class IndexedArray:
    """An array (n, C, H, W) whose values are read by indexing, one image (C, H, W) at a time.

    Args:
        array: anything with shape, dtype and indexing by slices, such as an array of zarr or a data set of h5py.
        axes: its axes, as in `unpack`.
    """

    def __init__(self, array: Any, axes: str) -> None:
        self.array, self.axes, self.dtype = array, axes, np.dtype(array.dtype)
        lengths = dict(zip(axes, array.shape, strict=True))
        self.shape = tuple(int(lengths.get(letter, 1)) for letter in ORDER)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, i: int) -> Array:
        image = np.asarray(self.array[tuple(i if letter == "N" else slice(None) for letter in self.axes)])
        letters = self.axes.replace("N", "")
        present = [letters.index(letter) for letter in "CYX" if letter in letters]
        return image.transpose(present).reshape(self.shape[1:])


@dataclass(frozen=True)
class Stack(Sequence[Array]):
    """A sequence of images (C, H, W), whatever kind of array the caller gave.

    Attributes:
        parts: arrays (n, C, H, W), of numpy, dask or `IndexedArray`: the array that was given, or one with n = 1 for
            each of a list.
        names: names of the channels, if they are known.
        what: the caller's name for the images, for errors.
        back: converts parts back to the kind that was given.
    """

    parts: tuple[Any, ...]
    names: list[str] | None
    what: str
    back: Callable[[list[Any]], Any]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: Any) -> Any:
        """Return image `index`, as a view if possible; a dask array computes only what this image needs."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.what} has {len(self)} images, so there is no image {index}.")
        part, i = divmod(index % len(self), len(self.parts[0]))
        return _native(self.parts[part][i])

    def __iter__(self) -> Iterator[Array]:
        """Iterate over the images in order; a dask array is computed chunk by chunk, each chunk once."""
        for part in self.parts:
            if is_instance(part, "dask.array", "Array"):
                for i in range(part.numblocks[0]):
                    yield from _native(part.blocks[i])
            else:
                yield from (_native(part[i]) for i in range(len(part)))

    @property
    def channels(self) -> int:
        return int(self.parts[0].shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the images, in native byte order."""
        dtype: np.dtype[Any] = np.dtype(self.parts[0].dtype).newbyteorder("=")
        return dtype

    def called(self, i: int) -> str:
        """Return what errors call image `i`."""
        return f"Image {i} of {self.what}"

    @property
    def lazy(self) -> bool:
        """Tell whether the images are computed only on demand."""
        return any(is_instance(part, "dask.array", "Array") for part in self.parts)

    def pack(self, results: Sequence[Array]) -> Any:
        """Convert one result (C, H, W) for each image to the kind and axes that were given, with the results' dtype."""
        if len(results) != len(self):
            raise InputError(
                f"{self.what} has {len(self)} images, but there are {len(results)} results; give one for each image."
            )
        if len(self.parts) == 1:
            return self.back([np.stack(list(results))])
        return self.back([result[None] for result in results])

    def map(self, function: Function, dtype: Any) -> Any:
        """Apply `function(i, image)` to each image (C, H, W); return the kind that was given. A dask array stays lazy.

        The function returns an image of the same shape and of type `dtype`.
        """
        if not self.lazy:
            return self.pack([function(i, image) for i, image in enumerate(self)])
        starts = np.cumsum([0, *map(len, self.parts)])
        return self.back(
            [_mapped(part, function, int(start), dtype) for part, start in zip(self.parts, starts, strict=False)]
        )


def _mapped(part: Any, function: Function, start: int, dtype: Any) -> Any:
    dask = importlib.import_module("dask.array")

    def one(block: Array, block_id: tuple[int, ...]) -> Array:
        return function(start + block_id[0], _native(block[0]))[None]

    chunks = dask.asarray(part).rechunk({0: 1, 1: -1, 2: -1, 3: -1})
    name = f"map-{uuid.uuid4().hex}"  # otherwise dask would hash everything the function refers to
    return chunks.map_blocks(one, dtype=dtype, meta=np.empty((0, 0, 0, 0), dtype), name=name)


def unpack(X: Any, axes: str = ORDER, channels: Sequence[str] | None = None, what: str = "X") -> Stack:
    """Return the caller's arrays as a sequence of images (C, H, W).

    Args:
        X: an array with the axes `axes`, of numpy, torch, dask, or anything with shape, dtype and indexing; an
            xarray.DataArray with the dims N, C, Y, X in any order and case; or a list or tuple of arrays without the
            axis N, whose sizes may differ.
        axes: N, Y, X, and C if there is more than one channel, in the order of the array's axes.
        channels: names of the channels; by default the strings of an xarray's coordinate C.
        what: the caller's name for X, for errors.

    Raises:
        InputError: if axes, shapes or channels do not match, or there is no image.
        InputTypeError: if X is of another kind, or holds values of another type.
    """
    check_letters(axes)
    kind = next((kind for kind in (list, tuple) if isinstance(X, kind)), None)
    if kind and not X:
        raise InputError(f"{what} holds no image; give at least one.")
    listed = axes.replace("N", "")
    opened = [_open(x, listed, f"{what}[{i}]") for i, x in enumerate(X)] if kind else [_open(X, axes, what)]
    parts, names, backs = zip(*opened, strict=True)

    def pack(results: Sequence[Any]) -> Any:
        packed = [back(result) for back, result in zip(backs, results, strict=True)]
        return kind(packed) if kind else packed[0]

    stack = Stack(parts, _names(channels, names[0], what), what, pack)
    _check_alike(stack, names)
    if not len(stack):
        raise InputError(f"{what} holds no image: its shape is {tuple(X.shape)}; give at least one.")
    if stack.names is not None:
        check_names(stack.names, stack.channels, what)
    return stack


Unpacked = tuple[Any, list[str] | None, Callable[[Any], Any]]


def _open(X: Any, axes: str, what: str) -> Unpacked:
    """Return one array as (n, C, H, W), the names of its channels, and a function that converts such an array back."""
    if is_instance(X, "xarray", "DataArray"):
        letters = _dims(X, axes, what)
        part, _, inner = _open(X.data, letters, what)
        return part, _coordinate(X), lambda result: X.copy(data=inner(result))
    if is_instance(X, "torch", "Tensor"):
        check_type(str(X.dtype).removeprefix("torch."), what)
        torch, device = sys.modules["torch"], X.device
        part, _, inner = _open(X.detach().cpu().numpy(), axes, what)
        return part, None, lambda result: torch.from_numpy(np.ascontiguousarray(inner(result))).to(device)
    if isinstance(X, np.ma.MaskedArray):
        raise InputTypeError(f"{what} is a masked array, whose mask would be lost; use {what}.filled(value).")
    in_memory = isinstance(X, np.ndarray) or is_instance(X, "dask.array", "Array")
    if not in_memory and not _is_indexed(X):
        raise InputTypeError(
            f"{what} is a {type(X).__name__}; give an array, a list of arrays, a torch tensor, an xarray.DataArray or "
            f"a dask array, e.g. numpy.asarray({what})."
        )
    check_type(np.dtype(X.dtype).name, what)
    check_shape(X.shape, axes, what)
    present = [letter for letter in ORDER if letter in axes]
    if in_memory:
        part = X.transpose([axes.index(letter) for letter in present])
        part = part[tuple(slice(None) if letter in axes else None for letter in ORDER)]
    else:
        part = IndexedArray(X, axes)
    inverse = [present.index(letter) for letter in axes]

    def back(result: Any) -> Any:
        if "C" not in axes and result.shape[1] != 1:
            raise InputError(f"{what} has no axis C, but a result has {result.shape[1]} channels; give one channel.")
        return result[tuple(slice(None) if letter in axes else 0 for letter in ORDER)].transpose(inverse)

    return part, None, back


def _is_indexed(X: Any) -> bool:
    """Return whether X has a shape, values of a type of numpy, and indexing, and is no table."""
    if not all(hasattr(X, name) for name in ("shape", "dtype", "__getitem__")) or hasattr(X, "to_numpy"):
        return False
    try:
        return np.dtype(X.dtype).kind != "O" and not np.isscalar(X)
    except TypeError:  # a type of another library
        return False


def is_instance(X: Any, module: str, name: str) -> bool:
    """Return whether X is an instance of a class, without importing its module."""
    found = sys.modules.get(module)
    return found is not None and hasattr(found, name) and isinstance(X, getattr(found, name))


def _native(array: Any) -> Array:
    native: Array = np.asarray(array)
    return native.astype(native.dtype.newbyteorder("="), copy=False)


def _dims(X: Any, axes: str, what: str) -> str:
    """Return the letters of an xarray's dims."""
    wanted = "NCYX" if "N" in axes else "CYX"
    letters = [str(dim).upper() for dim in X.dims]
    if sorted(letters) not in (sorted(wanted), sorted(wanted.replace("C", ""))):
        raise InputError(
            f"{what} has the dims {', '.join(map(str, X.dims))}; name them {', '.join(wanted)}, "
            f"e.g. {what}.rename({X.dims[0] if X.dims else 'old'}='{wanted[0]}')."
        )
    return "".join(letters)


def _coordinate(X: Any) -> list[str] | None:
    """Return an xarray's names of its channels, if they are strings."""
    for dim in X.dims:
        if str(dim).upper() == "C" and dim in X.coords:
            names = X.coords[dim].values.tolist()
            return names if all(isinstance(name, str) for name in names) else None
    return None


def _names(given: Sequence[str] | None, found: list[str] | None, what: str) -> list[str] | None:
    if given is None:
        return found
    names = [given] if isinstance(given, str) else [str(name) for name in given]
    if found is not None and found != names:
        raise InputError(
            f"{what} has the coordinate C of {', '.join(found)}, but channels= is {', '.join(names)}; "
            "leave channels= out, or correct it."
        )
    return names


def _check_alike(stack: Stack, names: Sequence[list[str] | None]) -> None:
    first = stack.parts[0]
    for i, part in enumerate(stack.parts):
        if part.shape[1] != first.shape[1]:
            raise InputError(
                f"{stack.called(i)} has {part.shape[1]} channels, but image 0 has {first.shape[1]}; "
                "give every image the same channels in the same order."
            )
        if np.dtype(part.dtype).name != np.dtype(first.dtype).name:
            raise InputTypeError(
                f"{stack.called(i)} holds {part.dtype} values, but image 0 holds {first.dtype}; "
                "give all images as they came from the camera."
            )
        if names[i] != names[0]:
            raise InputError(f"{stack.called(i)} has the channels {names[i]}, but image 0 has {names[0]}.")
