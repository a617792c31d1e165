"""Probes: can the batch be predicted from the images, and does a classifier of phenotypes carry over to other batches?

A probe is trained and tested on different groups (source fields, wells), so that it cannot recognise cells it has seen.
The probes belong to other families than any discriminator used in training: linear, nearest neighbours, trees.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from img2img.data.picture import Array
from img2img.errors import InputError

FOLDS = 5
PERMUTATIONS = 20
RESAMPLES = 1000
TREES = 50
NEIGHBOURS = 5


def balanced_accuracy(truth: Array, predicted: Array) -> float:
    """Return the mean recall over the classes in `truth`."""
    return float(np.mean([(predicted[truth == name] == name).mean() for name in np.unique(truth)]))


@threadpool_limits.wrap(limits=1)  # type: ignore[untyped-decorator]  # on matrices this small more threads only wait
def batch_predictability(
    features: Array, batch: Sequence[str] | Array, group: Sequence[str] | Array, seed: int = 0
) -> dict[str, float]:
    """Measure how well two probes predict the batch from the features, on groups that they have not seen.

    The null permutes the batches and repeats the linear probe 20 times: within groups if each has images of all
    batches, between whole groups if each lies in one batch, and freely otherwise. The 95 % intervals resample whole
    groups.

    Args:
        features: (n, f).
        batch: the batch of each of the n images.
        group: the group of each image; images of a group are never in both training and test.
        seed: of everything random.

    Returns:
        Balanced accuracies: `linear` and `forest`, each with `_low` and `_high`; `null` and its 95 % quantile
        `null_high`; `chance`.

    Raises:
        InputError: if there are fewer than 2 batches, or a batch of fewer than 2 groups.
    """
    truth, groups = np.asarray(batch), np.asarray(group)
    fewest = _fewest_groups(truth, groups, "batch")
    rng = np.random.default_rng(seed)
    splitter = StratifiedGroupKFold(min(FOLDS, fewest), shuffle=True, random_state=seed)
    folds = [Fold.of(features, *rows) for rows in splitter.split(features, truth, groups)]
    linear = _predict(_linear(), truth, folds)
    forest = _predict(RandomForestClassifier(TREES, random_state=seed), truth, folds)
    null = []
    for _ in range(PERMUTATIONS):
        permuted = _permuted(truth, groups, rng)
        null.append(balanced_accuracy(permuted, _predict(_linear(), permuted, folds)))
    result = {"chance": 1 / len(np.unique(truth)), "null": float(np.mean(null))}
    result["null_high"] = float(np.quantile(null, 0.95))
    for name, predicted in (("linear", linear), ("forest", forest)):
        low, high = _interval(truth, predicted, groups, rng)
        result |= {name: balanced_accuracy(truth, predicted), f"{name}_low": low, f"{name}_high": high}
    return result


@threadpool_limits.wrap(limits=1)  # type: ignore[untyped-decorator]
def phenotype_accuracy(
    features: Array,
    label: Sequence[str] | Array,
    batch: Sequence[str] | Array,
    reference: str,
    group: Sequence[str] | Array,
    seed: int = 0,
) -> dict[str, float]:
    """Measure how well a classifier of phenotypes trained on the reference batch works on the others.

    Folds split the groups of the reference batch: a classifier never predicts images of a group it has seen, not even
    in the reference batch. Images of groups that the reference batch lacks are spread over the folds; images with
    labels that it lacks are left out.

    Args:
        features: (n, f).
        label: the phenotype of each of the n images.
        batch: the batch of each image.
        reference: the batch to train on.
        group: the group of each image.
        seed: of everything random.

    Returns:
        Balanced accuracies on the images of the other batches: `knn`, `linear`, their mean `accuracy` with its 95 %
        interval over groups, `low` and `high`, and `chance`.

    Raises:
        InputError: if the reference batch has fewer than 2 labels, or fewer than 2 groups of a label; or if no other
            image has one of its labels.
    """
    labels, batches, groups = np.asarray(label), np.asarray(batch), np.asarray(group)
    in_reference = batches == reference
    fewest = _fewest_groups(labels[in_reference], groups[in_reference], "label of the reference batch")
    known = np.isin(labels, labels[in_reference])
    tested = known & ~in_reference
    if not tested.any():
        raise InputError(f"No image outside batch '{reference}' has one of its labels, so there is nothing to test on.")
    folds = []
    rows, all_groups = np.flatnonzero(in_reference), np.unique(groups)
    splitter = StratifiedGroupKFold(min(FOLDS, fewest), shuffle=True, random_state=seed)
    splits = list(splitter.split(rows, labels[rows], groups[rows]))
    spread = np.searchsorted(all_groups, groups) % len(splits)  # for groups that the reference batch lacks
    for number, (train, test) in enumerate(splits):
        in_fold = np.isin(groups, groups[rows[test]]) | (~np.isin(groups, groups[rows]) & (spread == number))
        training, testing = rows[train], np.flatnonzero(tested & in_fold)
        folds.append(Fold.of(features, training, testing))
    neighbours = KNeighborsClassifier(min(NEIGHBOURS, *(len(fold.train) for fold in folds)))
    predictions = {"knn": _predict(neighbours, labels, folds), "linear": _predict(_linear(), labels, folds)}
    truth = labels[tested]
    rng = np.random.default_rng(seed)
    low, high = np.mean([_interval(truth, g[tested], groups[tested], rng) for g in predictions.values()], axis=0)
    result = {name: balanced_accuracy(truth, predicted[tested]) for name, predicted in predictions.items()}
    result["accuracy"] = (result["knn"] + result["linear"]) / 2
    return result | {"low": float(low), "high": float(high), "chance": 1 / len(np.unique(labels[in_reference]))}


def cramers_v(batch: Sequence[str] | Array, label: Sequence[str] | Array) -> float:
    """Return the association of batch and label: 0 for none, 1 if one determines the other. Bias-corrected (Bergsma
    2013), so that a balanced design of few images is about 0; 0 if either has a single value.
    """
    (rows, a), (columns, b) = (np.unique(np.asarray(x), return_inverse=True) for x in (batch, label))
    r, c, n = len(rows), len(columns), len(a)
    if min(r, c, n - 1) < 2:
        return 0.0
    counts = np.bincount(a * c + b, minlength=r * c).reshape(r, c)
    expected = np.outer(counts.sum(1), counts.sum(0)) / n
    excess = ((counts - expected) ** 2 / expected).sum() / n - (r - 1) * (c - 1) / (n - 1)
    least = min(k - (k - 1) ** 2 / (n - 1) for k in (r, c)) - 1
    return float(np.sqrt(max(excess, 0) / least))


def _fewest_groups(names: Array, groups: Array, what: str) -> int:
    """Return the smallest number of groups that any name has."""
    counts = {str(name): len(np.unique(groups[names == name])) for name in np.unique(names)}
    if len(counts) < 2:
        raise InputError(f"There are {len(counts)} values of {what}; a probe needs at least 2.")
    poor = [name for name, count in counts.items() if count < 2]
    if poor:
        raise InputError(
            f"Fewer than 2 groups for {what} {', '.join(poor)}, so nothing is left to test on; give more images, or "
            "finer groups."
        )
    return min(counts.values())


class Fold(NamedTuple):
    """Rows to train and to test on, and the features of both, standardised by those of training."""

    train: Array
    test: Array
    train_features: Array
    test_features: Array

    @classmethod
    def of(cls, features: Array, train: Array, test: Array) -> Self:
        mean, sd = features[train].mean(0), features[train].std(0)
        sd = np.where(sd > 1e-9 * (1 + np.abs(mean)), sd, 1)  # a constant is left at 0
        return cls(train, test, (features[train] - mean) / sd, (features[test] - mean) / sd)


def _linear() -> Any:
    return LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000, tol=1e-2)


def _predict(model: Any, names: Array, folds: Sequence[Fold]) -> Array:
    """Predict the name of each tested image by a model that has not seen its group; the others keep their names."""
    predicted = names.copy()
    for fold in folds:
        if len(fold.test):
            known = names[fold.train]
            several = len(np.unique(known)) > 1
            predicted[fold.test] = (
                model.fit(fold.train_features, known).predict(fold.test_features) if several else known[0]
            )
    return predicted


def _permuted(names: Array, groups: Array, rng: np.random.Generator) -> Array:
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    present = {len(np.unique(names[m])) for m in members}
    result = names.copy()
    if present == {len(np.unique(names))}:
        for m in members:
            result[m] = rng.permutation(names[m])
    elif present == {1}:
        order = rng.permutation(len(members))
        for m, other in zip(members, order, strict=True):
            result[m] = names[members[other][0]]
    else:
        result = rng.permutation(names)
    return result


def _interval(truth: Array, predicted: Array, groups: Array, rng: np.random.Generator) -> tuple[float, float]:
    """Return the 95 % interval of the balanced accuracy under resampling of groups; classes not drawn do not count."""
    classes, kind = np.unique(truth, return_inverse=True)
    members, place = np.unique(groups, return_inverse=True)
    hits, images = np.zeros((2, len(members), len(classes)))
    np.add.at(images, (place, kind), 1)
    np.add.at(hits, (place, kind), truth == predicted)
    drawn = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), RESAMPLES)
    total = drawn @ images
    recall = np.divide(drawn @ hits, total, out=np.full_like(total, np.nan), where=total > 0)
    low, high = np.quantile(np.nanmean(recall, 1), (0.025, 0.975))
    return float(low), float(high)
