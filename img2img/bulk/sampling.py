"""Drawing of images by Ray: numbers of batches go to workers, which hold the model."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any, NoReturn

from img2img.bulk.options import RayOptions
from img2img.bulk.workers import PIECES, Begun, gpus_of, spread
from img2img.errors import TrainingError
from img2img.model.samples import Drawing
from img2img.runtime.files import remove_stale


class Sampling:
    """A drawing as a worker has it: pieces are numbers of batches."""

    def __init__(self, drawing: Drawing) -> None:
        self.drawing, self.most = drawing, max(1, PIECES // drawing.batch)

    @property
    def notes(self) -> list[str]:
        return self.drawing.notes

    def join(self, begun: Begun) -> None:
        self.drawing.join()

    def do(self, pieces: dict[int, bytes]) -> Iterator[tuple[int, None]]:
        for number, piece in pieces.items():
            for _ in self.drawing.draw([i for i in self.drawing.in_batch(int(piece)) if self.drawing.lacks(i)]):
                pass
            yield number, None

    def tidy(self, piece: bytes) -> None:
        remove_stale(self.drawing.out)

    def given_up(self, piece: bytes, reason: str) -> NoReturn:
        numbers = self.drawing.in_batch(int(piece))
        raise TrainingError(f"The batch of images {numbers[0]} to {numbers[-1]}: {reason}")


def draw(ray: Any, drawing: Drawing, options: RayOptions) -> Iterator[int]:
    """Draw what is missing on Ray, and yield the number of each image, in any order; raises as `spread`."""
    model, asked = drawing.model, drawing.model.asked[0]
    gpus = gpus_of(model.runtime.device.type, asked, options)
    batches = {k: list(numbers) for k, numbers in groupby(drawing.missing, lambda i: i // drawing.batch)}
    work, keys = Sampling(drawing.copy_for(asked)), list(batches)
    for number, _ in spread(ray, work, (str(k).encode() for k in keys), options, gpus, drawing.notes):
        yield from batches[keys[number]]
