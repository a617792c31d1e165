"""The equalizer among scikit-learn's estimators: pipelines, metadata routing, searches, notebooks."""

import warnings

import numpy as np
import pytest
import sklearn
from helpers import over
from sklearn.base import TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, StratifiedGroupKFold, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from img2img import BatchEqualizer
from img2img.errors import ConfigError
from img2img.lab import LabWarning
from img2img.lab.synthetic import Effect, brighten, expose, nuclei

WELLS, SITES = 8, 3


@pytest.fixture(scope="module")
def plates():
    """Two plates of wells; in half of them the nuclei are twice as bright, which is what a classifier is to find."""
    rng = np.random.default_rng(0)
    rows = [(b, w, s) for b in "AB" for w in range(WELLS) for s in range(SITES)]
    images = []
    for b, w, _ in rows:
        signal, labels = nuclei(rng, 48, 4)
        effect = Effect() if b == "A" else Effect(gain=0.5, offset=150)
        images.append(expose(brighten(signal, labels, 2.0) if w % 2 else signal, effect, rng)[None])
    order = rng.permutation(len(rows))
    X, batch = np.stack(images)[order], np.array([b for b, _, _ in rows])[order]
    well = np.array([f"{b}{w}" for b, w, _ in rows])[order]
    return X, np.array([w % 2 for _, w, _ in rows])[order], batch, well


@pytest.fixture
def routed():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def brightness(images):
    return np.quantile(np.asarray(images, float), (0.5, 0.9, 0.97), axis=(1, 2, 3)).T


def classifier(**options):
    equalizer = BatchEqualizer(target="A", min_images=4, **options)
    steps = [("equalizer", equalizer), ("features", FunctionTransformer(brightness)), ("scale", StandardScaler())]
    return Pipeline([*steps, ("classify", LogisticRegression())])


def test_y_is_the_batch_if_none_is_given(plates):
    X, _, batch, well = plates
    known = {"group": well, "control": np.ones(len(X), bool)}
    given = BatchEqualizer(target="A").fit(X, batch=batch, **known)
    equalizer = BatchEqualizer(target="A")
    with pytest.warns(LabWarning, match="The batches were taken from y; if y is what must be kept, give batch="):
        equalizer.fit(X, batch, **known)
    assert np.array_equal(equalizer.transform(X, batch=batch), given.transform(X, batch=batch))
    assert len(equalizer.notes_) == 1 and not given.notes_
    with pytest.warns(LabWarning):
        assert np.array_equal(equalizer.fit_transform(X, batch, **known), given.transform(X, batch=batch))
    pipeline = make_pipeline(BatchEqualizer(target="A"), FunctionTransformer(brightness))
    with pytest.warns(LabWarning):
        features = pipeline.fit_transform(
            X, batch, **{f"batchequalizer__{name}": value for name, value in known.items()}
        )
    assert np.array_equal(features, brightness(given.transform(X, batch=batch)))


@pytest.mark.filterwarnings("ignore::img2img.lab.notes.LabWarning")
def test_a_pipeline_routes_batches_without_being_asked_to(plates, routed):
    X, y, batch, well = plates
    pipeline = classifier().fit(X, y, batch=batch, group=well)
    assert pipeline.score(X, y, batch=batch) > 0.9
    assert pipeline[:2].transform(X, batch=batch).shape == (len(X), 3)
    with pytest.raises(Exception, match="batch"):
        pipeline.predict(X)


@pytest.mark.filterwarnings("ignore::img2img.lab.notes.LabWarning")
@over(grouped=[True, False])
def test_a_search_splits_batches_with_the_images(plates, routed, grouped):
    X, y, batch, well = plates
    cv = StratifiedGroupKFold(2, shuffle=True, random_state=0) if grouped else KFold(3, shuffle=True, random_state=1)
    groups = {"groups": well} if grouped else {}
    search = GridSearchCV(classifier(), {"equalizer__target": ["A", "B"], "equalizer__model": ["tone"]}, cv=cv)
    search.fit(X, y, batch=batch, group=well, **groups)
    assert search.best_score_ > 0.8 and np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_["equalizer"].batches_ == ["A", "B"]
    assert (search.best_estimator_.predict(X, batch=batch) == y).mean() > 0.8
    found = cross_validate(classifier(), X, y, params={"batch": batch, "group": well, **groups}, cv=cv)
    assert found["test_score"].mean() > 0.8


def test_results_are_images_whatever_output_is_set(plates):
    X, _, batch, _ = plates
    equalizer = BatchEqualizer(target="A")
    assert isinstance(equalizer, TransformerMixin) and equalizer.set_output(transform="default") is equalizer
    with pytest.raises(ConfigError, match="are images, which cannot be returned as pandas; leave set_output out"):
        make_pipeline(equalizer, FunctionTransformer(brightness)).set_output(transform="pandas")
    with warnings.catch_warnings(), sklearn.config_context(transform_output="pandas"):
        warnings.simplefilter("ignore", LabWarning)
        assert equalizer.fit_transform(X, batch=batch).shape == X.shape


@pytest.mark.filterwarnings("ignore::img2img.lab.notes.LabWarning")
def test_a_notebook_shows_the_batches(plates):
    X, _, batch, _ = plates
    equalizer = BatchEqualizer(target="A")
    assert "images fitted" not in equalizer._repr_html_()
    names = np.where(batch == "B", "<B>", "A")
    page = equalizer.fit(X, batch=names)._repr_mimebundle_(include=None)["text/html"]
    assert "images fitted" in equalizer._repr_html_() and "&lt;B&gt;</th><td>24</td><td>moved to A" in page
    assert ">A</th><td>24</td><td>the target" in page
