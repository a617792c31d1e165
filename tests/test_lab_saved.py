"""Equalizers saved by version 0.1.0 still open, and give the same pixels."""

from pathlib import Path

import numpy as np
from helpers import over

from img2img import BatchEqualizer

SAVED = sorted((Path(__file__).parent / "data" / "equalizers").iterdir())


@over(folder=SAVED)
def test_a_saved_equalizer_still_gives_its_pixels(folder, tmp_path):
    equalizer = BatchEqualizer.load(folder)
    images = np.load(folder / "images.npz")
    batch = ["A", "B", "B"]
    after = equalizer.transform(images["before"], batch=batch)
    assert after.dtype == images["after"].dtype and np.array_equal(after[0], images["before"][0])
    # Another processor may round a network's values the other way.
    assert np.abs(after.astype(int) - images["after"]).max() <= (0 if equalizer.generator_ is None else 1)
    equalizer.save(tmp_path)
    assert (tmp_path / "weights.safetensors").read_bytes() == (folder / "weights.safetensors").read_bytes()
    again = BatchEqualizer.load(tmp_path)
    assert again.get_params() == equalizer.get_params()
    assert again.fitted_.learned() == equalizer.fitted_.learned()


def test_what_was_saved_is_what_was_learned():
    fitted = BatchEqualizer.load(SAVED[-1]).fitted_
    assert fitted.batches == ["A", "B", "C", "D"] and fitted.target == "A" and fitted.on_controls
    assert fitted.n_images == dict.fromkeys("ABCD", 8) and fitted.cramers_v == 0
