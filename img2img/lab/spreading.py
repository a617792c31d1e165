"""The rows of a table by Ray: they go to workers, which hold the equalizer, and notes on them come back."""

import copy
import pickle
import platform
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from img2img.bulk.begun import Begun
from img2img.bulk.cluster import connected
from img2img.bulk.options import RayOptions
from img2img.bulk.workers import PIECES, gpus_of, spread
from img2img.data.outbox import remove_half_done
from img2img.errors import ConfigError, quote
from img2img.lab.tables.listing import Row
from img2img.lab.tables.results import Engine, Notes, Rows, failed
from img2img.model.record import RECORD, refuse_taken, unseen
from img2img.runtime.files import json_object, remove_stale


class Table:
    """The rows of a table as a worker has them: a piece is a row, with all that is known of it.

    Args:
        rows: the rows, whose function is an `Equalizing`.
        threads: that work on rows in each worker.
    """

    most = PIECES

    def __init__(self, rows: Rows, threads: int) -> None:
        function: Any = rows.function
        self.rows, self.threads, self.notes = _without_rows(rows), threads, list[str]()
        self.rows.threads = threads  # for the blocks of a row, too
        self.record = json_object((rows.destination.folder / RECORD).read_bytes())
        self.device = "cpu" if function.fitted.generator is None else str(function.p.device)
        self.way = None if function.fitted.generator is None else _way(self.device)

    def join(self, begun: Begun) -> None:
        with self.rows.destination.opened():
            self._join(begun)

    def _join(self, begun: Begun) -> None:
        folder = self.rows.destination.folder
        if not (folder / RECORD).exists():
            raise unseen(quote(folder))
        refuse_taken(folder, self.record)
        if self.way is not None:
            import torch

            torch.set_num_threads(int(self.way["threads"]))
            if (here := _way(self.device)) != self.way:
                changes = [f"{name} was {was}, now {here[name]}" for name, was in self.way.items() if was != here[name]]
                raise ConfigError(
                    f"A worker on {quote(platform.node())} would compute differently than the process that gave the "
                    f"job: {'; '.join(changes)}. Start the job on a machine like the workers."
                )
        self.rows.manifest.agreement.settle = begun.first

    def do(self, pieces: dict[int, bytes]) -> Iterator[tuple[int, Row]]:
        with self.rows.destination.opened(), ThreadPoolExecutor(self.threads) as pool:
            yield from zip(pieces, pool.map(self._make, pieces, pieces.values()), strict=True)

    def _make(self, i: int, piece: bytes) -> Row:
        manifest, targets = self.rows.manifest, self.rows.destination.targets
        manifest.files[i], names, manifest.batch[i], manifest.group[i], note = pickle.loads(piece)
        targets[i] = tuple(self.rows.destination.folder / name for name in names)
        try:
            return self.rows.make(i, note)
        finally:
            for known in (manifest.files, targets, manifest.batch, manifest.group):
                del known[i]

    def tidy(self, piece: bytes) -> None:
        remove_half_done()
        for folder in {(self.rows.destination.folder / name).parent for name in pickle.loads(piece)[1]}:
            remove_stale(folder)

    def given_up(self, piece: bytes, reason: str) -> Row:
        return failed(pickle.loads(piece)[0], reason)


def _way(device: str) -> dict[str, Any]:
    """Return what the rounding of networks depends on."""
    import torch

    from img2img.runtime.device import SOFTWARE, machine, pick_device

    chosen = pick_device(device)
    facts = {"type": chosen.type, "threads": torch.get_num_threads(), "software": SOFTWARE}
    return machine(chosen) | facts


def _without_rows(rows: Rows) -> Rows:
    """Return a copy that knows what all rows have in common; by their numbers, rows are added to it."""
    other, manifest, destination = copy.copy(rows), copy.copy(rows.manifest), copy.copy(rows.destination)
    function: Any = rows.function
    empty: dict[str, Any] = {"files": {}, "batch": {}, "group": {}}
    empty |= {"frame": None, "originals": [], "control": None, "label": None, "places": None}
    vars(manifest).update(empty)
    vars(destination).update(manifest=manifest, targets={})
    other.manifest, other.destination, other.function = manifest, destination, replace(function, manifest=manifest)
    return other


@contextmanager
def by_ray(options: RayOptions) -> Iterator[Engine]:
    """Yield an engine that lets Ray work on the rows of a table.

    Raises:
        ConfigError: if Ray is not installed, or the cluster does not answer.
    """
    with connected(options) as ray:
        yield partial(_work, ray, options)


def _work(ray: Any, options: RayOptions, rows: Rows, notes: Notes) -> Generator[int, None, None]:
    manifest, table = rows.manifest, Table(rows, options.ray_cpus)
    names = ([rows.destination.name(path) for path in row] for row in rows.destination.targets)
    known = zip(manifest.files, names, manifest.batch, manifest.group, strict=True)
    pieces = (pickle.dumps((*row, notes.get(i, {}))) for i, row in enumerate(known))
    gpus = gpus_of(table.way["type"] if table.way else "cpu", table.device, options)
    for done, (i, note) in enumerate(spread(ray, table, pieces, options, gpus, manifest.notes), start=1):
        notes[i] = note
        yield done
