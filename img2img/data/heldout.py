"""The images that are held out of a domain: never trained on."""

import numpy as np

from img2img.data.domain import Domain
from img2img.data.patches import Patch
from img2img.data.picture import Header
from img2img.errors import ConfigError


def hold_out(domain: Domain, fraction: float) -> tuple[Domain, Domain]:
    """Divide a domain into training and held-out images, spread over the sorted names.

    Domains of equal length, such as pairs, are divided alike. Squares of one image stay together.

    Raises:
        ConfigError: if too few are left.
    """
    if any(isinstance(source, Patch) for source in domain.sources):
        return _hold_out_files(domain, fraction)
    n = len(domain)
    count = round(n * fraction)
    if not 0 < count < n - 1:
        raise ConfigError(f"--val-fraction {fraction} of the {n} images of domain {domain.title} leaves too few.")
    order = np.random.default_rng(0).permutation(n)
    return domain.select(sorted(order[count:])), domain.select(sorted(order[:count]))


def _hold_out_files(domain: Domain, fraction: float) -> tuple[Domain, Domain]:
    """Divide a domain of squares by the images that they were cut from, so that none is in both parts."""
    files = {source.path: i for i, source in enumerate(domain.sources) if isinstance(source, Header)}
    count = round(len(files) * fraction)
    if not 0 < count < len(files):
        raise ConfigError(
            f"--val-fraction {fraction} of the {len(files)} images of domain {domain.title}, which are held out whole, "
            "leaves too few."
        )
    chosen = np.random.default_rng(0).permutation(len(files))[:count]
    held = {list(files)[i] for i in chosen}
    parts: dict[bool, list[int]] = {False: [], True: []}
    for i, source in enumerate(domain.sources):
        parts[isinstance(source, Header) and source.path in held].append(i)
    return domain.select(parts[False]), domain.select(parts[True])
