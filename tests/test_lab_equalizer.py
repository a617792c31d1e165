"""`BatchEqualizer`: its manners, what it refuses, what it corrects, what it leaves alone, and what it keeps."""

import copy
import inspect
import json
import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import xarray as xr
from conftest import refused
from helpers import over
from scipy import ndimage
from sklearn import exceptions
from sklearn.base import clone
from sklearn.utils import estimator_checks
from sklearn.utils.validation import check_is_fitted

from img2img.errors import (
    ConfigError,
    ConfoundedDesignError,
    InputError,
    InputTypeError,
    ModelFileError,
    UnknownBatchError,
)
from img2img.lab import design, synthetic
from img2img.lab.equalizer import BatchEqualizer, LabWarning, NotFittedError
from img2img.lab.judgement import probes, quality
from img2img.lab.networks.models import MODELS
from img2img.lab.synthetic import Effect
from img2img.lab.tables.manifest import Manifest

pytestmark = pytest.mark.filterwarnings("ignore::img2img.lab.equalizer.LabWarning")

SIZE, N = 64, 8
LAMPS = {"A": Effect(), "B": Effect(gain=0.6, offset=80), "C": Effect(gain=1.4, offset=-60)}
TINY = {"steps": 2, "width": 4, "d_width": 4, "batch_size": 3, "patch": 24, "log_every": 1}
NETWORKS = {
    "local": TINY,
    "local+field": TINY,
    "stargan": TINY | {"blocks": 1, "d_layers": 3, "n_critic": 1},
    "cyclegan": TINY | {"discriminator": "patch_16", "batch_size": 1, "generator": "resnet_3"},
}


def slides(effects=LAMPS, first=0, n=N, channels=1, size=SIZE):
    """n sources under every lamp: images X (n B, C, H, W), what they would be without noise under none, and labels."""
    X, truth, masks = [], [], []
    for b, effect in enumerate(effects.values()):
        for i in range(first, first + n):
            image, true = [], []
            for c in range(channels):
                signal, labels = synthetic.nuclei(np.random.default_rng([i, c]), size, 6)
                image.append(synthetic.expose(signal, effect, np.random.default_rng([i, c, b])))
                true.append(synthetic.expose(signal, Effect(), None))
            X.append(np.stack(image)), truth.append(np.stack(true)), masks.append(labels)
    return SimpleNamespace(
        X=np.stack(X),
        truth=np.stack(truth),
        masks=masks,
        batch=[name for name in effects for _ in range(n)],
        group=[f"source {i}" for _ in effects for i in range(first, first + n)],
    )


def fitted(data, **options):
    return BatchEqualizer(**{"target": "A"} | options).fit(data.X, batch=data.batch, group=data.group)


def psnr(images, truth, peak=4000):
    return 10 * np.log10(peak**2 / np.mean((images.astype(float) - truth) ** 2))


def of(data, name):
    """Which images are of one batch."""
    return [i for i, b in enumerate(data.batch) if b == name]


def same_state(one, other):
    """Whether two equalizers would do the same."""
    fields = ("signs", "levels", "curves", "fields", "camera")
    alike = all(np.array_equal(getattr(one.correction_, f), getattr(other.correction_, f)) for f in fields)
    states = [{} if eq.generator_ is None else eq.generator_.state_dict() for eq in (one, other)]
    return (
        alike
        and states[0].keys() == states[1].keys()
        and all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    )


@pytest.fixture(scope="session")
def data():
    return slides()


@pytest.fixture(scope="session")
def toned(data):
    """Fitted; tests that would change it take a copy."""
    return fitted(data)


@pytest.fixture(scope="session")
def evened():
    """Fitted with fields, to a batch under a gradient; and its images."""
    data = slides({"A": Effect(), "B": Effect(gradient=0.35, gain=0.7)}, n=12)
    return fitted(data, model="tone+field"), data


@pytest.fixture(scope="session")
def edited(data):
    """A `local` one of hardly any training."""
    return fitted(data, model="local", training=TINY)


# The manners of scikit-learn


def test_parameters_are_kept_as_they_are_given():
    options = {"steps": 2}
    equalizer = BatchEqualizer("tone", training=options, channels=("DNA",), max_images=50)
    assert equalizer.get_params()["training"] is options and equalizer.channels == ("DNA",)
    copied = clone(equalizer.set_params(model="local", n_jobs=2))
    assert copied is not equalizer and copied.get_params() == equalizer.get_params()
    assert copied.model == "local" and not hasattr(copied, "correction_")
    assert "max_images=50" in repr(copied)
    with pytest.raises(ValueError, match="Invalid parameter 'modle'"):
        equalizer.set_params(modle="tone")


def test_bad_parameters_are_only_refused_by_fit(data):
    equalizer = BatchEqualizer(model="tones")
    assert "Did you mean 'tone'" in refused(ConfigError, equalizer.fit, data.X, batch=data.batch)


@over(
    check=[
        "check_get_params_invariance",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_set_params",
    ]
)
def test_the_checks_of_scikit_learn_that_need_no_table_of_numbers(check):
    getattr(estimator_checks, check)("BatchEqualizer", BatchEqualizer())


def test_fit_returns_itself_and_leaves_its_parameters(data):
    equalizer = BatchEqualizer(training={"steps": 3})
    before = copy.deepcopy(equalizer.get_params())
    assert equalizer.fit(data.X, "ignored", batch=data.batch) is equalizer
    assert equalizer.get_params() == before
    documented = re.findall(r"^    (\w+_):", inspect.getdoc(BatchEqualizer), re.MULTILINE)
    assert {"batches_", "target_", "scale_", "generator_", "fitted_"} < set(documented)
    assert all(hasattr(equalizer, name) and not hasattr(BatchEqualizer(), name) for name in documented)
    assert set(vars(equalizer)) == {"_fitted"} | set(before)
    check_is_fitted(equalizer)
    with pytest.raises(exceptions.NotFittedError):
        check_is_fitted(BatchEqualizer())


def test_fit_and_transform_in_one(data, toned):
    both = BatchEqualizer(target="A").fit_transform(data.X, batch=data.batch, group=data.group)
    assert np.array_equal(both, toned.transform(data.X, batch=data.batch))


def test_fit_again_forgets_what_was_before(data):
    equalizer = fitted(data)
    other = slides({"x": Effect(gain=2), "y": Effect(gain=3)})
    equalizer.set_params(target="x").fit(other.X, batch=other.batch, group=other.group)
    assert equalizer.batches_ == ["x", "y"] == list(equalizer.n_images_) and equalizer.target_ == "x"
    assert same_state(equalizer, fitted(other, target="x"))


@over(
    use=[
        lambda eq, data, folder: eq.transform(data.X, batch=data.batch),
        lambda eq, data, folder: eq.evaluate(data.X, batch=data.batch),
        lambda eq, data, folder: eq.add_batch("new", data.X[:N]),
        lambda eq, data, folder: eq.save(folder),
        lambda eq, data, folder: eq.transform_table(folder, None, folder / "out"),
    ]
)
def test_before_fit(data, tmp_path, use):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        use(BatchEqualizer(), data, tmp_path)
    assert list(tmp_path.iterdir()) == []


# What is refused


def test_channels_that_were_not_fitted():
    data = slides({"A": Effect(), "B": Effect(gain=2)}, channels=2)
    equalizer = fitted(data, channels=["DNA", "ER"])
    assert equalizer.channels_ == ["DNA", "ER"]
    says = refused(ValueError, equalizer.transform, data.X[:, :1], batch=data.batch)
    assert "1 are named" in says or "has 1 channels" in says or "2 are named" in says
    equalizer.set_params(channels=None)
    says = refused(ValueError, equalizer.transform, data.X[:, :1], batch=data.batch)
    assert "X has 1 channels, but the equalizer was fitted to 2 (DNA, ER)" in says
    named = xr.DataArray(data.X[:, ::-1], dims=list("NCYX"), coords={"C": ["ER", "DNA"]})
    assert "put them in that order: [1, 0]" in refused(ValueError, equalizer.transform, named, batch=data.batch)
    other = named.assign_coords(C=["RNA", "DNA"])
    assert "under the same names" in refused(ValueError, equalizer.transform, other, batch=data.batch)
    turned = equalizer.transform(named[:, ::-1], batch=data.batch)
    assert list(turned.C.values) == ["DNA", "ER"]
    assert np.array_equal(turned, equalizer.transform(data.X, batch=data.batch))


def test_axes_that_do_not_fit(data, toned):
    assert "use axes='NYXC'" in refused(
        ValueError, BatchEqualizer().fit, data.X.transpose(0, 2, 3, 1), batch=data.batch
    )
    assert "axes= names 4" in refused(ValueError, BatchEqualizer().fit, data.X[:, 0], batch=data.batch)
    assert "axes= names 4" in refused(ValueError, toned.transform, data.X[0], batch="A")


@over("value name", [(np.nan, "NaN"), (np.inf, "infinity")])
def test_values_that_are_not_finite(data, value, name):
    X = data.X.astype(np.float32)
    equalizer = BatchEqualizer(target="A").fit(X, batch=data.batch)
    X[N + 2, 0, 7, 9] = value
    says = refused(ValueError, equalizer.transform, X, batch=data.batch)
    assert says.startswith(f"Image {N + 2} of X has {name} in channel 0, row 7, column 9")
    says = refused(ValueError, BatchEqualizer().fit, X, batch=data.batch)
    assert says.startswith(f"Image {N + 2} of X (batch B) has {name} in channel 0, row 7, column 9")
    assert "Unknown value of nan, 'skip'" in refused(ConfigError, equalizer.transform, X, batch=data.batch, nan="skip")


def test_constant_images_are_left_out_of_the_fit_and_flagged(data, toned):
    X = np.concatenate([data.X, np.full((2, 1, SIZE, SIZE), 700, np.uint16)])
    batch, group = [*data.batch, "B", "C"], [*data.group, "flat 1", "flat 2"]
    named = rf"Image {3 * N} of X \(B\), Image {3 * N + 1} of X \(C\)"
    with pytest.warns(LabWarning, match=f"2 images are constant and left out of the fit: {named}"):
        equalizer = BatchEqualizer(target="A").fit(X, batch=batch, group=group)
    assert same_state(equalizer, toned) and equalizer.n_images_["B"] == N
    Z, table = equalizer.transform(X, batch=batch, return_quality=True)
    assert "empty" in table["flags"].iloc[-1] and not table["flags"][:3].str.contains("empty").any()
    assert np.isfinite(table.drop(columns=["batch", "flags"]).to_numpy(float)).all()
    assert np.ptp(Z[-1]) == 0
    only = data.X.copy()
    only[N : N + 2] = 5
    says = refused(ValueError, BatchEqualizer().fit, only, batch=data.batch)
    assert says == f"Fewer than {N} images of B are not constant; give more."


def test_saturated_images_are_named(data):
    X = data.X.copy()
    X[N, 0, :2] = 65535
    with pytest.warns(LabWarning, match=rf"1 image is saturated in more than 1 % of the pixels: Image {N} of X \(B\)"):
        equalizer = BatchEqualizer(target="A").fit(X, batch=data.batch)
    table = equalizer.transform(X, batch=data.batch, return_quality=True)[1]
    assert "saturated" in table["flags"][N] and table.saturated[N] == pytest.approx(2 / SIZE)
    assert not table["flags"].drop(N).str.contains("saturated").any()


def test_one_batch_is_none(data):
    assert "There is only one batch, A" in refused(ValueError, BatchEqualizer().fit, data.X, batch=["A"] * len(data.X))


def test_batches_of_too_few(data):
    few = slice(0, 2 * N - 3)
    says = refused(ValueError, BatchEqualizer().fit, data.X[few], batch=data.batch[few])
    assert says.startswith("Batches with fewer than 8 images: B (5).") and "lower min_images" in says
    control = [b != "B" or i == N for i, b in enumerate(data.batch)]
    says = refused(ValueError, BatchEqualizer().fit, data.X, batch=data.batch, control=control)
    assert says.startswith("Batches with fewer than 8 controls: B (1).")
    assert BatchEqualizer(min_images=5).fit(data.X[few], batch=data.batch[few]).n_images_ == {"A": 8, "B": 5}


@over(batch=[["A"] * 3, None, ["A"] * (3 * N - 1) + [None]])
def test_batches_that_are_not_given(data, batch):
    assert "batch" in refused(ValueError, BatchEqualizer().fit, data.X, batch=batch)


def test_batches_that_were_not_fitted(data, toned):
    says = refused(UnknownBatchError, toned.transform, data.X[:2], batch=["B", "Z"])
    assert says.startswith("Batch Z was not fitted; the batches are A, B, C.") and "unseen='passthrough'" in says
    with pytest.raises(ValueError, match="Batch b was not"):
        toned.transform(data.X[:2], batch="b")


def test_batches_that_were_not_fitted_are_passed_on_if_that_is_wanted(data, toned):
    lax = copy.copy(toned).set_params(unseen="passthrough")
    Z, table = lax.transform(data.X[N : N + 2], batch=["Z", "B"], return_quality=True)
    assert np.array_equal(Z[0], data.X[N]) and not np.array_equal(Z[1], data.X[N + 1])
    assert table["flags"][0] == "unknown batch" and np.isnan(table.unfamiliar[0]) and table.change[0] < 1e-9
    assert "Unknown unseen 'x'" in refused(ConfigError, BatchEqualizer(unseen="x").fit, data.X, batch=data.batch)


def test_values_of_another_range(data, toned):
    unit = (data.X / 65535).astype(np.float32)
    says = refused(TypeError, toned.transform, unit, batch=data.batch)
    assert "X holds float32 values between 0 and 1, but the equalizer was fitted to uint16" in says
    with pytest.raises(InputTypeError):
        toned.transform((data.X // 256).astype(np.uint8), batch=data.batch)
    floats = BatchEqualizer().fit(data.X.astype(np.float32), batch=data.batch)
    assert "fitted to values up to" in refused(TypeError, floats.transform, unit, batch=data.batch)


def test_sizes_that_a_field_cannot_have(data, evened):
    mixed = [x[:, : SIZE - i % 2] for i, x in enumerate(data.X)]
    says = refused(ValueError, BatchEqualizer("tone+field").fit, mixed, batch=data.batch)
    assert "tone+field needs whole images of one camera" in says and f"{SIZE - 1}x{SIZE}" in says
    equalizer, known = evened
    part = known.X[-2:, :, :40, :30]
    says = refused(ValueError, equalizer.transform, part, batch="B")
    assert says.startswith(f"An image is 40x30, but the field was fitted to a camera of {SIZE}x{SIZE} pixels")
    assert "does not fit on the camera" in refused(
        ValueError, equalizer.transform, part, batch="B", origin=[(0, 0), (30, 0)]
    )
    assert "origin has 1 places" in refused(ValueError, equalizer.transform, part, batch="B", origin=[(0, 0)])


def test_a_label_that_is_the_batch(data):
    label = ["drug" if b == "A" else f"other {b}" for b in data.batch]
    says = refused(ConfoundedDesignError, BatchEqualizer().fit, data.X, batch=data.batch, label=label)
    assert "Every label lies in one batch only" in says
    lax = BatchEqualizer(allow_confounded=True).fit(data.X, batch=data.batch, label=label)
    assert any(
        "Every label lies in one batch only" in note for note in lax.notes_
    ) and lax.fitted_.cramers_v == pytest.approx(1)
    control = [True] * len(data.X)
    assert BatchEqualizer().fit(data.X, batch=data.batch, label=label, control=control).fitted_.on_controls
    assert "label has 1 entries" in refused(ValueError, BatchEqualizer().fit, data.X, batch=data.batch, label=["x"])


def test_a_target_that_there_is_not(data):
    says = refused(ValueError, BatchEqualizer(target="D").fit, data.X, batch=data.batch)
    assert says == "The target 'D' is not a batch; give one of A, B, C, or 'medoid' or 'mean'."
    for word in ("medoid", "mean"):
        batch = [word if b == "A" else b for b in data.batch]
        says = refused(ValueError, BatchEqualizer(target=word).fit, data.X, batch=batch)
        assert f"batch is called '{word}'" in says


@over(
    "options says",
    [
        ({"target": "mean", "model": "local"}, "would be blurred"),
        ({"max_change": 0}, "max_change takes a number above 0 up to 1, not 0"),
        ({"max_change": 1.5}, "max_change takes a number above 0 up to 1, not 1.5"),
        ({"min_images": 1}, "min_images takes a whole number from 2"),
        ({"max_images": 7}, "max_images, 7, is less than min_images, 8"),
        ({"out_dtype": "float16"}, "Unknown type of output 'float16'"),
        ({"n_jobs": 0}, "n_jobs takes a whole number from 1 to 1024, or -1, not 0"),
        ({"model": "local", "training": {"stepz": 3}}, "option of local 'stepz'"),
    ],
)
def test_options_that_do_not_fit(data, options, says):
    assert says in refused(ConfigError, BatchEqualizer(**options).fit, data.X, batch=data.batch)


def test_channels_of_one_value():
    data = slides({"A": Effect(), "B": Effect(gain=2)}, channels=2)
    data.X[:, 1] = 40
    says = refused(ValueError, BatchEqualizer(channels=["DNA", "ER"]).fit, data.X, batch=data.batch)
    assert says == "Channel ER has one value in all images; leave it out."


# What is corrected, and what is not


def test_known_lamps_are_evened_out(data, toned):
    held_out = slides(first=100)
    Z = toned.transform(held_out.X, batch=held_out.batch)
    for name in ("B", "C"):
        mine = of(held_out, name)
        before, after = (psnr(images[mine], held_out.truth[mine]) for images in (held_out.X, Z))
        assert after > 36 and after > before + 12
    gains = {name: toned.correction_.levels[k, 0, 1:].mean() for k, name in enumerate(toned.batches_)}
    assert np.exp(gains["B"] - gains["A"]) == pytest.approx(0.6, rel=0.04)
    assert np.exp(gains["C"] - gains["A"]) == pytest.approx(1.4, rel=0.04)


@over(name=["toned", "edited"])
def test_the_target_comes_back_bit_for_bit(request, data, name):
    equalizer = request.getfixturevalue(name)
    Z = equalizer.transform(data.X, batch=data.batch)
    target = of(data, "A")
    assert np.array_equal(Z[target], data.X[target]) and not np.shares_memory(Z, data.X)
    assert not np.shares_memory(equalizer.transform([data.X[0], data.X[1]], batch="A")[0], data.X)
    assert not any(np.array_equal(Z[i], data.X[i]) for i in of(data, "B"))


def test_a_sham_split_changes_next_to_nothing():
    data = slides({"A": Effect()}, n=2 * N)
    batch = ["A", "B"] * N
    equalizer = BatchEqualizer(target="A").fit(data.X, batch=batch)
    Z = equalizer.transform(data.X, batch=batch)
    mine = [i for i, b in enumerate(batch) if b == "B"]
    peak = float(np.ptp(equalizer.scale_))
    assert not (Z[mine] != data.X[mine]).any() or psnr(Z[mine], data.X[mine], peak) >= 45
    assert equalizer.sham_ <= 0.01


def test_only_controls_are_learned_from(data, toned):
    treated = slides(first=50)
    X = np.concatenate([data.X, treated.X])
    batch, group = data.batch + treated.batch, data.group + treated.group
    control = [True] * len(data.X) + [False] * len(treated.X)
    equalizer = BatchEqualizer(target="A").fit(X, batch=batch, group=group, control=control)
    assert same_state(equalizer, toned) and equalizer.n_images_ == dict.fromkeys("ABC", N)
    X[len(data.X) :] = 60000 - 5 * X[len(data.X) :]
    assert same_state(BatchEqualizer(target="A").fit(X, batch=batch, group=group, control=control), toned)
    assert not same_state(BatchEqualizer(target="A").fit(X, batch=batch, group=group), toned)


def test_without_controls_there_is_a_warning(data):
    with pytest.warns(LabWarning, match="No controls were named"):
        equalizer = BatchEqualizer().fit(data.X, batch=data.batch)
    assert len(equalizer.notes_) == 1
    named = BatchEqualizer().fit(data.X, batch=data.batch, control=np.ones(len(data.X)))
    assert named.notes_ == [] and named.fitted_.on_controls


def test_at_most_max_images_are_used(data):
    X = data.X.copy()
    equalizer = BatchEqualizer(target="A", min_images=4, max_images=4).fit(X, batch=data.batch, group=data.group)
    assert equalizer.n_images_ == dict.fromkeys("ABC", 4)
    unused = [i for i in range(N) if f"source {i}" not in equalizer.fitted_.groups]
    assert len(unused) == 4
    for k in range(3):
        X[[k * N + i for i in unused]] = 0
    assert same_state(
        BatchEqualizer(target="A", min_images=4, max_images=4).fit(X, batch=data.batch, group=data.group), equalizer
    )


def test_the_medoid_is_the_target_by_default(data):
    equalizer = BatchEqualizer().fit(data.X, batch=data.batch)
    assert equalizer.target_ == "A" == equalizer.statistics_.reference
    renamed = [{"A": "z", "B": "x", "C": "y"}[b] for b in data.batch]
    assert BatchEqualizer().fit(data.X, batch=renamed).target_ == "z"


def test_the_mean_is_a_target(data):
    equalizer = fitted(data, target="mean")
    Z = equalizer.transform(data.X, batch=data.batch)
    assert equalizer.target_ == "mean" and not np.array_equal(Z[0], data.X[0])
    apart = [np.ptp([images[of(data, b)].std() for b in "ABC"]) for images in (data.X.astype(float), Z.astype(float))]
    assert apart[1] < 0.1 * apart[0]
    assert psnr(Z[0], Z[N]) > 30 > psnr(data.X[0], data.X[N])


def test_names_of_batches_do_not_matter(data, toned):
    renamed = [{"A": 2, "B": 10, "C": 1}[b] for b in data.batch]
    equalizer = BatchEqualizer(target="2").fit(data.X, batch=renamed, group=data.group)
    assert equalizer.batches_ == ["1", "10", "2"]
    Z = equalizer.transform(data.X, batch=renamed)
    assert np.abs(Z.astype(int) - toned.transform(data.X, batch=data.batch)).max() <= 1


def test_order_of_images_does_not_matter(data, toned):
    order = np.random.default_rng(0).permutation(len(data.X))
    batch, group = [data.batch[i] for i in order], [data.group[i] for i in order]
    equalizer = BatchEqualizer(target="A").fit(data.X[order], batch=batch, group=group)
    Z = equalizer.transform(data.X, batch=data.batch)
    assert np.abs(Z.astype(int) - toned.transform(data.X, batch=data.batch)).max() <= 1


def test_some_batches_and_some_images_are_enough(data, toned):
    whole = toned.transform(data.X, batch=data.batch)
    assert np.array_equal(toned.transform(data.X[N : N + 3], batch="B"), whole[N : N + 3])
    assert np.array_equal(toned.transform(data.X[[2 * N, N]], batch=["C", "B"]), whole[[2 * N, N]])


def test_what_is_given_is_not_touched(data):
    X = data.X.astype(np.float32)
    X.setflags(write=False)
    equalizer = BatchEqualizer("tone+field", target="A").fit(X, batch=data.batch)
    Z = equalizer.transform(X, batch=data.batch)
    holes = X.copy()
    holes[:, 0, 0, 0] = np.nan
    before = holes.copy()
    equalizer.transform(holes, batch=data.batch, nan="mask", return_quality=True)
    assert np.array_equal(X, data.X) and np.array_equal(holes, before, equal_nan=True)
    Z[:] = 0
    assert X.any()


# Kinds and types


def converted(X, dtype):
    return (X >> 5).clip(0, 255).astype(dtype) if dtype == "uint8" else X.astype(dtype)


@over(dtype=["uint8", "uint16", "float32", "float64"])
def test_types_come_back(data, dtype):
    X, truth = converted(data.X, dtype), converted(data.truth, dtype)
    equalizer = BatchEqualizer(target="A").fit(X, batch=data.batch, group=data.group)
    Z = equalizer.transform(X, batch=data.batch)
    mine, peak = of(data, "B"), float(np.ptp(equalizer.scale_))
    assert Z.dtype == dtype == X.dtype and Z.shape == X.shape and equalizer.fitted_.dtype == dtype
    assert psnr(Z[mine], truth[mine], peak) > psnr(X[mine], truth[mine], peak) + 10
    assert np.array_equal(Z[:N], X[:N])


def test_floats_are_neither_rounded_nor_cut(data, toned):
    exact = copy.copy(toned).set_params(out_dtype="float32").transform(data.X, batch=data.batch)
    rounded = toned.transform(data.X, batch=data.batch)
    assert exact.dtype == np.float32 and np.array_equal(exact[:N], data.X[:N])
    clear = np.abs(exact % 1 - 0.5) > 0.01  # a float32 of that size may fall on either side of a half
    assert np.array_equal(np.rint(exact[clear]), rounded[clear]) and clear.mean() > 0.9
    floats = BatchEqualizer(target="A").fit(data.X.astype(np.float32), batch=data.batch, group=data.group)
    Z = floats.transform(data.X.astype(np.float32) / 3 - 5000, batch="C")
    assert Z.min() < 0 and (Z % 1 != 0).any()


def test_float64_counts_as_float32(data):
    floats = BatchEqualizer(target="A").fit(data.X.astype(np.float32), batch=data.batch)
    one, other = (floats.transform(data.X.astype(t), batch=data.batch) for t in ("float32", "float64"))
    assert other.dtype == np.float64 and other == pytest.approx(one, rel=1e-6)


@over(axes=["NYXC", "CNYX"])
def test_three_channels_in_other_axes(axes):
    data = slides({"A": Effect(), "B": Effect(gain=0.5)}, channels=3)
    names = ["DNA", "ER", "RNA"]
    X = data.X.transpose(["NCYX".index(a) for a in axes])
    equalizer = BatchEqualizer(target="A", axes=axes, channels=names).fit(X, batch=data.batch, group=data.group)
    Z = equalizer.transform(X, batch=data.batch)
    assert equalizer.channels_ == names and equalizer.scale_.shape == (3, 2) and Z.shape == X.shape
    expected = fitted(data).transform(data.X, batch=data.batch)
    assert np.array_equal(Z.transpose([axes.index(a) for a in "NCYX"]), expected)
    for c in range(3):
        alone = fitted(SimpleNamespace(X=data.X[:, c : c + 1], batch=data.batch, group=data.group))
        assert np.array_equal(alone.transform(data.X[:, c : c + 1], batch=data.batch)[:, 0], expected[:, c])


def test_a_list_of_unequal_sizes(data, toned):
    X = [x[:, : SIZE - i % 3, : SIZE - i % 2] for i, x in enumerate(data.X)]
    Z = toned.transform(X, batch=data.batch)
    whole = toned.transform(data.X, batch=data.batch)
    assert isinstance(Z, list)
    for i, z in enumerate(Z):
        assert np.array_equal(z, whole[i][:, : SIZE - i % 3, : SIZE - i % 2])
    equalizer = BatchEqualizer(target="A").fit(X, batch=data.batch, group=data.group)
    assert np.exp(np.diff(equalizer.correction_.levels[:2, 0, 1:].mean(1))) == pytest.approx(0.6, rel=0.05)


def test_dask_is_read_when_it_is_asked_for(data, toned):
    reads = []

    def load(block):
        reads.append(len(block))
        return block

    X = da.from_array(data.X, chunks=(1, 1, SIZE, SIZE)).map_blocks(load, meta=np.empty((0,) * 4, np.uint16))
    Z = toned.transform(X, batch=data.batch)
    assert isinstance(Z, da.Array) and Z.dtype == np.uint16 and reads == []
    expected = toned.transform(data.X, batch=data.batch)
    assert np.array_equal(Z[N].compute(), expected[N]) and reads == [1]
    assert np.array_equal(Z.compute(), expected)
    assert same_state(BatchEqualizer(target="A").fit(X, batch=data.batch, group=data.group), toned)


def test_arrays_on_disk_give_the_same_as_in_memory(data, toned):
    class OnDisk:
        shape, dtype = data.X.shape, data.X.dtype

        def __getitem__(self, index):
            assert isinstance(index[0], int), "it was read as a whole"
            return data.X[index]

    Z = toned.transform(OnDisk(), batch=data.batch)
    assert isinstance(Z, np.ndarray) and np.array_equal(Z, toned.transform(data.X, batch=data.batch))
    assert same_state(BatchEqualizer(target="A").fit(OnDisk(), batch=data.batch, group=data.group), toned)


def test_errors_of_dask_come_when_it_is_asked_for(data):
    X = data.X.astype(np.float32)
    equalizer = BatchEqualizer().fit(X, batch=data.batch)
    X[3, 0, 1, 2] = np.nan
    Z = equalizer.transform(da.from_array(X, chunks=(1, 1, SIZE, SIZE)), batch=data.batch)
    assert np.isfinite(Z[2].compute()).all()
    assert "Image 3 of X has NaN in channel 0, row 1, column 2" in refused(InputError, Z.compute, scheduler="sync")


def test_tensors_come_back(data, toned):
    X = torch.from_numpy(data.X.astype(np.float32))
    equalizer = BatchEqualizer(target="0").fit(X, batch=torch.arange(len(X)) // N, group=data.group)
    Z = equalizer.transform(X, batch=torch.arange(len(X)) // N)
    assert isinstance(Z, torch.Tensor) and Z.dtype == torch.float32
    expected = toned.transform(data.X, batch=data.batch)
    assert np.abs(Z.numpy() - expected).max() < 0.51


def test_holes_stay_and_do_not_spread(data):
    X = data.X.astype(np.float32)
    equalizer = BatchEqualizer(target="A").fit(X, batch=data.batch)
    expected = equalizer.transform(X, batch=data.batch)
    holes = np.random.default_rng(0).random(X.shape) < 0.02
    X[holes] = np.nan
    X[N, 0, 0, :3] = np.inf, -np.inf, np.nan
    holes[N, 0, 0, :3] = True
    Z, table = equalizer.transform(X, batch=data.batch, nan="mask", return_quality=True)
    assert np.array_equal(Z[holes], X[holes], equal_nan=True) and np.array_equal(Z[~holes], expected[~holes])
    assert np.isfinite(table[["clipped", "saturated", "unfamiliar", "change"]].to_numpy()).all()
    assert np.isnan(equalizer.transform(np.full_like(X[:1], np.nan), batch="B", nan="mask")).all()


def test_a_network_does_not_see_holes(data):
    X = data.X.astype(np.float32)
    equalizer = BatchEqualizer("local", target="A", training=TINY).fit(X, batch=data.batch)
    X[N, 0, 5, 5] = np.nan
    Z = equalizer.transform(X[N : N + 1], batch="B", nan="mask")
    assert np.isnan(Z).sum() == 1 and np.isnan(Z[0, 0, 5, 5])


# Fields


def test_a_field_is_a_gain_over_curves_alone(evened):
    equalizer, data = evened
    Z, mine = equalizer.transform(data.X, batch=data.batch), of(data, "B")
    flat = fitted(data).transform(data.X, batch=data.batch)
    assert psnr(Z[mine], data.truth[mine]) > psnr(flat[mine], data.truth[mine]) + 4
    assert np.array_equal(Z[:12], data.X[:12])


def test_parts_are_corrected_as_in_the_whole(evened):
    equalizer, data = evened
    whole = equalizer.transform(data.X[-2:], batch="B")
    parts = equalizer.transform(data.X[-2:, :, 20:50, 30:], batch="B", origin=[(20, 30)] * 2)
    assert np.array_equal(parts, whole[:, :, 20:50, 30:])
    wrong = equalizer.transform(data.X[-2:, :, 20:50, 30:], batch="B", origin=[(0, 0)] * 2)
    assert not np.array_equal(parts, wrong)


@over(n_jobs=[2, -1])
def test_threads_do_not_matter(data, toned, n_jobs):
    equalizer = fitted(data, n_jobs=n_jobs)
    assert same_state(equalizer, toned)
    one, other = (eq.transform(data.X, batch=data.batch, return_quality=True) for eq in (equalizer, toned))
    assert np.array_equal(one[0], other[0])
    pd.testing.assert_frame_equal(one[1], other[1])


def test_images_of_hardly_any_pixels(toned, data):
    X = [data.X[N, :, :h, :w] for h, w in ((0, 5), (1, 1), (2, 3))]
    Z, table = toned.transform(X, batch="B", return_quality=True)
    assert [z.shape for z in Z] == [x.shape for x in X]
    assert table["flags"][0] == "empty" and np.isfinite(table[["clipped", "saturated", "change"]].to_numpy()).all()


# Quality


def test_the_table_of_quality(data, toned):
    Z, table = toned.transform(data.X, batch=data.batch, return_quality=True)
    assert np.array_equal(Z, toned.transform(data.X, batch=data.batch))
    assert list(table.columns) == ["batch", "clipped", "saturated", "unfamiliar", "change", "flags"]
    assert table.batch.tolist() == data.batch and (table["flags"] == "").all()
    assert table.change.max() < 0.005 and table.change[:N].max() < 1e-9
    assert (table.clipped == 0).all() and table.unfamiliar.between(0, 1).all()


def test_what_the_type_cannot_hold_is_counted():
    effects = {"A": Effect(gain=18), "B": Effect(gain=6)}
    data = slides(effects)
    equalizer = fitted(data)
    bright = slides({"B": Effect(gain=14)}, first=20)
    Z, table = equalizer.transform(bright.X, batch="B", return_quality=True)
    exact = copy.copy(equalizer).set_params(out_dtype="float32").transform(bright.X, batch="B")
    over = ((exact > 65535.5) | (exact < -0.5)).mean((1, 2, 3))
    assert table.clipped.to_numpy() == pytest.approx(over) and over.max() > 0.005
    assert (Z == 65535).mean() >= over.mean()
    assert (
        table["flags"][over > 0].str.contains("clipped").all()
        and not table["flags"][over == 0].str.contains("clipped").any()
    )


def test_clipping_in_a_constructed_case(toned):
    before = np.zeros((1, 4, 4), np.uint8)
    after = np.zeros((1, 4, 4), np.float32)
    after[0, 0] = [-0.4, -0.6, 255.4, 255.6]
    share = quality.lost(after, np.uint8).mean()
    assert share == 2 / 16
    row = quality.quality_of(before, np.array([[0.0, 255]]), toned.fitted_.familiarity, None, share, 0.0)
    assert row["clipped"] == share and row["flags"] == "empty, clipped, unknown batch"


def test_strange_images_are_unfamiliar(data, toned):
    held_out = slides(first=100)
    assert toned.transform(held_out.X, batch=held_out.batch, return_quality=True)[1].unfamiliar.max() < 1
    image = slides({"B": LAMPS["B"]}, first=30, n=1).X
    blurred = ndimage.gaussian_filter(image, (0, 0, 2, 2))
    foreign = np.random.default_rng(0).integers(300, 4000, image.shape).astype(np.uint16)
    X = np.concatenate([image, blurred, foreign])
    table = toned.transform(X, batch="B", return_quality=True)[1]
    assert table.unfamiliar[1] > 5 * table.unfamiliar[0] and (table.unfamiliar[1:] > 1).all()
    assert table["flags"].tolist() == ["", "unfamiliar", "unfamiliar"]
    as_fitted = toned.transform(data.X[N : 2 * N], batch="B", return_quality=True)[1]
    assert as_fitted.unfamiliar.max() <= 1 / quality.BEYOND + 1e-6
    other = toned.transform(data.X[N : 2 * N], batch="C", return_quality=True)[1]  # under the wrong name
    assert other.unfamiliar.mean() > 1.5 * as_fitted.unfamiliar.mean()


def test_the_change_is_what_no_curve_explains(data):
    before = data.X[0, 0]
    curved = 300 + 30 * np.sqrt(before.astype(float))
    spot = curved.copy()
    spot[20:25, 20:25] += 500
    assert np.abs(quality.change_map(before, curved)).max() < 10
    found = quality.change_map(before, spot)
    assert found[20:25, 20:25].mean() > 400 and np.abs(found[40:]).max() < 150
    assert np.array_equal(quality.change_map(np.full((4, 4), 7), np.full((4, 4), 9.0)), np.zeros((4, 4)))


# One more batch


def test_a_batch_is_added(data, toned, tmp_path):
    new = slides({"new": Effect(gain=0.4, offset=200)}, first=40)
    grown = copy.deepcopy(toned)
    assert grown.add_batch("new", new.X) is grown
    assert (
        grown.batches_ == ["A", "B", "C", "new"] and grown.n_images_["new"] == N and toned.batches_ == ["A", "B", "C"]
    )
    assert np.array_equal(grown.transform(data.X, batch=data.batch), toned.transform(data.X, batch=data.batch))
    later = slides({"new": Effect(gain=0.4, offset=200)}, first=60)
    Z, table = grown.transform(later.X, batch="new", return_quality=True)
    assert psnr(Z, later.truth) > psnr(later.X, later.truth) + 6
    assert table.unfamiliar.max() < 1 and np.isfinite(table.unfamiliar).all()
    grown.save(tmp_path)
    loaded = BatchEqualizer.load(tmp_path)
    assert same_state(loaded, grown) and np.array_equal(loaded.transform(later.X, batch="new"), Z)
    loaded.add_batch("newer", later.X)
    assert loaded.batches_[-1] == "newer" and loaded.statistics_.names == ("A", "B", "C", "new", "newer")


def test_a_batch_with_a_number_for_a_name(data, toned):
    grown = copy.deepcopy(toned).add_batch(17, data.X[N : 2 * N])
    assert np.array_equal(
        grown.transform(data.X[N : N + 2], batch=[17, 17.0]), grown.transform(data.X[N : N + 2], batch="17")
    )
    assert "There is a batch '17' already" in refused(InputError, grown.add_batch, "17", data.X[:N])


def test_a_batch_is_added_to_fields(evened):
    equalizer, data = evened
    grown = copy.deepcopy(equalizer).add_batch("B2", data.X[12:], group=[f"new {i}" for i in range(12)])
    assert {"new 0", "source 0"} <= set(grown.fitted_.groups)
    one, other = (grown.transform(data.X[12:], batch=name) for name in ("B", "B2"))
    assert psnr(other, data.truth[12:]) > psnr(one, data.truth[12:]) - 3
    assert "An image is 30x64" in refused(InputError, grown.add_batch, "B3", data.X[12:, :, :30])


def test_batches_that_cannot_be_added(data, toned, edited):
    unchanged = copy.deepcopy(toned)
    assert "There is a batch 'B' already" in refused(InputError, unchanged.add_batch, "B", data.X[:N])
    assert "Fewer than 8 images" in refused(InputError, unchanged.add_batch, "D", data.X[:5])
    assert "holds uint8" in refused(InputTypeError, unchanged.add_batch, "D", data.X[:N].astype(np.uint8))
    assert "fit again with the new one" in refused(ConfigError, edited.add_batch, "D", data.X[:N])
    assert unchanged.batches_ == ["A", "B", "C"] and same_state(unchanged, toned)


# Networks


def test_the_same_seed_gives_the_same_weights(data, edited):
    again = fitted(data, model="local", training=TINY)
    assert same_state(again, edited)
    assert not same_state(fitted(data, model="local", training=TINY, random_state=1), edited)


def test_the_global_random_state_is_left_alone(data):
    torch.manual_seed(5), np.random.seed(5)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(5), np.random.seed(5)
    fitted(data, model="local", training=TINY)
    assert (torch.rand(1), np.random.rand()) == expected


def test_a_network_that_does_nothing_is_noted(data):
    idle, busy = (fitted(data, model="local", training=TINY | {"lr": lr}) for lr in (1e-9, 0.1))
    assert any("changes the images by less than" in note for note in idle.notes_)
    assert not any("changes the images by less than" in note for note in busy.notes_)


def test_a_network_is_bounded_and_warned_of(data, toned, tmp_path):
    with pytest.warns(LabWarning, match="local trains a network: the pixel values it gives are its guesses"):
        equalizer = fitted(data, model="local", training=TINY | {"steps": 3, "lr": 1.0}, max_change=0.02, run=tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    exact, curves = (
        copy.copy(eq).set_params(out_dtype="float32").transform(data.X, batch=data.batch) for eq in (equalizer, toned)
    )
    bound = 0.02 * np.ptp(equalizer.scale_)
    change = np.abs(exact - curves).max()
    assert 0.001 * bound < change <= bound * 1.001


def test_networks_take_any_size(data, edited):
    X = [data.X[N, :, :41, :37], data.X[N + 1]]
    assert [z.shape for z in edited.transform(X, batch="B")] == [(1, 41, 37), (1, SIZE, SIZE)]


# Files


def trained(model):
    effects = dict(list(LAMPS.items())[:2]) if model == "cyclegan" else LAMPS
    data = slides(effects)
    return fitted(data, model=model, training=NETWORKS.get(model), channels=["DNA"]), data


@over(model=[model for model in MODELS if model != "stain"])  # which is for RGB; see test_lab_stain.py
def test_what_is_saved_is_loaded(model, tmp_path):
    equalizer, data = trained(model)
    equalizer.save(tmp_path / "eq")
    loaded = BatchEqualizer.load(tmp_path / "eq")
    assert same_state(loaded, equalizer) and loaded.get_params() == equalizer.get_params()
    one, other = (eq.transform(data.X, batch=data.batch, return_quality=True) for eq in (equalizer, loaded))
    assert np.array_equal(one[0], other[0])
    pd.testing.assert_frame_equal(one[1], other[1])
    assert loaded.fitted_.learned() == equalizer.fitted_.learned()
    for name, value in vars(equalizer.statistics_).items():
        assert np.array_equal(getattr(loaded.statistics_, name), value)
    assert sorted(path.name for path in (tmp_path / "eq").iterdir()) == ["config.json", "weights.safetensors"]


@over(dtype=["uint8", "float32", "float64"])
def test_other_types_are_saved_too(data, tmp_path, dtype):
    X = converted(data.X, dtype)
    equalizer = BatchEqualizer().fit(X, batch=data.batch)
    equalizer.save(tmp_path)
    loaded = BatchEqualizer.load(str(tmp_path))
    assert np.array_equal(loaded.transform(X, batch=data.batch), equalizer.transform(X, batch=data.batch))


def test_statistics_of_colour_are_saved(data, tmp_path):
    X = np.repeat(converted(data.X, "uint8"), 3, axis=1)
    equalizer = BatchEqualizer().fit(X, batch=data.batch)
    equalizer.save(tmp_path)
    found, expected = BatchEqualizer.load(tmp_path).statistics_, equalizer.statistics_
    assert (found.names, found.reference) == (expected.names, expected.reference)
    assert np.array_equal(found.colour, expected.colour)


def test_parameters_of_numpy_are_saved(data, tmp_path):
    equalizer = fitted(
        data, random_state=np.int64(3), max_change=np.float32(0.25), run=tmp_path / "run", channels=("DNA",)
    )
    equalizer.save(tmp_path)
    loaded = BatchEqualizer.load(tmp_path)
    assert (loaded.random_state, loaded.max_change, loaded.run) == (3, 0.25, str(tmp_path / "run"))


@pytest.fixture
def kept(edited, tmp_path):
    edited.save(tmp_path)
    return tmp_path


def rewritten(change):
    def damage(folder):
        path = folder / "config.json"
        config = json.loads(path.read_text())
        change(config)
        path.write_text(json.dumps(config))

    return damage


def flip(folder):
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)


def other_weights(folder):
    data = slides({"A": Effect(), "B": Effect(gain=2)})
    fitted(data).save(folder / "other")
    (folder / "other" / "weights.safetensors").replace(folder / "weights.safetensors")


@over(
    damage=[
        lambda folder: (folder / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes()[:-9]),
        lambda folder: (folder / "weights.safetensors").write_bytes(b""),
        lambda folder: (folder / "config.json").write_bytes((folder / "config.json").read_bytes()[:-9]),
        lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe{}"),
        lambda folder: (folder / "config.json").write_text("[]"),
        lambda folder: (folder / "config.json").write_text("{}"),
        flip,
        other_weights,
        rewritten(lambda config: config["fitted"].pop("network_")),
        rewritten(lambda config: config["fitted"].pop("batches_")),
        rewritten(lambda config: config.update(format="1")),
        rewritten(lambda config: config["parameters"].update(colour=3)),
        rewritten(lambda config: config["fitted"]["network_"].update(model="transformer")),
        rewritten(lambda config: config["fitted"]["network_"]["options"].update(stepz=3)),
        rewritten(lambda config: config["fitted"]["network_"]["options"].update(width=8)),
    ]
)
def test_damaged_files(edited, tmp_path, damage):
    edited.save(tmp_path)
    damage(tmp_path)
    assert "is damaged, or not a saved equalizer; restore it, or fit again." in refused(
        ModelFileError, BatchEqualizer.load, tmp_path
    )


def test_files_of_a_newer_version(kept):
    rewritten(lambda config: config.update(format=99, environment={"img2img": "9.1"}))(kept)
    assert "was written by img2img 9.1, which is newer than this version; upgrade." in refused(
        ModelFileError, BatchEqualizer.load, kept
    )


@over(name=["config.json", "weights.safetensors"])
def test_files_that_are_missing(edited, tmp_path, name):
    edited.save(tmp_path)
    (tmp_path / name).unlink()
    assert f"holds no {name}" in refused(ModelFileError, BatchEqualizer.load, tmp_path)
    assert "holds no config.json" in refused(ModelFileError, BatchEqualizer.load, tmp_path / "nothing")


class Mark:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_is_pickled_or_executed(data, edited, tmp_path, monkeypatch):
    edited.save(tmp_path)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_bytes((tmp_path / "config.json").read_bytes())
    (tmp_path / "bad" / "weights.safetensors").write_bytes(pickle.dumps(Mark(tmp_path / "executed")))
    assert pickle.loads(pickle.dumps(Mark(tmp_path / "works"))) is None and (tmp_path / "works").exists()

    def forbidden(*args, **options):
        raise AssertionError("pickle was used")

    for owner, names in (
        (pickle, ("load", "loads", "dump", "dumps", "Unpickler", "Pickler")),
        (torch, ("load", "save")),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, forbidden)
    edited.save(tmp_path / "again")
    assert same_state(BatchEqualizer.load(tmp_path / "again"), edited)
    refused(ModelFileError, BatchEqualizer.load, tmp_path / "bad")
    assert not (tmp_path / "executed").exists()


def test_saving_again_leaves_no_half(toned, kept, monkeypatch):
    before = {path.name: path.read_bytes() for path in kept.iterdir()}

    def full(path, content):
        raise OSError(28, "full")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="full"):
        toned.save(kept)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before


# Tables


@pytest.fixture(scope="session")
def plates(tmp_path_factory):
    """OME-TIFFs of two channels on two plates, a half for the fit and a half for the judgement; labels; the table."""
    root, rows = tmp_path_factory.mktemp("plates"), []
    data = slides({"p1": Effect(), "p2": Effect(gain=0.6, offset=80)}, n=2 * N, channels=2)
    metadata = {"axes": "CYX", "Channel": {"Name": ["DNA", "ER"]}, "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"}
    for i, (x, batch, group) in enumerate(zip(data.X, data.batch, data.group, strict=True)):
        name = f"{batch}/{i:02d}.ome.tif"
        (root / batch).mkdir(exist_ok=True)
        tifffile.imwrite(root / name, x, ome=True, metadata=metadata)
        tifffile.imwrite(root / f"{batch}/{i:02d}_labels.tif", data.masks[i].astype(np.uint16))
        use = "fit" if i % (2 * N) < N else "judge"
        rows.append({"FileName_Image": name, "Metadata_Plate": batch, "Metadata_Source": group, "Metadata_Use": use})
        rows[-1] |= {"Metadata_Treatment": "drug" if i % 2 else "DMSO", "Labels": f"{batch}/{i:02d}_labels.tif"}
    pd.DataFrame(rows).to_csv(root / "plates.csv", index=False)
    return SimpleNamespace(table=root / "plates.csv", root=root, data=data)


@pytest.fixture(scope="session")
def from_table(plates):
    return BatchEqualizer(target="p1").fit_table(plates.table, group="Metadata_Source", where="Metadata_Use == 'fit'")


def test_a_table_is_fitted_as_its_arrays_are(plates, from_table):
    assert from_table.channels_ == ["DNA", "ER"] and from_table.n_images_ == {"p1": N, "p2": N}
    data = plates.data
    rows = [i for i in range(len(data.X)) if i % (2 * N) < N]
    same = SimpleNamespace(X=data.X[rows], batch=[data.batch[i] for i in rows], group=[data.group[i] for i in rows])
    assert same_state(from_table, fitted(same, target="p1"))


def test_a_table_is_equalized_as_its_arrays_are(plates, from_table, tmp_path):
    seen = []
    table = from_table.transform_table(plates.table, None, tmp_path, progress=lambda done, total: seen.append(done))
    assert set(table.status) == {"done"} and seen == list(range(1, 4 * N + 1))
    Z, quality_ = from_table.transform(plates.data.X, batch=plates.data.batch, return_quality=True)
    for i, name in enumerate(table.FileName_Image):
        with tifffile.TiffFile(tmp_path / name) as file:
            assert np.array_equal(file.asarray(), Z[i]) and file.asarray().dtype == np.uint16
            assert 'Name="DNA"' in file.ome_metadata and 'PhysicalSizeX="0.5"' in file.ome_metadata
    for name in ("clipped", "saturated", "unfamiliar", "change"):
        assert table[name].tolist() == pytest.approx(quality_[name].tolist())
    assert from_table.transform_table(plates.table, None, tmp_path).status.eq("kept").all()
    (tmp_path / table.FileName_Image[5]).unlink()
    assert from_table.transform_table(plates.table, None, tmp_path).status.value_counts()["done"] == 1


def test_some_rows_of_a_table_are_equalized(plates, from_table, tmp_path):
    table = from_table.transform_table(plates.table, None, tmp_path, where="Metadata_Plate == 'p2'")
    assert len(table) == 2 * N == len(list(tmp_path.rglob("*.tif"))) and not (tmp_path / "p1").exists()


def test_a_file_that_is_damaged_is_listed_and_the_others_are_done(plates, from_table, tmp_path):
    frame = pd.read_csv(plates.table, dtype=str)[:4]
    frame.loc[1, "FileName_Image"] = "bad.ome.tif"
    frame.loc[2, "FileName_Image"] = "none.ome.tif"
    frame.loc[3, "FileName_Image"] = "float.ome.tif"
    (plates.root / "bad.ome.tif").write_bytes(b"II*\0 damaged")
    tifffile.imwrite(plates.root / "float.ome.tif", np.zeros((2, SIZE, SIZE), np.float32), metadata={"axes": "CYX"})
    table = from_table.transform_table(frame, plates.root, tmp_path)
    assert table.status.tolist() == ["done", "failed", "failed", "failed"]
    assert all(name in error for name, error in zip(("bad", "none", "float"), table.error[1:], strict=True))
    assert len(list(tmp_path.rglob("*.tif"))) == 1


def test_a_table_with_a_batch_that_was_not_fitted(plates, from_table, tmp_path):
    frame = pd.read_csv(plates.table, dtype=str)
    frame.loc[3, "Metadata_Plate"] = "p9"
    says = refused(UnknownBatchError, from_table.transform_table, frame, plates.root, tmp_path / "out")
    assert "Batch p9 was not fitted" in says and not (tmp_path / "out").exists()


# The judgement


@pytest.fixture
def without_probes(monkeypatch):
    """Classifiers take long, and have tests of their own."""
    monkeypatch.setattr(probes, "batch_predictability", lambda *args: {})
    monkeypatch.setattr(probes, "phenotype_accuracy", lambda *args: {})


def test_groups_of_the_fit_are_refused(data, toned):
    says = refused(InputError, toned.evaluate, data.X, batch=data.batch, group=data.group)
    assert says.startswith(f"{N} groups were part of the fit (source 0, source 1,") and "other groups" in says


def test_what_the_judgement_refuses(data, toned):
    label = ["x" if b == "A" else "y" for b in data.batch]
    refused(ConfoundedDesignError, toned.evaluate, data.X, batch=data.batch, label=label)
    refused(UnknownBatchError, toned.evaluate, data.X, batch=["Z"] * len(data.X))
    assert "There is no channel 1; there are 1" in refused(
        InputError, toned.evaluate, data.X, batch=data.batch, nuclei=1
    )
    refused(ConfigError, toned.evaluate, data.X, batch=data.batch, nuclei="DNA")


def test_the_judgement_of_a_table(plates, from_table, without_probes):
    steps = []
    judged = from_table.evaluate_table(
        plates.table,
        label="Metadata_Treatment",
        group="Metadata_Source",
        masks="Labels",
        nuclei="ER",
        where="Metadata_Use == 'judge'",
        progress=lambda done, total: steps.append((done, total)),
    )
    methods = len(judged.rows) - 1  # the last row is of features
    total = judged.counts["images"] * (1 + 2 * methods)
    assert steps == sorted(steps) and steps[0] == (0, total) and steps[-1] == (total, total)
    assert len({done for done, _ in steps}) > 5 * methods
    assert judged.judged == "tone" and judged.reference == "p1" and judged.settings["objects"] == "masks"
    rows = judged.rows
    assert (
        rows["tone"]["reference_change"] == 0
        and rows["tone"]["shift_control"] < 0.3 * rows["do nothing"]["shift_control"]
    )
    says = refused(
        InputError, from_table.evaluate_table, plates.table, group="Metadata_Source", masks="Labels", nuclei="ER"
    )
    assert "were part of the fit" in says


def test_a_manifest_goes_through_the_same_doors(plates, from_table, tmp_path):
    manifest = Manifest.open(plates.table, group="Metadata_Source", where="Metadata_Use == 'fit'")
    equalizer = BatchEqualizer(target="p1").fit(manifest)
    assert same_state(equalizer, from_table) and equalizer.fitted_.groups == from_table.fitted_.groups
    table = equalizer.transform(manifest, out_dir=tmp_path / "out")
    assert table.status.eq("done").all() and len(table) == len(manifest)
    for use, words in (
        (lambda: equalizer.fit(manifest, batch=["p1"]), "names its own batch"),
        (lambda: from_table.transform(manifest), "give out_dir="),
        (lambda: from_table.transform(plates.data.X, batch="p1", out_dir=tmp_path), "is for a Manifest"),
        (lambda: from_table.evaluate(plates.data.X, batch="p1", masks="Labels"), "X is not a Manifest"),
    ):
        assert words in refused(InputError, use)


@pytest.mark.parametrize("probed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_judgement_knows_the_truth(request, toned, probed, tmp_path):
    if not probed:
        request.getfixturevalue("without_probes")
    held_out = slides(first=100)
    judged = toned.evaluate(
        held_out.X, batch=held_out.batch, group=held_out.group, truth=held_out.truth, masks=held_out.masks
    )
    assert judged.rows["tone"]["psnr"] > judged.rows["do nothing"]["psnr"] + 10
    assert set(toned.notes_) <= set(judged.notes) and "tone" in judged.verdict
    assert (judged.rows["tone"]["batch_linear"] is not None) == probed
    judged.to_html(tmp_path / "report.html")
    found = [found for found in toned.fitted_.corrections if found.batch != toned.target_]
    assert found and all(
        f"<td>{f.place}</td><td>{f.text}</td>" in (tmp_path / "report.html").read_text() for f in found
    )


# What a review found


def test_a_fit_that_fails_leaves_nothing_behind(data, toned):
    equalizer = BatchEqualizer("stargan", target="A", training={"patch": 4096})
    refused(ConfigError, equalizer.fit, data.X, batch=data.batch)
    refused(NotFittedError, equalizer.transform, data.X, batch=data.batch)
    again = BatchEqualizer(target="A").fit(data.X, batch=data.batch)
    refused(InputError, again.fit, data.X, batch=["A"] * len(data.X))
    refused(NotFittedError, again.transform, data.X, batch=data.batch)


def test_parameters_set_after_the_fit_are_for_the_next(data):
    equalizer = BatchEqualizer(target="A").fit(data.X, batch=data.batch)
    before = equalizer.transform(data.X, batch=data.batch)
    equalizer.set_params(model="stargan")
    assert np.array_equal(equalizer.transform(data.X, batch=data.batch), before) and equalizer.fitted_.model == "tone"


def test_images_of_the_fit_are_known_without_groups(data):
    equalizer = BatchEqualizer(target="A").fit(data.X, batch=data.batch)
    says = refused(InputError, equalizer.evaluate, data.X, batch=data.batch)
    assert says == f"{len(data.X)} of the images were part of the fit; judge on others."


def test_the_judgement_refuses_what_is_not_finite(data):
    X = data.X.astype("float32")
    equalizer = BatchEqualizer(target="A").fit(X, batch=data.batch)
    other = X + 1
    other[3, 0, 2, 5] = np.nan
    assert "Image 3 of X has NaN" in refused(InputError, equalizer.evaluate, other, batch=data.batch)


def test_one_group_of_a_batch_is_noted(data):
    group = [f"well of {b}" for b in data.batch]
    equalizer = BatchEqualizer(target="A")
    with pytest.warns(LabWarning, match=r"Only one group \(well, donor\)"):
        equalizer.fit(data.X, batch=data.batch, group=group)


def test_more_images_than_fit_are_judged_in_part(data):
    half = 3 * 6 * data.X[0].nbytes
    equalizer = BatchEqualizer(target="A", memory=2 * half / design.GB).fit(data.X, batch=data.batch)
    found = equalizer.evaluate(data.X + np.uint16(1), batch=data.batch)
    assert found.counts["images"] == 18 and "at most 6 images of each batch" in " ".join(found.notes)


def test_a_batch_with_a_number_for_a_name_is_a_target(data):
    number = {name: i for i, name in enumerate(sorted(set(data.batch)))}
    equalizer = BatchEqualizer(target=1).fit(data.X, batch=[number[b] for b in data.batch])
    assert equalizer.target_ == "1"


# No signal, no curve


def two_plates(second, wells=6, sites=2, size=96, **options):
    """An equalizer fitted to two plates: nuclei, and what `second` makes of such a field."""
    rng, images, batch, group = np.random.default_rng(0), [], [], []
    for plate, make in (
        ("P1", lambda signal: synthetic.expose(signal, Effect(), rng)),
        ("P2", lambda s: second(s, rng)),
    ):
        for well in range(wells):
            for _ in range(sites):
                images.append(make(synthetic.nuclei(rng, size, 8)[0])[None])
                batch.append(plate)
                group.append(f"{plate} {well}")
    equalizer = BatchEqualizer(target="P1", min_images=4, **options)
    return equalizer.fit(images, batch=batch, control=[True] * len(batch), group=group), images[wells * sites :]


def dead(base):
    return lambda signal, rng: np.rint(rng.normal(400, 15, signal.shape) + base(signal.shape)).astype(np.uint16)


@over(
    "second remark",
    [
        (dead(lambda shape: 250), "foreground in 0 of 12 images"),
        (dead(lambda shape: 250 * (1 + 0.2 * np.linspace(-1, 1, shape[1]))), "foreground in 0 of 12 images"),
        (
            lambda signal, rng: synthetic.expose(250 + 0.03 * (signal - 250), Effect(), rng),
            "not corrected: beyond 4 times the stain has failed",
        ),
        (lambda signal, rng: synthetic.expose(250 + 0 * signal, Effect(), rng), "give controls with cells"),
    ],
)
def test_a_dead_channel_is_not_stretched(second, remark):
    with pytest.warns(LabWarning, match=r"P2 \(0\) is not corrected; corrections_ says why"):
        equalizer, images = two_plates(second)
    found = equalizer.corrections_.set_index("batch").loc["P2"]
    assert remark in found.remark
    for image in images[:3]:
        out = equalizer.transform(image[None], batch="P2")[0]
        assert out.std() < 1.3 * image.std() and out.max() < 1.3 * image.max()


def test_empty_controls_are_left_out():
    def second(signal, rng):
        return synthetic.expose(250 + 0.6 * (signal - 250) * (rng.random() < 0.4), Effect(), rng)

    equalizer, _ = two_plates(second, wells=12)
    found = equalizer.corrections_.set_index("batch").loc["P2"]
    assert 3 <= found.with_foreground <= 15 and found.images == 24 and found.groups == 12
    assert found.gain == pytest.approx(0.6, abs=0.1) and found.gain_corrected > 0.8


def test_what_was_found_is_said_and_kept(tmp_path):
    equalizer, _ = two_plates(lambda signal, rng: synthetic.expose(250 + 0.6 * (signal - 250), Effect(offset=80), rng))
    first, second = equalizer.fitted_.corrections
    assert (first.batch, first.gain, first.background, first.remark) == ("P1", 1.0, 0.0, "")
    assert second.gain == pytest.approx(0.6, abs=0.1) and second.background == pytest.approx(80, abs=10)
    pattern = r"P2, 0: 0\.\d\d x ± 0\.\d\d, corrected by \d\d%; background \+\d\d\S* ± \S+, corrected by (99|100)%.*"
    assert re.fullmatch(pattern, str(second))
    equalizer.save(tmp_path / "eq")
    again = BatchEqualizer.load(tmp_path / "eq")
    assert (
        again.corrections_.equals(equalizer.corrections_)
        and '"gain_corrected"' in (tmp_path / "eq/config.json").read_text()
    )


def test_one_control_well_is_refused_unless_asked_for():
    def same(signal, rng):
        return synthetic.expose(signal, Effect(), rng)

    says = refused(ConfoundedDesignError, two_plates, same, wells=1, sites=8)
    assert says.startswith("Only one group (well, donor) of P1, P2 was given") and "allow_single_group=True" in says
    with pytest.warns(LabWarning, match="Only one group"):
        equalizer, _ = two_plates(same, wells=1, sites=8, allow_single_group=True)
    found = equalizer.corrections_.set_index("batch").loc["P2"]
    assert found.gain_error > 0.1 and found.gain_corrected < 0.7
