"""Features of images, kept in files: each is computed once, on any machine, and read by all.

An image is known by the SHA-256 of its values, and a network by that of its file. A file of features is named by the
SHA-256 of its content: processes write at the same time without locks, and damage is noticed.
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from img2img.errors import ConfigError, DataError, quote
from img2img.metrics.network import Extract
from img2img.runtime.device import SOFTWARE, machine
from img2img.runtime.files import atomic, json_object, remove_stale

VERSION = 1  # of the features; to be raised when networks are shown images in another way
IMAGES, VALUES, SECONDS = 1000, 2**24, 60  # a file is written when it holds so much, or after this time
LARGEST = 2**28  # bytes of a file that is read
TYPES = {"keys": "U8", "features": "F32", "logits": "F32"}  # of the tensors in a file, a row for each image
ELSEWHERE = b"\n\x08location\x12"  # in an ONNX file: the name of another, which holds weights


class _Kept(NamedTuple):
    keys: Any
    features: Any  # (N, D), read row by row
    logits: Any  # (N, classes); without columns for a network without classes
    computed: str  # on what


class FeatureCache:
    """The features and logits of a network, in a folder of its own below `folder`, which is created if needed.

    Images are computed one by one: the last digits of features depend on the batch.

    Args:
        folder: where features are kept.
        name: that of the network in the options, or the suffix of its file.
        file: that of its weights.
        extract: computes features and logits.
        device: where it does.

    Attributes:
        others: the machines whose features were read; the last digits may differ from those of this one.

    Raises:
        ConfigError: if the folder cannot be used, or `file` does not hold all weights.
        DataError: if a file in the folder is damaged.
    """

    def __init__(self, folder: Path, name: str, file: Path, extract: Extract, device: torch.device) -> None:
        self.others = set[str]()
        self._extract, self._device = extract, device
        self._identity = {"version": VERSION, "features": name, "file": _digest(file)}
        known = hashlib.sha256(json.dumps(self._identity).encode()).hexdigest()
        self._folder = folder / f"{name.removeprefix('.')}-{known[:16]}"
        self._here = ", ".join(filter(None, [*machine(device).values(), SOFTWARE]))
        self._rows: dict[bytes, tuple[_Kept, int]] = {}
        self._new: dict[bytes, tuple[Tensor, Tensor]] = {}
        self._widths: list[int] = []  # of features and logits
        self._since = 0.0
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            remove_stale(self._folder)
            paths = sorted(self._folder.glob("[!.]*.safetensors"))
        except OSError as error:
            raise ConfigError(f"--cache {quote(folder)} cannot be used: {error.strerror or error}.") from error
        for path in paths:
            self._open(path)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return features and logits of images (N, C, H, W), on the CPU; compute and keep those that are missing."""
        features, logits = (torch.stack(x) for x in zip(*map(self._find, images), strict=True))
        return features, logits if logits.shape[1] else None

    def write(self) -> None:
        """Write the features that are new.

        Raises:
            ConfigError: if they cannot be written.
        """
        if not self._new:
            return
        features, logits = (torch.stack(x) for x in zip(*self._new.values(), strict=True))
        keys = torch.tensor([list(key) for key in self._new], dtype=torch.uint8)
        header = json.dumps(self._identity | {"computed": self._here})
        content = save({"keys": keys, "features": features, "logits": logits}, metadata={"img2img": header})
        path = self._folder / f"{hashlib.sha256(content).hexdigest()}.safetensors"
        try:
            with atomic(path, durable=True) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            raise ConfigError(f"--cache: {quote(path)} cannot be written: {error.strerror or error}.") from error
        self._new = {}
        self._open(path)

    def _find(self, image: Tensor) -> tuple[Tensor, Tensor]:
        shape = f"{image.dtype} {tuple(image.shape)}".encode()
        key = hashlib.sha256(shape + image.cpu().contiguous().numpy().tobytes()).digest()
        if key in self._rows:
            kept, row = self._rows[key]
            self.others |= {kept.computed} - {self._here}
            return kept.features[row], kept.logits[row]
        return self._new[key] if key in self._new else self._compute(key, image)

    def _compute(self, key: bytes, image: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = self._extract(image[None].to(self._device))
        logits = features.new_zeros(1, 0) if logits is None else logits
        values = features[0].float().cpu(), logits[0].float().cpu()
        widths = [len(x) for x in values]
        if not all(x.isfinite().all() for x in values):
            raise DataError("The network of --features gives values that are not finite, which --cache does not keep.")
        if widths != (self._widths or widths):
            raise DataError(
                f"The network of --features gives {widths[0]} features, and the images in {quote(self._folder)} have "
                f"{self._widths[0]}; delete that folder."
            )
        if not self._new:
            self._since = time.monotonic()
        self._widths, self._new[key] = widths, values
        full = len(self._new) == IMAGES or len(self._new) * sum(widths) >= VALUES
        if full or time.monotonic() - self._since > SECONDS:
            self.write()
        return values

    def _open(self, path: Path) -> None:
        try:
            kept = self._read(path)
        except (OSError, SafetensorError):
            kept = None
        if kept is None:
            raise DataError(
                f"{quote(path)} is damaged, or does not hold features of this network; delete it, and what is missing "
                "is computed again."
            )
        for row, key in enumerate(kept.keys[:].numpy()):
            self._rows.setdefault(key.tobytes(), (kept, row))

    def _read(self, path: Path) -> _Kept | None:
        """Open a file; return None if it does not hold what it should."""
        if not path.is_file() or path.stat().st_size > LARGEST:
            return None
        if hashlib.sha256(path.read_bytes()).hexdigest() != path.stem:
            return None
        file: Any = safe_open(path, framework="pt")
        header = json_object((file.metadata() or {}).get("img2img", "").encode())
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        if {name: x.get_dtype() for name, x in parts.items()} != TYPES or not self._identity.items() <= header.items():
            return None
        shapes = [parts[name].get_shape() for name in TYPES]
        if {len(shape) for shape in shapes} != {2} or len({rows for rows, _ in shapes}) > 1:
            return None
        width, *widths = (columns for _, columns in shapes)
        if width != hashlib.sha256().digest_size or widths != (self._widths or widths):
            return None
        if not all(parts[name][:].isfinite().all() for name in TYPES):
            return None
        self._widths = widths
        computed = quote(str(header.get("computed"))[:200])
        return _Kept(parts["keys"], parts["features"], parts["logits"], computed)


def _digest(file: Path) -> str:
    """Return the SHA-256 of the file of a network.

    Raises:
        ConfigError: if it leaves weights to other files.
    """
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if file.suffix == ".onnx" and ELSEWHERE in file.read_bytes():
        raise ConfigError(
            f"{quote(file)} keeps weights in other files, so --cache cannot tell whether they change; save it as one."
        )
    return digest
