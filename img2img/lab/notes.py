"""Notes for the user of an equalizer, about the data or the choice of a model; they are also given as warnings."""

import sys
import warnings


class LabWarning(UserWarning):
    """A property of the data, or a consequence of the chosen model, that a lab should know."""


class Notes(list[str]):
    """A list of sentences; a call adds one and warns of it, at the line of the caller outside this package."""

    def __call__(self, sentence: str) -> None:
        self.append(sentence)
        level, frame = 1, sys._getframe()
        while frame.f_back and frame.f_globals.get("__name__", "").startswith("img2img."):
            level, frame = level + 1, frame.f_back
        warnings.warn(sentence, LabWarning, stacklevel=level)
