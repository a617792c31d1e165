"""Drawing of images by Ray: the numbers of the images of a batch go to workers, which hold the model."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, NoReturn

from img2img.bulk.begun import Begun
from img2img.bulk.options import RayOptions
from img2img.bulk.workers import PIECES, gpus_of, spread
from img2img.errors import TrainingError
from img2img.model.samples import Drawing


class Sampling:
    """A drawing as a worker has it: pieces are the numbers of a batch, with commas."""

    def __init__(self, drawing: Drawing) -> None:
        self.drawing, self.most = drawing, max(1, PIECES // drawing.batch)

    @property
    def notes(self) -> list[str]:
        return self.drawing.notes

    def join(self, begun: Begun) -> None:
        self.drawing.join()

    def do(self, pieces: dict[int, bytes]) -> Iterator[tuple[int, None]]:
        for number, piece in pieces.items():
            for _ in self.drawing.draw(numbers_in(piece)):
                pass
            yield number, None

    def tidy(self, piece: bytes) -> None:
        self.drawing.tidy()

    def given_up(self, piece: bytes, reason: str) -> NoReturn:
        numbers = numbers_in(piece)
        raise TrainingError(f"The batch of images {numbers[0]} to {numbers[-1]}: {reason}")


def piece_of(numbers: Iterable[int]) -> bytes:
    """Return the piece of the images of these numbers."""
    return ",".join(map(str, numbers)).encode()


def numbers_in(piece: bytes) -> list[int]:
    """Return the numbers of the images in a piece."""
    return [int(number) for number in piece.split(b",")]


def draw(ray: Any, drawing: Drawing, options: RayOptions) -> Iterator[int]:
    """Draw what is missing on Ray, and yield the number of each image, in any order; raises as `spread`."""
    model, asked = drawing.model, drawing.model.asked[0]
    gpus = gpus_of(model.runtime.device.type, asked, options)
    batches = [list(numbers) for _, numbers in groupby(drawing.missing, lambda i: i // drawing.batch)]
    work = Sampling(drawing.copy_for(asked))
    for number, _ in spread(ray, work, map(piece_of, batches), options, gpus, drawing.notes):
        yield from batches[number]
