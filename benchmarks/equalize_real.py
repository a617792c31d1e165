"""The real sets of `equalize.py`: blood cells of three labs, one screen on two plates.

Their ground truth is unknown. They are judged by how well a classifier transfers from one batch to another, by how well
the batch can still be predicted, and by the masks. A seed draws which half of the images is fitted; the other half is
judged. Rivals of other packages (torchstain, BaSiCPy, inmoose for ComBat) have a row where they are installed.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from img2img import BatchEqualizer
from img2img.data.images import read_image
from img2img.lab import Case, evaluate
from img2img.lab.judgement import objects
from img2img.lab.judgement.baselines import applicable, zscore_features
from img2img.lab.judgement.case import measure_features
from img2img.lab.judgement.features import image_features
from img2img.lab.judgement.probes import batch_predictability
from img2img.lab.judgement.rivals import installed
from img2img.lab.judgement.scores import COLUMNS

SIDE = 120  # pixels: the labs' cells have 120 and 300
PLATE = "PK-10B-pl1"  # the target of the screen


def classifiers(seed):
    return (
        LogisticRegression(C=0.1, max_iter=2000, class_weight="balanced"),
        RandomForestClassifier(300, min_samples_leaf=2, class_weight="balanced_subsample", random_state=seed),
        KNeighborsClassifier(7),
    )


def lab_left_out(features, lab, label, seed):
    """Return the balanced accuracy of the label on each lab, trained on all others: the mean over classifiers."""
    lab, scores = np.asarray(lab), {}
    for name in np.unique(lab):
        rest = lab != name
        guesses = [
            make_pipeline(StandardScaler(), c).fit(features[rest], label[rest]).predict(features[~rest])
            for c in classifiers(seed)
        ]
        scores[str(name)] = float(np.mean([balanced_accuracy_score(label[~rest], guess) for guess in guesses]))
    return scores


def outputs_of(equalizers, images, batch):
    statistics = next(iter(equalizers.values())).statistics_
    methods = applicable(statistics) | installed(statistics, print)
    outputs = {name: method(images, batch, statistics) for name, method in methods.items()}
    return outputs | {name: e.transform(images, batch=batch) for name, e in equalizers.items()}


def combat(features, batch, reference):
    """Return features (n, f) after ComBat (Johnson et al. 2007), without covariates; None if it is not installed."""
    if not find_spec("inmoose"):
        return None
    from inmoose.pycombat import pycombat_norm

    vary = np.all([features[np.asarray(batch) == name].std(0) > 1e-9 for name in set(batch)], 0)
    out = np.array(features, np.float64)
    out[:, vary] = np.asarray(pycombat_norm(out[:, vary].T, list(batch), ref_batch=reference)).T
    return out


def halves(strata, seed):
    """Return the indices of a random half of every stratum, and of the other halves."""
    strata, rng = np.asarray(strata), np.random.default_rng(seed)
    drawn = [rng.permutation(np.flatnonzero(strata == name)) for name in np.unique(strata)]
    first = np.sort(np.concatenate([rows[: len(rows) // 2] for rows in drawn]))
    return first, np.setdiff1d(np.arange(len(strata)), first)


def run_wbc(data: Path, seed: int, models: list[str]) -> dict[str, dict]:
    """Run wbc-3labs: equalize without labels (there is one set per lab, and there are no controls)."""
    table = pd.read_csv(data / "wbc-3labs" / "labels.csv")
    table = table[table.cell_class != "basophil"].reset_index(drop=True)  # almost absent
    folder = data / "wbc-3labs"

    def opened(name, mode, how):
        return np.asarray(Image.open(folder / name).convert(mode).resize((SIDE, SIDE), how))

    images = [opened(name, "RGB", Image.Resampling.BICUBIC).transpose(2, 0, 1) for name in table.file]
    fit, test = halves(table.lab, seed)
    equalizers = {
        model: BatchEqualizer(model, random_state=seed).fit([images[i] for i in fit], batch=table.lab[fit].tolist())
        for model in [*(model for model in models if "field" not in model), "stain"]
    }
    some, table = [images[i] for i in test], table.iloc[test]
    lab, label = table.lab.tolist(), table.cell_class.to_numpy()
    masks = [None if pd.isna(m) else opened(m, "L", Image.Resampling.NEAREST) > 192 for m in table["mask"]]
    first = next(iter(equalizers.values()))
    rows = {}
    for name, out in outputs_of(equalizers, some, lab).items():
        features = np.stack([image_features(image, first.scale_) for image in out])
        kept = [
            iou(objects.segment(image[0], dark=True) > 0, mask)
            for image, mask in zip(out, masks, strict=True)
            if mask is not None
        ]
        colour = np.stack([np.r_[image.mean((1, 2)), image.std((1, 2))] for image in out])
        rows[name] = row_of(features, lab, label, seed) | {
            "lab told by colour": lab_accuracy(colour, lab, seed),
            "nucleus IoU": float(np.mean(kept)),  # of the dark objects in red, if the nucleus is the only one
        }
        if name == "do nothing":
            rows["feature z-score per batch"] = row_of(zscore_features(features, lab, features, lab), lab, label, seed)
            if (moved := combat(features, lab, first.target_)) is not None:
                rows["feature ComBat"] = row_of(moved, lab, label, seed)
    return rows


def row_of(features, lab, label, seed):
    by_lab = lab_left_out(features, lab, label, seed)
    return (
        {"class, other lab": float(np.mean(list(by_lab.values())))}
        | by_lab
        | {"lab told": lab_accuracy(features, lab, seed)}
    )


def lab_accuracy(features, lab, seed):
    """Return how well a linear probe predicts the lab, from features or from mean and deviation of each colour."""
    return batch_predictability(features, lab, [str(i) for i in range(len(lab))], seed=seed)["linear"]


def iou(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


def run_rnai(data: Path, seed: int, models: list[str]) -> dict[str, dict]:
    """Run rnai-2plates: fit on the negative controls of half of the tiles of each well, judge on the other half."""
    folder = data / "rnai-2plates"
    table = pd.read_csv(folder / "tiles.csv")
    images = [read_image(folder / "tiles" / Path(name).name).array.transpose(2, 0, 1) for name in table.file]
    control = (table.sirna_target == "RLUC").to_numpy()
    plate = table.plate.to_numpy()
    fit, test = halves(table.plate + table.well.astype(str), seed)
    equalizers = {
        model: BatchEqualizer(model, target=PLATE, random_state=seed).fit(
            [images[i] for i in fit], batch=plate[fit], control=control[fit]
        )
        for model in models
    }
    some, of = [images[i] for i in test], plate[test].tolist()
    judged = models[0]
    case = Case(
        some, batch=of, reference=PLATE, scale=equalizers[judged].scale_,
        control=control[test], label=table.sirna_target.to_numpy()[test].tolist(), seed=seed,
        group=[f"{w} {x} {y}" for w, x, y in zip(table.well[test], table.x[test], table.y[test], strict=True)],
    )  # fmt: skip
    judgement = evaluate(outputs_of(equalizers, some, of), case, judged=judged, sham=equalizers[judged].sham_)
    rows = {name: row | {"passed": judgement.passed(name)} for name, row in judgement.rows.items()}
    moved = [combat(features, of, PLATE) for features in case.features]
    if moved[0] is not None:
        rows["feature ComBat"] = dict.fromkeys(COLUMNS) | measure_features(case, *moved) | {"passed": False}
    return rows


REAL = {"wbc": run_wbc, "rnai": run_rnai}
