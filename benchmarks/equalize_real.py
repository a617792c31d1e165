"""The real sets of `equalize.py`: blood cells of three labs, one screen on two plates, tissue of several hospitals.

Their ground truth is unknown. They are judged by how well a classifier transfers from one batch to another, by how well
the batch can still be predicted, and by the masks.
"""

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
from img2img.lab.judgement.features import image_features
from img2img.lab.judgement.probes import batch_predictability

SIDE = 120  # pixels: the labs' cells have 120 and 300


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
    outputs = {name: method(images, batch, statistics) for name, method in applicable(statistics).items()}
    return outputs | {name: e.transform(images, batch=batch) for name, e in equalizers.items()}


def run_wbc(data: Path, seed: int, models: list[str]) -> dict[str, dict]:
    """Run wbc-3labs: equalize all images without labels (there is one set per lab, and there are no controls)."""
    table = pd.read_csv(data / "wbc-3labs" / "labels.csv")
    table = table[table.cell_class != "basophil"].reset_index(drop=True)  # almost absent
    folder = data / "wbc-3labs"

    def opened(name, mode, how):
        return np.asarray(Image.open(folder / name).convert(mode).resize((SIDE, SIDE), how))

    images = [opened(name, "RGB", Image.Resampling.BICUBIC).transpose(2, 0, 1) for name in table.file]
    lab, label = table.lab.tolist(), table.cell_class.to_numpy()
    masks = [None if pd.isna(m) else opened(m, "L", Image.Resampling.NEAREST) > 192 for m in table["mask"]]
    equalizers = {
        model: BatchEqualizer(model, random_state=seed).fit(images, batch=lab)
        for model in models
        if "field" not in model
    }
    scale = next(iter(equalizers.values())).scale_
    rows = {}
    for name, out in outputs_of(equalizers, images, lab).items():
        features = np.stack([image_features(image, scale) for image in out])
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
            scaled = zscore_features(features, lab, features, lab)
            rows["feature z-score per batch"] = row_of(scaled, lab, label, seed)
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
    """Run rnai-2plates: fit on the negative controls of the upper half of the wells' tiles, judge on the other half."""
    folder = data / "rnai-2plates"
    table = pd.read_csv(folder / "tiles.csv")
    images = [read_image(folder / "tiles" / Path(name).name).array.transpose(2, 0, 1) for name in table.file]
    upper = (table.y < table.y.median()).to_numpy()
    control = (table.sirna_target == "RLUC").to_numpy()
    plate = table.plate.to_numpy()
    fit, test = np.flatnonzero(upper), np.flatnonzero(~upper)
    equalizers = {
        model: BatchEqualizer(model, target="PK-10B-pl1", random_state=seed).fit(
            [images[i] for i in fit], batch=plate[fit], control=control[fit]
        )
        for model in models
    }
    some = [images[i] for i in test]
    judged = models[0]
    judgement = evaluate(
        outputs_of(equalizers, some, plate[test].tolist()),
        Case(
            some, batch=plate[test].tolist(), reference="PK-10B-pl1", scale=equalizers[judged].scale_,
            control=control[test], label=table.sirna_target.to_numpy()[test].tolist(), seed=seed,
            group=[f"{w} {x} {y}" for w, x, y in zip(table.well[test], table.x[test], table.y[test], strict=True)],
        ),
        judged=judged,
        sham=equalizers[judged].sham_,
    )  # fmt: skip
    return {name: row | {"passed": judgement.passed(name)} for name, row in judgement.rows.items()}


def run_monuseg(data: Path, seed: int, models: list[str]) -> dict[str, dict]:
    """Run monuseg-labs: six hospitals with nine tiles per source image; fit on five tiles of each, judge on four.

    Hospital and patient coincide here, and tiles of one source are in both fit and test: only the stain is judged.
    """
    folder = data / "monuseg-labs"
    table = pd.read_csv(folder / "tiles.csv")
    many = table.groupby("source_image").image.transform("size") == 9
    table = table[many].reset_index(drop=True)
    place = table.groupby("source_image").cumcount().to_numpy()
    images = [
        np.asarray(Image.open(folder / "images" / Path(n).name).convert("RGB")).transpose(2, 0, 1) for n in table.image
    ]
    masks = [np.asarray(Image.open(folder / "masks" / Path(n).name).convert("L")) > 0 for n in table["mask"]]
    lab = table.lab_tss.to_numpy()
    fit, test = np.flatnonzero(place % 2 == 0), np.flatnonzero(place % 2 == 1)
    equalizers = {
        model: BatchEqualizer(model, min_images=5, random_state=seed).fit([images[i] for i in fit], batch=lab[fit])
        for model in models
        if "field" not in model
    }
    some, of = [images[i] for i in test], lab[test].tolist()
    scale = next(iter(equalizers.values())).scale_
    rows = {}
    for name, out in outputs_of(equalizers, some, of).items():
        features = np.stack([image_features(image, scale) for image in out])
        dice = [
            objects.compare(masks[i].astype(int), (objects.segment(image[0], dark=True) > 0).astype(int))["dice"]
            for i, image in zip(test, out, strict=True)
        ]
        groups = [f"{s} {p}" for s, p in zip(table.source_image[test], place[test], strict=True)]
        probed = batch_predictability(features, of, groups, seed=seed)
        rows[name] = {"nucleus Dice": float(np.mean(dice)), "hospital told": probed["linear"]}
    return rows


REAL = {"wbc": run_wbc, "rnai": run_rnai, "monuseg": run_monuseg}
