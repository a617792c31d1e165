"""What a lab does where features are enough: a z-score of the features of each batch, in place of new images.

There are no images to look at, so only the probes apply.
"""

from collections.abc import Sequence

import numpy as np

from img2img.data.picture import Array
from img2img.lab.judgement import objects
from img2img.lab.judgement.baselines import zscore_features
from img2img.lab.judgement.case import Case, both_features, measure_features
from img2img.lab.judgement.scores import COLUMNS, Scores

FOLDS = 5  # of groups, each normalised by the others
FEWEST = 4  # images of a batch that this takes


def measure_normalised_features(
    case: Case, images: Sequence[Array], batch: Sequence[str], masks: Sequence[Array] | None = None
) -> Scores:
    """Return the scores of the input's features, normalised by those of the fit set (`images`, `batch`, `masks`).

    There are no images to look at, so only the probes apply.
    """
    labels = [objects.segment(image[case.nuclei], case.dark) for image in images] if masks is None else masks
    pairs = case.features, both_features(images, labels, case.scale)
    moved = [zscore_features(here, list(case.batch), there, batch) for here, there in zip(*pairs, strict=True)]
    return dict.fromkeys(COLUMNS) | measure_features(case, *moved)


def measure_zscored_features(case: Case) -> Scores | None:
    """Return the scores of the input's features after a z-score per batch by its controls, or all images without any.

    No image is normalised by its own group, or its batch could not be predicted by construction. None if a batch has
    too few controls.
    """
    groups = np.unique(case.group, return_inverse=True)[1] % FOLDS
    pair = case.features
    moved = [np.zeros(features.shape) for features in pair]
    for fold in np.unique(groups):
        rows, others = groups == fold, (groups != fold) & case.controls
        for name in np.unique(case.batch[rows]):
            if np.count_nonzero(others & (case.batch == name)) < FEWEST:
                what = "images" if case.control is None else "controls"
                remark = (
                    f"Features were not normalised: batch {name} has fewer than {FEWEST} {what} of other groups here."
                )
                case.problems[remark] = None
                return None
        for features, out in zip(pair, moved, strict=True):
            out[rows] = zscore_features(
                features[rows], case.batch[rows].tolist(), features[others], case.batch[others].tolist()
            )
    return dict.fromkeys(COLUMNS) | measure_features(case, *moved)
