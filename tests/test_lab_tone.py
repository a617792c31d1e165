"""What is measured of batches, and the curves and fields that follow: effects, tone, field, correction, design."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from conftest import refused
from helpers import over
from hypothesis import given, settings, strategies as st
from scipy import ndimage, stats

from img2img.errors import ConfoundedDesignError, InputError
from img2img.lab import design, synthetic
from img2img.lab.curves import effects, field, tone
from img2img.lab.curves.correction import Correction
from img2img.lab.curves.effects import Levels, batch_levels, moves
from img2img.lab.curves.field import certain, widening
from img2img.lab.curves.measuring import measured_of
from img2img.lab.curves.place import Place
from img2img.lab.curves.tone import CONTRASTS, MODES, Curve, measure
from img2img.lab.judgement.baselines import Statistics
from img2img.lab.sham import sham
from img2img.lab.synthetic import Effect

SIZE, N = 96, 10


def exposed(effects, seed=0, paired=True, size=SIZE):
    """N images (1, H, W) for each effect, their truth without any, batch numbers and sources."""
    images, truth = [], []
    for b, effect in enumerate(effects):
        for i in range(N):
            signal, _ = synthetic.nuclei(np.random.default_rng([seed, i if paired else i + 1000 * b]), size, 8)
            images.append(synthetic.expose(signal, effect, np.random.default_rng([seed, b, i]))[None])
            truth.append(synthetic.expose(signal, Effect(), None)[None])
    group = [f"{0 if paired else b}/{i}" for b in range(len(effects)) for i in range(N)]
    return images, truth, np.repeat(np.arange(len(effects)), N), group


def psnr(images, truth):
    error = np.mean([(a.astype(float) - b) ** 2 for a, b in zip(images, truth, strict=True)])
    return 10 * np.log10(4000**2 / error)


@pytest.fixture(scope="session")
def lamps():
    """The same sources under three lamps and pedestals."""
    return exposed([Effect(), Effect(gain=0.6, offset=80), Effect(gain=1.4, offset=-60)])


@pytest.fixture(scope="session")
def tilted():
    """The same sources under even light, and under a gradient of 35 %."""
    return exposed([Effect(), Effect(gradient=0.35)], size=128)


@pytest.fixture(scope="session")
def evened(tilted):
    images, _, batch, group = tilted
    return Correction.fit(images, batch, group, 0, with_field=True)[0]


# Effects: how much batches differ


def sources(levels, between, within, m=12, seed=0):
    """m sources seen once in each of the batches, whose `levels` are known."""
    rng = np.random.default_rng(seed)
    b = len(levels)
    batch, group = np.tile(np.arange(b), m), np.repeat(np.arange(m), b)
    y = np.asarray(levels)[batch] + between * rng.standard_normal(m)[group] + within * rng.standard_normal(m * b)
    return y[:, None], batch, group


def test_levels_are_recovered_within_their_uncertainty():
    levels, off = np.array([3.0, -1.0, 0.5]), []
    for seed in range(100):
        found = batch_levels(*sources(levels, 2.0, 0.3, seed=seed), 3)
        difference = np.array([1, -1, 0])
        off.append((difference @ found.values[:, 0] - 4) / np.sqrt(difference @ found.covariance[0] @ difference))
    assert abs(np.mean(off)) < 0.3 and 0.85 < np.std(off) < 1.2


def test_sources_seen_in_both_batches_say_more_than_sources_of_their_own():
    y, batch, group = sources([0, 1], between=2.0, within=0.1)
    apart = np.array([-1, 1])
    found, nested = batch_levels(y, batch, group, 2), batch_levels(y, batch, group * 2 + batch, 2)
    variance = [apart @ levels.covariance[0] @ apart for levels in (found, nested)]
    assert variance[0] < variance[1] / 50
    assert abs(apart @ found.values[:, 0] - 1) < 4 * np.sqrt(variance[0]) < 0.4


def test_balanced_one_way_data_have_a_closed_form():
    """Batches of m groups of r images: the level is the mean, and its variance MS(between) / (m r)."""
    m, r = 30, 5
    rng = np.random.default_rng(3)
    y = rng.uniform(-2, 2, (2, m, 1)) + rng.uniform(-2, 2, (2, m, r))  # nothing lies far out
    batch, group = np.repeat([0, 1], m * r), np.repeat(np.arange(2 * m), r)
    levels = batch_levels(y.reshape(-1, 1), batch, group, 2)
    between = r * ((y.mean(2) - y.mean((1, 2))[:, None]) ** 2).sum() / (2 * (m - 1))
    assert levels.values[:, 0] == pytest.approx(y.mean((1, 2)))
    assert levels.covariance[0] == pytest.approx(np.eye(2) * between / (m * r), rel=0.1, abs=1e-12)
    few = batch_levels(y[:, :3].reshape(-1, 1), np.repeat([0, 1], 3 * r), np.repeat(np.arange(6), r), 2)
    assert np.ptp(np.log(few.spread)) > 2 * np.ptp(np.log(levels.spread))  # of three wells the spread is hardly known


def test_images_that_share_nothing_have_the_usual_standard_error():
    rng = np.random.default_rng(0)
    y, batch = rng.uniform(-1, 1, (30, 2)), np.repeat([0, 1], [10, 20])
    levels = batch_levels(y, batch, range(30), 2)
    pooled = ((y - levels.values[batch]) ** 2).sum(0) / 28
    assert levels.covariance == pytest.approx(pooled[:, None, None] * np.diag([1 / 10, 1 / 20]), rel=0.05)


def test_order_and_names_do_not_matter():
    y, batch, group = sources([0, 2, 5], 1.0, 0.5)
    levels = batch_levels(y, batch, group, 3)
    order, renamed = np.random.default_rng(1).permutation(len(y)), np.array([2, 0, 1])
    names = [f"well {g}" for g in group[order]]
    others = batch_levels(y[order], renamed[batch][order], names, 3)
    assert others.values[renamed] == pytest.approx(levels.values)
    assert others.covariance[:, renamed][:, :, renamed] == pytest.approx(levels.covariance)


def test_a_batch_whose_images_are_all_alike_is_not_taken_for_certain():
    """Beside a target that is known with an error of 7: the batch's own spread, none, says nothing of the target's."""
    y = np.tile([100, 6, 6.5, 7, 7.5, 8], (10, 1, 1))
    alone = measured_of(y, np.zeros(10, int), [str(i) for i in range(10)], 1)
    covariance = np.diag([49.0, *[0.01] * 5])[None]
    for background, least in ((107.0, 0.3), (170.0, 0.9)):
        level = np.array([[background, 6.1, 6.6, 7.1, 7.6, 8.1]])
        found = alone.beside(level, covariance).moves(np.array([1.0, 0])).of_batch(1)
        assert least < found.applied[0, 0, 0] / found.found[0, 0, 0] < 1


def test_a_few_images_far_out_do_not_move_a_level():
    y, batch, group = sources([0, 1], 0.1, 0.1, m=20)
    debris = y.copy()
    debris[[1, 7]] += 9
    clean, dirty = (batch_levels(values, batch, group, 2).values[:, 0] for values in (y, debris))
    assert np.abs(dirty - clean).max() < 0.06


# Effects: how much of a difference is corrected


def levels_apart(*values, error=0.1, within=0.3):
    """Levels with equal errors, known well, of batches with groups of their own."""
    count = len(values)
    spread = np.ones((1, len(effects.MIDDLES)))
    return Levels(np.array(values)[:, None], np.eye(count)[None] * error**2, spread, np.array([within]))


def shares(*values, target=0, **options):
    found = moves(levels_apart(*values, **options), np.eye(len(values))[target])
    return found.applied[:, 0], found.found[:, 0], found


def test_a_clear_difference_is_corrected_and_a_doubtful_one_reduced():
    kept = [float(shares(0, x)[0][1] / -x) for x in (0.001, 0.1, 0.3, 1, 10)]
    assert kept == sorted(kept) and 0.4 < kept[0] < 0.6 and kept[2] > 0.75 and kept[3] > 0.97
    assert kept[-1] == pytest.approx(1, abs=1e-3)
    applied, found, _ = shares(0, 0)
    assert not applied.any() and not found.any()


def test_it_does_not_depend_on_units_signs_or_the_zero():
    applied, _, whole = shares(0.2, 0.5, 1.1)
    other, _, _ = shares(1002, 1005, 1011, error=1, within=3)
    assert other == pytest.approx(10 * applied)
    assert shares(-0.2, -0.5, -1.1)[0] == pytest.approx(-applied)
    assert whole.error[:, 0] == pytest.approx([0, 0.1 * 2**0.5, 0.1 * 2**0.5], rel=1e-3)


def test_batches_tell_each_other_how_much_to_expect():
    """A doubtful difference passes for chance among batches that agree, and for real among ones that do not."""
    quiet, wild = [0.0] * 9, [-0.8, 0.7, -0.5, 0.9, -0.7, 0.6, 0.8, -0.9, -0.1]
    kept = [shares(0, 0.15, *others)[0][1] / -0.15 for others in (quiet, wild)]
    assert kept[0] < 0.3 and kept[1] > 0.7
    applied, found, _ = shares(0, 1.5, *quiet)  # one that lies far from all others keeps its difference
    assert applied[1] / found[1] > 0.93 and np.abs(applied[2:]).max() < 0.03


def test_equal_measurements_have_no_doubt():
    y = np.repeat([1.0, 1.3], 4)[:, None]
    found = moves(batch_levels(y, np.repeat([0, 1], 4), range(8), 2), np.array([0.0, 1]))
    assert found.applied[:, 0] == pytest.approx([0.3, 0], abs=1e-6)


def risk(wells, gain, repeats=80):
    """The errors of nothing, plain scaling and the correction, and whether the 90 % intervals hold the truth."""
    rng, errors, held = np.random.default_rng(wells), [], []
    for _ in range(repeats):
        well = np.repeat(np.arange(2 * wells), 3)
        y = rng.normal(0, 0.1, 2 * wells)[well] + rng.normal(0, 0.12, len(well)) + np.log(gain) * (well >= wells)
        found = moves(batch_levels(y[:, None], (well >= wells).astype(int), well, 2), np.array([1.0, 0]))
        off = np.array([0, found.found[1, 0], found.applied[1, 0]]) + np.log(gain)
        errors.append(off**2)
        held.append(abs(off[2]) <= 1.645 * found.left[1, 0])
    return np.sqrt(np.mean(errors, 0)), held


@pytest.mark.slow
def test_it_is_hardly_worse_than_the_better_of_nothing_and_plain_scaling():
    intervals = []
    for wells, gain in product([2, 4, 16], [0.6, 0.85, 1.0, 1.4]):
        (nothing, plain, corrected), held = risk(wells, gain)
        assert corrected < max(1.3 * min(nothing, plain), 0.8 * plain), (wells, gain)
        intervals += held
    assert 0.84 < np.mean(intervals) < 0.96


# Effects: what a field corrects


def test_few_groups_widen_what_is_in_doubt():
    wider = [widening(n) for n in (1, 2, 5, 30, 1e6)]
    assert wider == sorted(wider, reverse=True) and wider[-1] == pytest.approx(1, rel=1e-3)
    assert wider[2] == pytest.approx((stats.t.ppf(stats.norm.cdf(3), 5) / 3) ** 2)


@over("errors share", [(0, 0), (1.49, 0), (3, 0.75), (15, 0.99), (1e6, 1)])
def test_what_is_certain(errors, share):
    difference = np.array([errors * 0.2])
    assert certain(difference, np.array([[0.04]])) == pytest.approx(share * difference)


def test_what_is_certain_does_not_depend_on_units():
    difference, covariance = np.array([3.0, 1.0]), np.array([[1.0, 0.3], [0.3, 0.5]])
    to_metres = np.array([[0.001, 0], [0, 1000]])
    kept = certain(difference, covariance)
    assert 0 < kept[0] < 3
    assert certain(to_metres @ difference, to_metres @ covariance @ to_metres) == pytest.approx(to_metres @ kept)


# Tone: what is measured, and curves


def disks(count, gain=1.0, offset=0.0, size=SIZE):
    """`count` equal spots on a grid, before a noisy background."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    plane = 400 + rng.normal(0, 10, (size, size))
    for k in range(count):
        distance = np.hypot(y - 12 - 24 * (k // 4), x - 12 - 24 * (k % 4))
        plane += 3000 * np.clip(1 - distance / 9, 0, None)
    return gain * plane + offset


def test_density_does_not_matter():
    few, many = measure(disks(4), 1), measure(disks(16), 1)
    assert abs(few[0] - many[0]) < 2 and np.abs(few[1:] - many[1:]).max() < 0.03
    assert disks(16).mean() > 1.3 * disks(4).mean()


def test_gain_and_offset_are_found():
    plain, other = measure(disks(9), 1), measure(disks(9, 0.37, 55), 1)
    assert other[0] == pytest.approx(0.37 * plain[0] + 55)
    assert other[1:] == pytest.approx(plain[1:] + np.log(0.37))


def test_a_dark_foreground_is_a_bright_one_mirrored():
    bright, dark = disks(9), 5000 - disks(9)
    assert tone.signs(np.array([[tone.look(plane, 1)[1] for plane in (bright, dark)]])).tolist() == [1, -1]
    found, mirrored = measure(bright, 1), measure(dark, -1)
    assert mirrored[0] == pytest.approx(5000 - found[0]) and mirrored[1:] == pytest.approx(found[1:])


@over(plane=[np.full((32, 40), 7.0), np.random.default_rng(0).normal(400, 10, (64, 64))])
def test_a_plane_without_foreground(plane):
    found = measure(plane, 1)
    assert found[0] == pytest.approx(np.median(plane), abs=5) and np.isnan(found[1:]).all()


@over(
    "shape binned",
    [((512, 700), (512, 700)), ((1023, 1023), (1023, 1023)), ((1025, 1100), (512, 550)), ((5, 9), (5, 9))],
)
def test_large_planes_are_binned(shape, binned):
    plane = np.arange(shape[0] * shape[1], dtype=np.uint32).reshape(shape)
    small = tone.binned(plane)
    factor = shape[0] // binned[0]
    assert small.shape == binned and small.dtype == np.float64
    assert small[3, 5] == plane[3 * factor : 4 * factor, 5 * factor : 6 * factor].mean()


@over(steps=[0, 1, 4], shape=[(1, 9), (40, 50), (3, 3)])
def test_a_mask_is_grown_as_scipy_does(steps, shape):
    mask = np.random.default_rng(0).random(shape) > 0.97
    mask[0, -1] = True
    expected = ndimage.binary_dilation(mask, iterations=steps) if steps else mask
    assert np.array_equal(tone._grown(mask.copy(), steps), expected)


def test_binning_does_not_move_what_is_measured():
    plane = disks(16)
    large = np.kron(plane, np.ones((12, 12)))  # 1152 pixels
    assert tone.binned(large).shape == (576, 576)
    assert np.abs(measure(large, 1) - measure(np.kron(plane, np.ones((6, 6))), 1)).max() < 1e-6


LEVEL = st.lists(st.floats(3, 8), min_size=5, max_size=5).map(sorted)


@settings(max_examples=40, deadline=None)
@given(
    LEVEL,
    st.lists(st.floats(3, 8), min_size=5, max_size=5),
    st.floats(-300, 300),
    st.sampled_from([1, -1]),
    st.floats(0, 1),
)
def test_curves_rise_and_tables_agree_with_them(own, to, offset, sign, share):
    level = np.array([1000.0, *np.array(own) + np.arange(5) * 0.01])
    move = share * np.array([offset, *(MODES @ (np.array(to) - level[1:]))])
    curve = tone.curve(level, move, sign)
    assert (np.diff(curve.x) > 0).all() and (np.diff(curve.y) >= 0).all()
    values = np.arange(65536)
    mapped = curve(values)
    assert (np.diff(mapped) > -1e-6).all() and np.isfinite(mapped).all()
    assert np.array_equal(curve.table(np.dtype("uint16")), np.rint(mapped).clip(0, 65535))
    assert np.array_equal(curve.table(np.dtype("uint8")), np.rint(mapped[:256]).clip(0, 255))


def test_a_whole_difference_is_made_up_for_exactly():
    level, to = np.array([400.0, 6, 6.5, 7, 7.5, 8]), np.array([450.0, 6.3, 6.9, 7.2, 7.9, 8.1])
    for sign in (1, -1):
        curve = tone.curve(level, np.array([50, *(MODES @ (to - level)[1:])]), sign)
        knots = level[0] + sign * np.array([0, *np.exp(level[1:])])
        assert curve(knots) == pytest.approx(to[0] + sign * np.array([0, *np.exp(to[1:])]))


def test_modes_are_a_gain_a_gamma_and_bends():
    assert pytest.approx(np.eye(5), abs=1e-12) == MODES @ CONTRASTS
    assert MODES @ (np.arange(5) + 3) == pytest.approx([5, 2**0.5, 0, 0, 0]) and CONTRASTS[:, 0] == pytest.approx(1)


def test_no_difference_leaves_everything_as_it_is():
    level = np.array([400.0, 6, 6.5, 7, 7.5, 8])
    curve = tone.curve(level, np.zeros(6), 1)
    values = np.random.default_rng(0).normal(500, 1000, (7, 9))
    assert curve.is_identity and np.array_equal(curve(values), values)
    assert np.array_equal(curve.table(np.dtype("uint16")), np.arange(65536))


def test_a_curve_goes_on_beyond_its_points():
    curve = Curve(np.array([0.0, 1, 2]), np.array([0.0, 2, 5]))
    assert curve(np.array([[-2.0, 0.5], [1.5, 4]])).tolist() == [[-4, 1], [3.5, 11]]


# Correction


def test_lamps_are_evened_out(lamps):
    images, truth, batch, group = lamps
    correction, _ = Correction.fit(images, batch, group, 0)
    assert correction.is_identity(0) and not correction.is_identity(1)
    gains = [correction.levels[b, 0, 1:].mean() - correction.levels[0, 0, 1:].mean() for b in (1, 2)]
    assert np.exp(gains) == pytest.approx([0.6, 1.4], rel=0.03)
    for b in (1, 2):
        mine = [i for i in range(len(images)) if batch[i] == b]
        before = psnr([images[i] for i in mine], [truth[i] for i in mine])
        after = psnr([correction.corrected(images[i], b) for i in mine], [truth[i] for i in mine])
        assert after > before + 15 and after > 38


def test_an_inverted_image_is_corrected_as_its_mirror(lamps):
    images, _, batch, group = lamps
    correction, _ = Correction.fit(images, batch, group, 0)
    inverted = [65535 - image for image in images]
    mirrored, _ = Correction.fit(inverted, batch, group, 0)
    assert mirrored.signs.tolist() == [-1]
    for i in (N, 2 * N):
        expected = 65535 - correction(images[i], batch[i])
        assert np.abs(mirrored(inverted[i], batch[i]) - expected).max() < 1


def test_a_batch_without_foreground_keeps_its_contrast(lamps):
    images, _, batch, group = lamps
    rng = np.random.default_rng(0)
    blank = [rng.normal(700, 12, (1, SIZE, SIZE)).round().astype(np.uint16) for _ in range(N)]
    groups = [*group[: 2 * N], *(f"blank {i}" for i in range(N))]
    correction, _ = Correction.fit([*images[: 2 * N], *blank], batch, groups, 0)
    moved = correction(blank[0], 2) - blank[0]
    assert np.ptp(moved) < 0.01 and abs(moved.mean() - (np.median(np.stack(images[:N])) - 700)) < 20


def test_order_and_threads_do_not_matter(lamps):
    images, _, batch, group = lamps
    order = np.random.default_rng(0).permutation(len(images))
    one, _ = Correction.fit(images, batch, group, 0)
    other, _ = Correction.fit([images[i] for i in order], batch[order], [group[i] for i in order], 0, n_jobs=2)
    assert one.curves == pytest.approx(other.curves, abs=1e-6)


def test_a_batch_that_is_added_gets_the_curve_it_would_have_had():
    images, _, batch, group = exposed([Effect(), Effect(gain=0.6, offset=80)], paired=False)
    both, _ = Correction.fit(images, batch, group, 0)
    alone, _ = Correction.fit(images[:N] * 2, np.repeat([0, 1], N), group[:N] * 2, 0)
    added, _ = alone.with_batch(images[N:], group[N:])
    assert len(added.levels) == 3 and np.array_equal(added.curves[:2], alone.curves)
    moved, expected = added(images[N], 2), both(images[N], 1)
    assert np.abs(moved - expected).max() < 0.05 * expected.max()
    assert np.abs(moved - images[N]).max() > 0.3 * expected.max()


# Fields


def test_a_known_field_is_found_where_the_foreground_is_known():
    """Squares of one brightness all over the camera: nothing is left to chance."""
    y, x = np.mgrid[:128, :128]
    squares = (y % 16 < 8) & (x % 16 < 8)
    light = np.exp(field.surface(np.array([0.1, -0.2, 0.15, 0.05, -0.1]), (128, 128), (128, 128), (0, 0)))
    background = field.surface(np.array([5.0, 3, -4, 2, 1]), (128, 128), (128, 128), (0, 0))
    plane = np.where(squares, 300 + 1000 * light, 300 + background)
    found = [field.fit([equation], ["a"])[0] for equation in field.equations(plane, 1)]
    assert found[0] == pytest.approx([0.1, -0.2, 0.15, 0.05, -0.1], abs=0.02)
    assert found[1] == pytest.approx([5, 3, -4, 2, 1], abs=0.15)


def test_two_thirds_of_a_gradient_are_found(tilted, evened):
    """The rest is the threshold's, which sees only the bright middles of nuclei under little light, and the doubt's."""
    images, truth, batch, _ = tilted
    light = np.log(synthetic.light((128, 128), Effect(gradient=0.35)))
    rest = field.surface(evened.fields[1, 0, 0], (128, 128), (128, 128), (0, 0)) - light
    assert evened.fields[1, 0, 0, 1] > 0 and rest.std() < 0.36 * light.std()
    background = field.surface(evened.fields[1, 0, 1], (128, 128), (128, 128), (0, 0))
    assert background[:, -1].mean() - background[:, 0].mean() == pytest.approx(2 * 0.35 * 250, rel=0.1)
    pairs = [(images[i], evened.corrected(images[i], 1), truth[i]) for i in np.flatnonzero(batch)]
    before, after, true = zip(*pairs, strict=True)
    assert psnr(after, true) > psnr(before, true) + 9


def test_a_vignette_is_corrected():
    images, truth, batch, group = exposed([Effect(), Effect(vignette=0.3)], size=128)
    flat, bent = (Correction.fit(images, batch, group, 0, with_field)[0] for with_field in (False, True))
    assert (bent.fields[1, 0, 0, 2:4] < -0.03).all() and (bent.fields[1, 0, 1, 2:4] < 0).all()
    assert abs(bent.fields[1, 0, 0, [0, 1, 4]]).max() < 0.02
    after = [psnr([c.corrected(x, 1) for x in images[N:]], truth[N:]) for c in (flat, bent)]
    assert after[1] > after[0] + 1


def test_even_light_gets_no_field(lamps):
    images, _, batch, group = lamps
    correction, _ = Correction.fit(images, batch, group, 0, with_field=True)
    assert np.abs(correction.fields).max() == 0 and correction.camera.tolist() == [SIZE, SIZE]
    assert correction.curves == pytest.approx(Correction.fit(images, batch, group, 0)[0].curves)


def test_a_plane_without_foreground_says_nothing_of_the_light():
    light, background = field.equations(np.full((64, 64), 400), 1)
    assert not light.matrix.any() and not light.right.any() and background.matrix.any()
    coefficients, covariance = field.fit([light, light], ["a", "b"])
    assert not coefficients.any() and not covariance.any()


@over("origin size", [((0, 0), (40, 50)), ((17, 31), (64, 97)), ((127, 0), (1, 128))])
def test_a_tile_is_corrected_as_in_the_whole(tilted, evened, origin, size):
    image = tilted[0][N]
    (y, x), (h, w) = origin, size
    window = np.s_[:, y : y + h, x : x + w]
    assert np.array_equal(evened.corrected(image[window], 1, Place(origin)), evened.corrected(image, 1)[window])
    assert np.array_equal(evened(image[window], 1, Place(origin)), evened(image, 1)[window])
    assert not np.array_equal(evened(image[:, :40, :50], 1, Place((60, 60))), evened(image, 1)[:, :40, :50])


def test_the_target_of_a_field_is_left_alone(tilted, evened):
    image = tilted[0][0]
    assert evened.is_identity(0) and np.array_equal(evened.corrected(image, 0), image)
    assert evened.corrected(image, 0) is not image


def test_a_batch_that_is_added_gets_a_field(tilted, evened):
    images, _, _, group = tilted
    added, _ = evened.with_batch(images[N:], [f"new {g}" for g in group[N:]])
    assert np.array_equal(added.fields[:2], evened.fields)
    assert added.fields[2, 0, 0, 1] == pytest.approx(evened.fields[1, 0, 0, 1], rel=0.2)


def test_a_doubtful_target_field_is_not_aimed_at(tilted, evened):
    images, _, _, group = tilted
    doubtful = replace(evened, target_field_covariance=np.tile(1e6 * np.eye(5), (1, 2, 1, 1)))
    assert not doubtful.with_batch(images[N:], group[N:])[0].fields[2].any()


def test_a_gradient_that_both_have_is_left():
    """Of another lamp, too: its background is as much brighter as all else."""
    images, _, batch, group = exposed([Effect(gradient=0.35), Effect(gradient=0.35, gain=0.5)], size=128)
    correction, _ = Correction.fit(images, batch, group, 0, with_field=True)
    assert np.abs(correction.fields[1, 0, 0]).max() < 0.05 and np.abs(correction.fields[1, 0, 1]).max() < 5


def test_the_mean_of_fields_is_a_target_too(tilted):
    images, _, batch, group = tilted
    mean, _ = Correction.fit(images, batch, group, None, with_field=True)
    slopes = mean.fields[:, 0, 0, 1]
    assert slopes[0] == pytest.approx(-slopes[1], rel=0.02) and slopes[1] > 0.05  # but for the doubt in each


# Design


def collected(function, *args):
    """What is returned, and what is noted."""
    notes = []
    return function(*args, notes.append), notes


@over("label controls", [(None, False), ("xxxx", False), ("xyxy", False), ("xxxy", False), ("xxyy", True)])
def test_designs_that_are_not_confounded(label, controls):
    assert collected(design.refuse_confounded, "aabb", label, controls, False)[1] == []


@over(
    "batch label which",
    [
        ("aabb", "xxyy", "Every label lies in one batch only"),
        ("aabb", "xzyw", "Every label lies in one batch only"),
        ("aabbcc", "xxyyyy", "Every batch holds one label only"),
    ],
)
def test_designs_that_are(batch, label, which):
    says = refused(ConfoundedDesignError, design.refuse_confounded, batch, label, False, False, print)
    assert says.startswith(which) and "allow_confounded=True" in says
    _, notes = collected(design.refuse_confounded, batch, label, False, True)
    assert len(notes) == 1 and notes[0].startswith(which) and "allowed" in notes[0]


def test_which_images_are_learned_from():
    batch = ["b", "a"] * 10
    assert design.choose_images(batch, None, 8, 200) == list(range(20))
    some = design.choose_images(batch, None, 2, 4)
    assert [batch[i] for i in some].count("a") == 4 == len(some) / 2 and {0, 1, 18, 19} <= set(some)
    control = np.arange(20) < 16
    assert design.choose_images(batch, control, 8, 200) == list(range(16))
    says = refused(InputError, design.choose_images, batch, control, 9, 200)
    assert says.startswith("Batches with fewer than 9 controls: a (8), b (8).")
    assert "There is only one batch, a" in refused(
        InputError, design.Design([], ["a"] * 9, *[None] * 3).refuse_one_batch
    )


def test_images_that_cannot_be_learned_from():
    good = np.random.default_rng(0).integers(0, 900, (1, 8, 8)).astype(np.float32)
    flat, bright, bad = np.full_like(good, 3), good.copy(), good.copy()
    bright[0, 0] = 4095
    bad[0, 2, 5] = np.nan
    usable, notes = collected(
        design.inspect, [good, flat, bright, good], list("aaab"), [f"image {i}" for i in (4, 5, 6, 7)], 1
    )
    assert usable == [0, 2, 3] and notes == [
        "1 image is constant and left out of the fit: image 5 (a).",
        "1 image is saturated in more than 1 % of the pixels: image 6 (a).",
    ]
    says = refused(InputError, design.inspect, [good, flat, good], list("aab"), [0, 1, 2], 2, print)
    assert says == "Fewer than 2 images of a, b are not constant; give more."
    says = refused(InputError, design.inspect, [good, bad], list("ab"), ["image 3", "image 9"], 1, print)
    assert says.startswith("image 9 (batch b) has NaN in channel 0, row 2, column 5")


def levels_of(*means, channels=1):
    images = [
        np.random.default_rng(i).normal(mean, 10, (channels, 32, 32)).astype(np.float32) for i, mean in enumerate(means)
    ]
    names = [f"b{i}" for i in range(len(means))]
    return Statistics.of(images, names, reference="b0", example=images[0])


def test_the_medoid_is_the_batch_in_the_middle():
    assert design.medoid(levels_of(100, 500, 300)) == "b2"
    assert design.medoid(levels_of(100, 120, 900)) == "b1"


def test_the_scale_is_that_of_the_reference():
    scale = design.find_scale(levels_of(100, 5000, channels=2), None)
    assert scale.shape == (2, 2) and (scale[:, 0] > 70).all() and (scale[:, 1] < 130).all()
    flat = Statistics.of([np.ones((2, 4, 4), "uint8")] * 2, ["a", "b"], reference="a", example=np.ones((2, 4, 4)))
    assert refused(InputError, design.find_scale, flat, ["DNA", "ER"]).startswith("Channel DNA has one value in all")


def test_a_batch_split_by_chance_is_hardly_changed(lamps):
    images, _, _, group = lamps
    scale = np.array([[400.0, 4000.0]])
    found = [sham(images[:N], group[:N], scale, with_field, 0, 1) for with_field in (False, True)]
    assert max(found) <= 0.01
    assert found[0] == sham(images[:N], group[:N], scale, False, 0, 1)
    assert sham(images[:N], ["a", "b", "c"] * 3 + ["a"], scale, False, 0, 1) is None


def test_a_split_that_is_a_batch_effect_shows(lamps):
    """Half the groups under another lamp: that is what a sham split would have to be for it to change much."""
    images, _, batch, group = lamps
    scale = np.array([[400.0, 4000.0]])
    correction, _ = Correction.fit(images[: 2 * N], batch[: 2 * N], group[: 2 * N], 0)
    change = np.mean([np.abs(correction(x, 1) - x.astype(np.float32)).mean() for x in images[N : 2 * N]])
    assert change / np.ptp(scale) > 0.01


def test_part_of_a_sequence_is_read_when_it_is_asked_for():
    class Images:
        def __init__(self):
            self.read = []

        def __getitem__(self, i):
            self.read.append(i)
            return np.full((1, 2, 2), i)

    images = Images()
    some = design.part(images, [3, 1])
    assert len(some) == 2 and images.read == []
    assert some[1][0, 0, 0] == 1 and images.read == [1]


def test_statistics_with_one_more_batch():
    old, new = levels_of(100, 200), np.random.default_rng(9).normal(300, 10, (3, 1, 32, 32)).astype(np.float32)
    joined = old.with_batch("z", list(new))
    assert joined.names == ("b0", "b1", "z") and joined.reference == "b0"
    assert np.array_equal(joined.mean[:2], old.mean) and joined.mean[2, 0] == pytest.approx(300, abs=2)
    assert joined.quantiles.shape == (3, 1, 257) and joined.colour is None
