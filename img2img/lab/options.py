"""The types of the equalizer's arguments, with their limits; imports nothing heavy, so that help is quick."""

from typing import Annotated

from img2img.options.declared import Choice, Within

ORDER = "NCYX"

Model = Annotated[str, Choice(table="img2img.lab.moving.MODELS")]
Unseen = Annotated[str, Choice(("error", "passthrough"))]
Device = Annotated[str, Choice(("auto", "cpu", "cuda", "mps"), complete=False)]
MaxChange = Annotated[float, Within(0, 1, above=True)]
MinImages = Annotated[int, Within(2, 10**6)]
MaxImages = Annotated[int, Within(2, 10**9)]
Seed = Annotated[int, Within(0, 2**32 - 1)]
Jobs = Annotated[int, Within(1, 1024, special=(-1, "one for each core"))]
