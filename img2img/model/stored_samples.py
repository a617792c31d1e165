"""Images drawn from noise into a store: made in a folder of this disk and sent, with the record of what drew them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from img2img.data.outbox import fetch, publish, remove_half_done, sending, standing_for
from img2img.data.remote import Remote
from img2img.errors import ConfigError, StoreError, TrainingError
from img2img.model.options import SampleOptions
from img2img.model.record import TRIES
from img2img.model.samples import SOURCE, Drawing, is_image
from img2img.model.sampling import Sampler


class StoredDrawing(Drawing):
    """A drawing whose images go to a store; `out` is the folder of this disk that stands for it, while there is one.

    Raises:
        ConfigError: as a `Drawing`.
        StoreError: if the store cannot be read or written.
    """

    def __init__(self, model: Sampler, n: int, place: Remote, options: SampleOptions) -> None:
        self.place, self.there = place, set(place.names())
        with standing_for(place) as folder:
            for _ in range(TRIES):
                before = fetch(place, SOURCE, folder)
                super().__init__(model, n, folder, options)
                if publish(place, SOURCE, folder, before):
                    break
            else:
                raise ConfigError(f"{place.show(SOURCE)} comes and goes; end the other commands that use it.")
        self.there = set()

    def holds(self, name: str) -> bool:
        return name in self.there

    def remove_former(self) -> None:
        for name in filter(is_image, sorted(self.there)):
            self.place.remove(name)

    def tidy(self) -> None:
        remove_half_done()

    def release(self) -> None:
        self.place.remove(SOURCE)

    def join(self) -> None:
        with standing_for(self.place) as self.out:
            fetch(self.place, SOURCE, self.out)
            super().join()

    def draw(self, numbers: Sequence[int]) -> Iterator[int]:
        with standing_for(self.place) as self.out:
            drawn = ((number, self.path(number).name) for number in super().draw(numbers))
            try:
                yield from sending(self.place, self.out, drawn)
            except StoreError as error:
                raise TrainingError(f"{error} Run the same command again to draw what is missing.") from error

    def sheets(self) -> list[Path | str]:
        with standing_for(self.place) as self.out:
            names = [Path(path).name for path in super().sheets()]
            return [self.place.show(name) for name in sending(self.place, self.out, zip(names, names, strict=True))]
