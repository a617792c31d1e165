"""The judgement of equalizers: closed forms, and that cheats and over-corrections are seen through."""

import dataclasses
import json
import re

import numpy as np
import pytest
from helpers import over
from scipy import ndimage

from img2img.data.picture import as_type
from img2img.errors import ConfigError, InputError, UnknownBatchError
from img2img.lab import synthetic
from img2img.lab.judgement import baselines, features, objects, pictures, probes, report, verdict
from img2img.lab.judgement.baselines import BASELINES, CHEATS, Statistics
from img2img.lab.judgement.case import Case, measure
from img2img.lab.judgement.channels import measure_channels, worst
from img2img.lab.judgement.gates import GATES, gates_of
from img2img.lab.judgement.judge import Evaluation, evaluate
from img2img.lab.judgement.scores import FEATURES_ONLY, IDENTITY
from img2img.report.style import STYLE

SCALE = np.array([[400.0, 7000.0]])
MINE = "my <model> & $x$"


def scene(fields, size=96, seed=0):
    """One crop of every field in every batch, half of them with brighter nuclei: keywords of `Case`."""
    rng = np.random.default_rng(seed)
    columns = {name: [] for name in ("before", "batch", "group", "label", "masks", "truth")}
    for i in range(fields):
        for j, batch in enumerate("ABCD"):
            signal, labels = synthetic.nuclei(rng, size, 14)
            treated = (i + j) % 2
            if treated:
                signal = synthetic.brighten(signal, labels)
            image, truth = (
                synthetic.expose(signal, synthetic.EFFECTS[b], r)[None] for b, r in ((batch, rng), ("A", None))
            )
            row = (image, batch, f"field {i}", "brighter" if treated else "as it is", labels, truth)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
    return columns


@pytest.fixture(scope="module", autouse=True)
def small_probes():
    """Few permutations and trees: their number is not what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "PERMUTATIONS", 6)
        patch.setattr(probes, "TREES", 20)
        yield


@pytest.fixture(scope="module")
def judged():
    """40 crops never seen in the fit, all baselines and cheats, and a model that is batch moments plus 3 DN."""
    case, fit = scene(10), scene(8, seed=5)
    statistics = Statistics.of(fit["before"], fit["batch"], reference="A", example=fit["before"][0])
    outputs = {n: method(case["before"], case["batch"], statistics) for n, method in (BASELINES | CHEATS).items()}
    moments = zip(outputs["batch moments"], case["batch"], strict=True)
    outputs[MINE] = [image if batch == "A" else image + np.uint16(3) for image, batch in moments]
    return evaluate(
        outputs,
        Case(**case, reference="A", scale=SCALE),
        judged=MINE,
        sham=0.004,
        notes=["about <this>"],
        fit=(fit["before"], fit["batch"], fit["masks"]),
    )


# ---- the judgement as a whole


@over(method=[*CHEATS, "per-image z-score", "per-image match_histograms"])
def test_cheats_and_methods_per_image_fail(judged, method):
    assert not judged.passed(method)
    assert judged.gates[method]["effect kept"] is False


@over(method=CHEATS, gate=["objects found", "nothing moved"])
def test_cheats_fail_on_structure_too(judged, method, gate):
    assert judged.gates[method][gate] is False


@over(method=[IDENTITY, "batch moments", MINE])
def test_honest_methods_pass(judged, method):
    assert judged.passed(method)
    assert set(judged.gates[method].values()) <= {True, None}


def test_per_image_zscore_erases_the_effect_and_batch_moments_keep_it(judged):
    assert judged.rows[IDENTITY]["effect"] == pytest.approx(1.5, abs=0.1)
    assert judged.rows["per-image z-score"]["retention"] == pytest.approx(1 / 1.5, abs=0.05)
    assert judged.rows["batch moments"]["retention"] == pytest.approx(1, abs=0.005)


def test_batch_told_alone_would_choose_the_cheats(judged):
    told = {method: row["batch_linear"] for method, row in judged.rows.items()}
    assert told[IDENTITY] > 0.7 > 0.45 > max(told[method] for method in CHEATS)
    assert judged.rows[IDENTITY]["batch_left"] == 1
    assert judged.rows["cheat: constant image"]["batch_linear"] == 0.25
    assert not set(CHEATS) & set(judged.ranking)


def test_batch_moments_bring_the_batches_together(judged):
    before, after = judged.rows[IDENTITY], judged.rows["batch moments"]
    for name in ("shift_control", "w1_foreground"):
        assert after[name] < 0.8 * before[name]
    assert after["psnr"] > before["psnr"] + 3
    assert after["phenotype_accuracy"] > before["phenotype_accuracy"]
    assert judged.ranking.index("batch moments") < judged.ranking.index(IDENTITY)


def test_only_methods_per_image_touch_the_reference(judged):
    assert judged.rows["batch moments"]["reference_change"] == 0
    assert judged.rows["batch quantiles"]["reference_change"] == 0
    assert judged.rows["per-image z-score"]["reference_change"] > 0.001


def by_hand(gates=None, confounded=False, scores=None, places=None, **rows):
    """Findings on "tone" from a table made by hand: method -> told, its interval's half, shift, phenotypes."""
    names = ("batch_linear", "batch_linear_low", "batch_linear_high", "batch_chance", "batch_null_high")
    names += (
        "shift_control_low",
        "shift_control_high",
        "shift_control",
        "phenotype_accuracy",
        "phenotype_low",
        "phenotype_high",
    )
    table = {}
    for method, (told, half, shift, phenotype) in rows.items():
        seen = phenotype if phenotype is None else (phenotype - half, phenotype + half)
        values = (told, told - half, told + half, 0.5, 0.6, 0.0, 0.1, shift, phenotype, *(seen or (None, None)))
        name = method.replace("_", " ").replace("per image z score", "per-image z-score").replace("z score", "z-score")
        table[name] = dict(zip(names, values, strict=True)) | (scores or {})
    passed = {"nothing moved": True} | (gates or {})
    return Evaluation(
        rows=table, judged="tone", reference="A", counts={}, gate_texts={},
        gates={method: dict.fromkeys(passed) if method == FEATURES_ONLY else passed for method in table},
        cramers_v=0.62, confounded=confounded, notes=(), settings={}, histograms={}, pictures=[], places=places or {},
    )  # fmt: skip


def test_the_verdict_is_one_of_four_with_the_numbers_that_decide():
    # batch told, half of its interval, control shift, phenotype accuracy
    nothing, good = (0.9, 0.05, 0.3, 0.7), (0.6, 0.05, 0.1, 0.8)
    cases = {
        "Use it. Phenotype accuracy is 0.80 with “tone”, 0.70 with “do nothing”.": (
            by_hand(do_nothing=nothing, tone=good)
        ),
        "Cannot be told: images change where there is nothing to correct, as there are few control groups to learn "
        "from. "
        "“tone” fails “sham unchanged” (0.02": (
            by_hand({"sham unchanged": False}, scores={"sham": 0.02}, do_nothing=nothing, tone=good)
        ),
        "Use it. Batch predictability is 0.60 with “tone”, 0.90 with “do nothing”.": (
            by_hand(do_nothing=nothing, tone=(0.6, 0.05, 0.1, 0.7), batch_moments=(0.8, 0.05, 0.1, 0.7))
        ),
        "Use it. Control shift is 0.10 with “tone”, 0.30 with “do nothing”.": (
            by_hand(do_nothing=nothing, tone=(0.9, 0.05, 0.1, None))
        ),
        "Use it. Phenotype accuracy is 0.80 with “tone”, 0.70 with “do nothing”; if features are enough, normalise "
        "them: phenotype accuracy is 0.80 with “tone”, 0.90 with “feature z-score per batch”.": (
            by_hand(do_nothing=nothing, tone=good, feature_z_score_per_batch=(0.1, 0.05, None, 0.9))
        ),
        # what is per image erases effects: it is a rival only where that was looked at
        "Use it. Phenotype accuracy is 0.80 with “tone”, 0.70 with “do nothing”": (
            by_hand({"effect kept": None}, do_nothing=nothing, tone=good, per_image_z_score=(0.5, 0.05, 0.1, 0.9))
        ),
        "No better than “per-image z-score” (simpler). Phenotype accuracy is 0.80 with “tone”, 0.70 with “do nothing”; "
        "phenotype accuracy is 0.80 with “tone”, 0.90 with “per-image z-score”.": (
            by_hand({"effect kept": True}, do_nothing=nothing, tone=good, per_image_z_score=(0.5, 0.05, 0.1, 0.9))
        ),
        "No better than “batch moments” (simpler). Phenotype accuracy is 0.80 with “tone”, 0.70 with “do nothing”; "
        "phenotype accuracy is 0.80 with “tone”, 0.80 with “batch moments”.": (
            by_hand(do_nothing=nothing, tone=good, batch_moments=good)
        ),
        "No better than doing nothing (simpler). Phenotype accuracy is 0.71 with “tone”, 0.70 with “do nothing”.": (
            by_hand(do_nothing=nothing, tone=(0.91, 0.05, 0.3, 0.71), batch_moments=good)
        ),
        # a probe below chance tells nothing, so to be nearer to it is no loss
        "No better than doing nothing (simpler). Batch predictability is 0.50 with “tone”, 0.30 with “do nothing”; "
        "the batch cannot be told without correction either.": (
            by_hand(do_nothing=(0.3, 0.05, None, None), tone=(0.5, 0.05, None, None))
        ),
        # seen on two real plates: the batch is not there, and the method makes one
        "Worse than nothing: do not use it. Batch predictability is 0.93 with “tone”, 0.38 with “do nothing”.": (
            by_hand(do_nothing=(0.38, 0.11, 0.17, None), tone=(0.93, 0.05, 0.23, None))
        ),
        # what carries over decides, whatever else is better
        "Worse than nothing: do not use it. Phenotype accuracy is 0.50 with “tone”, 0.70 with “do nothing”.": (
            by_hand(do_nothing=nothing, tone=(0.6, 0.05, 0.1, 0.5))
        ),
        # a dead channel stretched, while all the rest is better
        "Worse than nothing: do not use it. “tone” fails “noise kept” in P2, Actin (18.7, at most 3 allowed).": (
            by_hand({"noise kept": False}, scores={"noise_worst": 18.7}, places={"noise_worst": "P2, Actin"},
                    do_nothing=nothing, tone=good)
        ),
        "Worse than nothing: do not use it. “tone” fails “same outline” (0.700, at least 0.9 allowed) and “effect "
        "kept” (nothing is left to measure, at most 1.11 allowed).": (
            by_hand({"same outline": False, "effect kept": False}, scores={"dice": 0.7}, do_nothing=nothing, tone=good)
        ),
        "Cannot be told: batch and label are confounded (Cramér's V 0.62, above 0.3), and the fit was not on": (
            by_hand(confounded=True, do_nothing=nothing, tone=good)
        ),
    }  # fmt: skip
    kinds = {"Use it": "use it", "No better than": "no better", "Worse than nothing: do not use it": (
        "worse than nothing"), "Cannot be told": "cannot be told"}  # fmt: skip
    for start, evaluation in cases.items():
        assert evaluation.verdict.startswith(start), evaluation.verdict
        (advice,) = [kind for words, kind in kinds.items() if evaluation.verdict.startswith(words)]
        assert evaluation.advice == advice and evaluation.outcome == verdict.OUTCOMES[advice]
        assert len(re.findall(r"\d\.?\d*", evaluation.verdict)) >= 2  # the numbers that decide
        assert evaluation.to_text().splitlines()[2].startswith("  do nothing")  # the first rival


def test_what_was_not_measured_cannot_be_told():
    unknown = by_hand({"nothing moved": None}, do_nothing=(0.9, 0.05, 0.3, 0.7), tone=(0.6, 0.05, 0.1, 0.8))
    assert unknown.verdict == "Cannot be told: no gate could be measured on these images."
    unknown.rows["do nothing"].update(phenotype_accuracy=None, batch_linear=None, shift_control=None)
    assert unknown.verdict.startswith("Cannot be told: nothing to compare with doing nothing")


def test_the_verdict_on_a_model_that_is_batch_moments(judged):
    assert judged.verdict.startswith("No better than “batch moments” (simpler). ")
    assert judged.outcome == "warn" and judged.to_dict()["outcome"] == "warn"
    assert 'class="remark note"' in report.report(judged)
    cheat = dataclasses.replace(judged, judged="cheat: constant image")
    assert cheat.advice == "worse than nothing" and cheat.outcome == "fail"
    for gate in ("effect kept", "objects found", "objects counted", "nothing moved"):
        assert f"“{gate}”" in cheat.verdict


def test_a_channel_that_got_worse_cannot_pass():
    """A dead channel that is stretched, and controls that are moved away, beside a channel that is put right."""
    rng = np.random.default_rng(0)
    before, stretched, moved, right = [], [], [], []
    for i in range(24):
        fields = [synthetic.nuclei(rng, 64, 6)[0] for _ in range(2)]
        gain = 1.0 if i < 12 else 0.7
        dna, actin = (synthetic.expose(field, synthetic.Effect(gain=gain), rng) for field in fields)
        if i >= 12:
            actin = synthetic.expose(np.full((64, 64), 250.0), synthetic.Effect(gradient=0.2), rng)

        def times(channel, factor):
            return np.clip((channel - 580.0) * factor + 580, 0, 65535)

        before.append(np.stack([dna, actin]))
        right.append(np.stack([times(dna, 1 / gain), actin]).astype(np.uint16))
        stretched.append(np.stack([times(dna, 1 / gain), times(actin, 1 if i < 12 else 30)]).astype(np.uint16))
        moved.append(np.stack([times(dna, gain), actin]).astype(np.uint16))
    case = Case(
        before, batch=["P1"] * 12 + ["P2"] * 12, group=[str(i // 2) for i in range(24)], control=[True] * 24,
        reference="P1", scale=[[400, 4000]] * 2, channels=["DNA", "Actin"],
    )  # fmt: skip
    found = {name: worst(measure_channels(case, images)) for name, images in
             {"nothing": before, "right": right, "stretched": stretched, "moved": moved}.items()}  # fmt: skip
    assert found["nothing"][0]["noise_worst"] <= 1.05
    assert found["right"][0]["noise_worst"] < 2
    assert found["stretched"][0]["noise_worst"] > 3 and found["stretched"][1]["noise_worst"] == "P2, Actin"
    assert found["right"][0]["shift_worst"] < 0
    assert found["moved"][0]["shift_worst"] > 0.1 and found["moved"][1]["shift_worst"] == "P2, DNA"


def test_features_without_images_pass_no_gate(judged):
    row = judged.rows[FEATURES_ONLY]
    assert row["phenotype_accuracy"] > judged.rows[IDENTITY]["phenotype_accuracy"]
    assert row["px_shift"] is None
    assert not judged.passed(FEATURES_ONLY)


def test_without_masks_the_input_is_the_measure():
    case = scene(4, size=80)
    statistics = Statistics.of(case["before"], case["batch"], reference="A", example=case["before"][0])
    methods = {IDENTITY, "batch moments", "cheat: constant image", "cheat: random reference image"}
    outputs = {n: m(case["before"], case["batch"], statistics) for n, m in (BASELINES | CHEATS).items() if n in methods}
    case |= {"masks": None, "label": None, "truth": None}
    evaluation = evaluate(outputs, Case(**case, reference="A", scale=SCALE), judged="batch moments")
    passed = {name for name in outputs if evaluation.passed(name)}
    assert passed == {IDENTITY, "batch moments"}
    for cheat in CHEATS:
        assert evaluation.gates[cheat]["same objects"] is evaluation.gates[cheat]["same outline"] is False
    # and what was not given is not measured, let alone passed
    assert "objects found" not in evaluation.gates[IDENTITY]
    for gate in ("effect kept", "sham unchanged"):
        assert evaluation.gates["batch moments"][gate] is None
    assert evaluation.rows[IDENTITY]["psnr"] is evaluation.rows[IDENTITY]["phenotype_accuracy"] is None
    assert evaluation.cramers_v is None and not evaluation.confounded


def test_nothing_to_measure_is_not_a_pass():
    empty = [np.full((1, 40, 40), 7, np.uint16)] * 4
    evaluation = evaluate(
        {IDENTITY: empty}, Case(empty, batch=list("AABB"), reference="A", scale=SCALE), judged=IDENTITY
    )
    assert set(evaluation.gates[IDENTITY].values()) == {None}
    assert not evaluation.passed(IDENTITY)
    assert evaluation.advice == "cannot be told"
    assert "not measured" in report.report(evaluation)


def test_an_effect_too_small_to_be_seen_is_not_a_pass():
    def kept(retention, effect):
        return gates_of({"retention_off": retention, "effect": effect}, {}, masked=True)["effect kept"]

    assert kept(1.05, 1.05) is None  # erased altogether, it would be off by 1.05
    assert kept(1.05, 1.5) is True
    assert kept(1.2, 1.05) is kept(1.25, 1.5) is False


@over(
    "gate passing failing",
    [
        ("effect kept", 1.11, 1.12),
        ("objects found", 0.02, 0.021),
        ("objects counted", 0.01, 0.011),
        ("same objects", 0.1, 0.11),
        ("same outline", 0.9, 0.89),
        ("same count", 0.1, 0.11),
        ("nothing moved", 0.1, 0.11),
        ("sham unchanged", 0.01, 0.011),
        ("noise kept", 3, 3.1),
        ("controls kept", 0.1, 0.11),
    ],
)
def test_bounds_of_the_gates(gate, passing, failing):
    assert GATES[gate].passes(passing) and not GATES[gate].passes(failing)


def test_confounded_is_stamped(judged):
    rng = np.random.default_rng(0)
    images = [rng.integers(400, 900, (1, 32, 32), dtype=np.uint16) for _ in range(12)]
    case = {"before": images, "batch": list("AAAAAABBBBBB"), "reference": "A", "scale": SCALE}
    label = list("xxxxxyyyyyyx")
    evaluation = evaluate({IDENTITY: images}, Case(label=label, **case), judged=IDENTITY)
    assert evaluation.cramers_v > 0.3 and evaluation.confounded
    assert evaluation.verdict.startswith("Cannot be told: batch and label are confounded (Cramér's V 0.")
    assert "CONFOUNDED" in report.report(evaluation)
    assert not evaluate(
        {IDENTITY: images}, Case(label=label, **case), judged=IDENTITY, fitted_on_controls=True
    ).confounded
    assert not judged.confounded and judged.cramers_v == 0


# ---- files


def test_json_round_trip(judged, tmp_path):
    judged.to_json(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert read == judged.to_dict()
    assert read["rows"][MINE]["sham"] == 0.004
    assert read["passed"]["cheat: constant image"] is False
    assert read["counts"]["images"] == 40 and read["counts"]["groups"] == 10 and read["counts"]["batch B"] == 10


def test_html_holds_every_method_escaped_and_nothing_from_outside(judged, tmp_path):
    import pandas as pd

    quality = pd.DataFrame({"image": ["<b>.tif"], "ood": [1.25]})
    judged.to_html(tmp_path / "report.html", quality)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for method in judged.rows:
        assert method.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in page
    for raw in ("<model>", "about <this>", "<b>.tif", "http://", "https://", 'src="file'):
        assert raw not in page
    assert "about &lt;this&gt;" in page and "&lt;b&gt;.tif" in page and "1.250" in page
    assert page.index(verdict.BANNER) < page.index("No better than") < page.index("<h2>Gates</h2>")
    assert page.count("data:image/png;base64,") == 2 + 3 * 2 * 4  # charts; 2 fields of 3 batches, 4 pictures each


def test_text_and_frame(judged):
    text = judged.to_text()
    assert f"* {MINE}" in text and judged.verdict in text and verdict.BANNER in text
    assert text.index("  batch moments") < text.index("cheat: constant image")  # those that pass come first
    frame = judged.to_frame()
    assert list(frame.index) == list(judged.rows)
    assert frame.loc["cheat: constant image", "passed"] == np.False_
    assert frame.loc[IDENTITY, "dice"] == judged.rows[IDENTITY]["dice"]


def test_examples_have_cells_names_and_one_stretch():
    cells = plain(3700, 1.5)[0].astype(np.uint16)  # the middle of the range, with cells
    empty, double = np.full((1, 40, 40), 3700, np.uint16), cells + 660
    case = Case(
        [empty, cells, cells, empty, cells, cells], batch=list("AAABBB"), reference="A", scale=SCALE, channels=["DNA"],
        masks=[(x[0] > 3700).astype(int) for x in (empty, cells, cells, empty, cells, cells)],
        names=[f"{i}.tif, well {i}" for i in range(6)],
    )  # fmt: skip
    shown = pictures.examples(case, [empty, cells, cells, empty, double, double])
    assert [(item.batch, item.name) for item in shown] == [("B", "4.tif, well 4"), ("B", "5.tif, well 5")]
    assert {item.reference for item in shown} == {"1.tif, well 1"} and shown[0].stretch == (400, 7000)
    corner = {key: x[0, 0].tolist() for key, x in shown[0].images.items()}
    assert corner == {"before": 128, "after": 153, "reference": 128, "change": [224, 163, 170]}  # a little red
    page = report._examples(shown)
    assert "Batch B: 4.tif, well 4" in page and "reference: 1.tif, well 1" in page and "black is 400" in page


def test_the_page_fits_a_phone(judged):
    """Pictures stand in two columns below 700 px, and whatever is wider than the page scrolls in its own box."""
    assert "@media (max-width: 700px) { .row { grid-template-columns: repeat(2, minmax(0, 1fr)) }" in report.STYLE
    assert ".row img { width: 100% }" in report.STYLE and ".wide { overflow-x: auto }" in STYLE
    page = report.report(judged)
    assert (
        page.count('<div class="wide" tabindex="0"><table>') == page.count("<table>") and "width=device-width" in page
    )


def test_histograms_are_shares():
    image = np.full((1, 10, 10), 3700, np.uint16)
    (share,) = pictures.histograms([image], np.array(["x"]), SCALE)["x"]
    centre = np.average(np.arange(pictures.BINS) + 0.5, weights=share) / pictures.BINS
    assert share.sum() == 1
    assert pictures.LOWEST + centre * (pictures.HIGHEST - pictures.LOWEST) == pytest.approx(0.5, abs=0.01)


# ---- measures in closed form


def squares(*places, size=40, side=8):
    labels = np.zeros((size, size), np.int32)
    for number, (y, x) in enumerate(places, 1):
        labels[y : y + side, x : x + side] = number
    return labels


def test_agreement_of_hand_made_labels():
    reference = squares((2, 2), (2, 20), (20, 2), (20, 20))
    found = squares((2, 2), (4, 20), (20, 7), size=40)  # the same; 6/8 overlap: IoU 0.6; 3/8 overlap: IoU 3/13
    agreement = objects.compare(reference, found * 10)
    assert agreement["reference_objects"] == 4 and agreement["objects"] == 3
    assert agreement["f1"] == 2 * 2 / 7
    assert agreement["dice"] == 2 * 8 * (8 + 6 + 3) / (64 * 7)


def test_agreement_with_nothing():
    nothing = np.zeros((40, 40), np.int32)
    assert objects.compare(nothing, nothing)["f1"] == objects.compare(nothing, nothing)["dice"] == 1
    assert objects.compare(squares((2, 2)), nothing)["f1"] == objects.compare(squares((2, 2)), nothing)["dice"] == 0


def test_an_object_cannot_be_found_twice():
    whole, halves = squares((0, 0)), squares((0, 0))
    halves[4:8, :8] = 2  # IoU of each half is exactly one half
    assert objects.compare(whole, halves)["f1"] == 0


def test_structure_is_measured_against_the_input():
    reference = squares((2, 2), (2, 20), (20, 2), (20, 20))
    before, after = squares((2, 2), (2, 20), (20, 2)), squares((2, 2), (2, 20))
    nothing = np.zeros_like(reference)
    result = objects.structure([reference, nothing], [before, nothing], [after, reference])
    assert result["f1"] == 2 * 2 / 6
    assert result["f1_drop"] == pytest.approx(2 * 3 / 7 - 2 * 2 / 6)
    assert result["count_error"] == 0.5 and result["count_excess"] == 0.25
    assert np.isnan(objects.structure([nothing], [nothing], [nothing])["f1"])


def test_segmentation_finds_the_nuclei():
    signal, labels = synthetic.nuclei(np.random.default_rng(1), 128, 12)
    image = synthetic.expose(signal, synthetic.EFFECTS["A"], np.random.default_rng(2))
    found = objects.segment(image)
    agreement = objects.compare(labels, found)
    assert agreement["f1"] > 0.9 and agreement["dice"] > 0.95
    np.testing.assert_array_equal(objects.segment(image * 3.0 + 1000), found)
    np.testing.assert_array_equal(objects.segment(5000.0 - image, dark=True), found)
    assert not objects.segment(np.full((32, 32), 500, np.uint16)).any()


def test_touching_objects_are_split():
    y, x = np.mgrid[:60, :60]
    plane = sum(((y - 30) ** 2 + (x - c) ** 2 < 10**2).astype(float) for c in (21, 38)).clip(0, 1)
    assert objects.segment(plane).max() == 2


@pytest.fixture(scope="module")
def field():
    signal, labels = synthetic.nuclei(np.random.default_rng(3), 96, 14)
    return synthetic.expose(signal, synthetic.EFFECTS["A"], np.random.default_rng(4)).astype(float), labels


def test_shift_is_found(field):
    image, _ = field
    assert objects.shift(image[:-3, 4:], image[3:, :-4]) == pytest.approx(5, abs=0.2)  # not round, as a camera's is not
    assert objects.shift(image, ndimage.shift(image, (0.3, 0), mode="wrap")) == pytest.approx(0.3, abs=0.05)


@over(effect=[synthetic.Effect(gain=1.4, vignette=0.3), synthetic.Effect(gradient=0.35)])
def test_illumination_is_no_shift(field, effect):
    image, _ = field
    assert objects.shift(image, image * synthetic.light(image.shape, effect) + 50) <= 0.06


def test_shift_of_a_constant_is_unknown(field):
    assert np.isnan(objects.shift(field[0], np.zeros_like(field[0])))


def test_edges_agree_unless_they_turn(field):
    image, _ = field
    assert objects.edge_agreement(image, 2 * image + 7) == pytest.approx(1)
    assert objects.edge_agreement(image, -image) == pytest.approx(-1)
    assert objects.edge_agreement(image, np.zeros_like(image)) == 0
    assert abs(objects.edge_agreement(image, image[::-1, ::-1])) < 0.5


def test_novel_structure_sees_new_spots_and_no_tone(field):
    image, labels = field
    spots, places = synthetic.add_foci(image, labels, np.random.default_rng(0))
    assert len(places)
    assert objects.novel_structure(image, 2 * image + 7, 6600) == pytest.approx(0, abs=1e-6)
    tone = objects.novel_structure(image, image**0.8, 6600)
    invented = objects.novel_structure(image, spots, 6600)
    assert invented > 20 * tone
    assert objects.novel_structure(image, spots, 3300) == pytest.approx(2 * invented)


def test_object_means_are_above_background():
    labels = squares((2, 2))
    image = np.stack([np.full((40, 40), 100), np.full((40, 40), 30)]).astype(np.uint16)
    image[0][labels > 0] += 50
    np.testing.assert_array_equal(objects.object_means(image, labels), [50, 0])
    assert np.isnan(objects.object_means(image, np.zeros_like(labels))).all()


MEANS = np.array([[2.0], [3.0], [2.0], [3.0], [2.0], [4.0]])  # of batches A, A, B, B, C, C; every second is treated
WELLS = np.array(list("AABBCC"))
TREATED = np.array([False, True] * 3)


def test_retention_of_a_gain_is_one_and_of_erasure_one_over_the_effect():
    kept = objects.effect_retention(MEANS, MEANS * 0.4, WELLS, "A", TREATED, ~TREATED)
    assert kept["retention"] == pytest.approx(1) and kept["retention_worst_batch"] == pytest.approx(1)
    erased = objects.effect_retention(MEANS, np.ones((6, 1)), WELLS, "A", TREATED, ~TREATED)
    assert erased["retention"] == pytest.approx((1 / 1.5 + 1 / 2) / 2)
    assert erased["retention_worst_batch"] == pytest.approx(1 / 2)
    assert erased["effect"] == pytest.approx(3**0.5)  # of 1.5 and 2
    assert kept["retention_off"] == pytest.approx(1) and erased["retention_off"] == pytest.approx(3**0.5)


def test_what_is_lost_in_one_batch_and_gained_in_another_does_not_cancel():
    now = MEANS.copy()
    now[(WELLS == "B") & TREATED] *= 0.75
    now[(WELLS == "C") & TREATED] *= 1.25
    kept = objects.effect_retention(MEANS, now, WELLS, "A", TREATED, ~TREATED)
    assert kept["retention"] == pytest.approx(1) and kept["retention_off"] == pytest.approx((1.25 / 0.75) ** 0.5)


def test_a_channel_without_effect_does_not_dilute_the_retention():
    flat, dim = np.full((6, 1), 2.0), np.full((6, 1), 1e-4)
    was, now = np.hstack([MEANS, flat, dim]), np.hstack([np.ones((6, 1)), flat * 0.5, dim * TREATED[:, None]])
    result = objects.effect_retention(was, now, WELLS, "A", TREATED, ~TREATED)
    assert result["retention"] == pytest.approx((1 / 1.5 + 1 / 2) / 2)
    assert result["retention_worst_channel"] < 0.6


def test_a_lost_signal_is_no_retention():
    result = objects.effect_retention(MEANS, np.zeros((6, 1)), WELLS, "A", TREATED, ~TREATED)
    assert np.isnan(result["retention"])
    assert objects.effect_retention(MEANS, MEANS, WELLS, "A", np.zeros(6, bool), ~TREATED) == {}


def test_control_shift_is_the_log_ratio():
    now = MEANS * np.array([1, 1, 1.2, 9, 0.8, 9])[:, None]  # the treated do not count
    expected = (np.log(1.2) - np.log(0.8)) / 2
    assert objects.control_shift(MEANS, now, WELLS, "A", ~TREATED) == pytest.approx(expected)


def plain(offset, gain=1.0):
    """Two squares of 1000 on 0, times gain plus offset, and their labels."""
    labels = squares((2, 2), (20, 20))
    return ((labels > 0) * 1000.0 * gain + offset).astype(np.float32)[None], labels


def test_measures_of_a_made_up_batch():
    (a, labels), (b, _), (c, _) = plain(100), plain(166), plain(100, 1.2)
    case = {"batch": list("AABB"), "reference": "A", "scale": [[0, 1000]], "masks": [labels] * 4}
    before = [a, a, b, c]
    row = measure(Case(before, truth=[a] * 4, **case), before)
    assert row["w1_background"] == pytest.approx(0.066 / 2, rel=1e-5)  # half of B is 66 off
    assert row["w1_foreground"] == pytest.approx((0.066 + 0.2) / 2, rel=1e-5)
    assert row["shift_control"] == pytest.approx(np.log(1.1))
    errors = [0.066**2, 0.2**2 * 128 / 1600]
    assert row["psnr"] == pytest.approx(np.mean(-10 * np.log10(errors)), rel=1e-5)
    assert row["change"] == row["reference_change"] == row["px_shift"] == 0
    assert row["f1"] == 1 and row["dice"] > 0.85  # smoothing rounds the corners off
    done = measure(Case(before, truth=[a] * 4, **case), [a, a, a, a])
    assert done["w1_background"] == done["w1_foreground"] == done["shift_control"] == 0
    assert done["change"] == pytest.approx((0.066 + 0.2 * 128 / 1600) / 2, rel=1e-5)
    assert done["psnr"] == 100 and done["ssim"] == pytest.approx(1)


def test_a_second_label_is_the_treatment_and_controls_come_first():
    images, labels = zip(*[plain(100, gain) for gain in (1, 1.5, 1, 1.5)], strict=True)
    case = {"batch": list("AABB"), "reference": "A", "scale": [[0, 1000]], "masks": labels}
    after = [images[0], images[1], images[0], images[0]]
    assert measure(Case(images, label=list("ctct"), **case), after)["retention"] == pytest.approx(1 / 1.5)
    assert measure(Case(images, control=[True, False] * 2, **case), after)["retention"] == pytest.approx(1 / 1.5)
    assert measure(Case(images, label=list("abcd"), **case), after)["retention"] is None


def test_channels_and_sizes_may_differ():
    (a, labels), (b, _) = plain(100), plain(150)
    a, b = np.concatenate([a, a * 2]), np.concatenate([b, a * 2 + 400])
    before, masks = [a, a, b[:, :36], b], [labels, labels, labels[:36], labels]
    row = measure(Case(before, batch=list("AABB"), reference="A", scale=[[0, 1000], [0, 4000]], masks=masks), before)
    assert row["w1_background"] == pytest.approx((0.05 + 0.1) / 2, rel=1e-5)
    assert row["shift_control"] == pytest.approx(0, abs=1e-6)  # the background is subtracted
    assert row["batch_linear"] is not None


def test_dark_objects_have_an_effect_too():
    images, labels = zip(*[plain(2000, -gain) for gain in (1, 1.5, 1, 1.5)], strict=True)
    case = {
        "batch": list("AABB"),
        "reference": "A",
        "scale": [[0, 2000]],
        "masks": labels,
        "control": [True, False] * 2,
    }
    after = [images[0], images[1], images[0], images[0]]
    assert measure(Case(images, dark=True, **case), after)["retention"] == pytest.approx(1 / 1.5)


# ---- probes


def separable(rng, groups=12):
    """Features that give the batch away; every group has an image in each batch."""
    batch = np.tile(["A", "B", "C"], groups)
    return (
        rng.normal(size=(3 * groups, 5)) + 4 * (batch == "B")[:, None],
        batch,
        np.repeat(np.arange(groups), 3).astype(str),
    )


def test_batches_that_differ_are_told_and_shuffled_ones_are_not():
    rng = np.random.default_rng(0)
    x, batch, group = separable(rng)
    x[batch == "C", 0] += 8
    told = probes.batch_predictability(x, batch, group)
    assert told["linear"] > 0.95 and told["forest"] > 0.95 and told["chance"] == pytest.approx(1 / 3)
    assert told["linear_low"] <= told["linear"] <= told["linear_high"]
    assert told["null"] < 0.5 and told["null"] <= told["null_high"] < 0.7
    assert told == probes.batch_predictability(x, batch, group)
    guessed = probes.batch_predictability(x, np.tile(rng.permutation(["A", "B", "C"]), 12)[rng.permutation(36)], group)
    assert guessed["linear"] < 0.6


def test_probe_of_the_batch_never_sees_a_tested_group():
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(24), 4)  # a group is 4 nearly equal images of one batch
    batch = np.array(["A", "B"])[group % 2]
    x = rng.normal(size=(24, 8))[group] + 0.01 * rng.normal(size=(len(group), 8))
    leaky = probes.batch_predictability(x, batch, np.arange(len(group)).astype(str))
    told = probes.batch_predictability(x, batch, group.astype(str))
    assert leaky["forest"] > 0.95  # whoever splits at random is fooled
    assert told["forest"] < 0.75 and told["linear"] < 0.75


def test_classifier_of_phenotypes_never_sees_a_tested_group():
    rng = np.random.default_rng(2)
    group = np.tile(np.repeat(np.arange(20), 6), 2)  # each lies 6 times in both batches, with nearly the same features
    batch = np.repeat(["A", "B"], 120)
    label = rng.permutation(["x", "y"] * 10)[group]
    x = rng.normal(size=(20, 8))[group] + 0.01 * rng.normal(size=(240, 8))
    leaky = probes.phenotype_accuracy(x, label, batch, "A", np.arange(240).astype(str))
    honest = probes.phenotype_accuracy(x, label, batch, "A", group.astype(str))
    assert leaky["knn"] > 0.95  # whoever splits at random is fooled
    assert honest["knn"] < 0.7 and honest["linear"] < 0.7


def test_phenotypes_carry_over_unless_the_batch_moves_them():
    rng = np.random.default_rng(3)
    label, batch = np.tile(["x", "y"], 40), np.repeat(["A", "B"], 40)
    x = rng.normal(size=(80, 3)) + 5 * (label == "y")[:, None]
    group = np.arange(80).astype(str)
    assert probes.phenotype_accuracy(x, label, batch, "A", group)["accuracy"] > 0.95
    moved = x + 20 * (batch == "B")[:, None]
    assert probes.phenotype_accuracy(moved, label, batch, "A", group)["accuracy"] == 0.5
    with_unknown = probes.phenotype_accuracy(
        np.vstack([x, x[-2:]]), [*label, "z", "z"], [*batch, "B", "B"], "A", [*group, "q", "r"]
    )
    assert with_unknown["chance"] == 0.5  # a label that the reference lacks is left out


@over("batch group words", [("AAAA", "wxyz", "at least 2"), ("AABB", "wwyz", "Fewer than 2 groups for batch A")])
def test_too_few_batches_or_groups(batch, group, words):
    with pytest.raises(InputError, match=words):
        probes.batch_predictability(np.zeros((4, 2)), list(batch), list(group))


def test_phenotypes_need_labels_in_the_reference_and_images_elsewhere():
    x, group = np.zeros((4, 2)), list("wxyz")
    with pytest.raises(InputError, match="at least 2"):
        probes.phenotype_accuracy(x, list("ccct"), list("AAAB"), "A", group)
    with pytest.raises(InputError, match="Fewer than 2 groups for label of the reference batch t"):
        probes.phenotype_accuracy(x, list("cctt"), list("AAAB"), "A", group)
    with pytest.raises(InputError, match="nothing to test on"):
        probes.phenotype_accuracy(x, list("cctt"), list("AAAA"), "A", group)


def test_what_cannot_be_probed_is_noted():
    images = [plain(k)[0] for k in (1, 2, 3)]
    evaluation = evaluate(
        {IDENTITY: images}, Case(images, batch=list("AAB"), reference="A", scale=[[0, 1000]]), judged=IDENTITY
    )
    assert evaluation.rows[IDENTITY]["batch_linear"] is None
    assert any("Fewer than 2 groups for batch B" in note for note in evaluation.notes)


def table(*counts):
    return zip(
        *[(f"b{i}", f"l{j}") for i, row in enumerate(counts) for j, n in enumerate(row) for _ in range(n)], strict=True
    )


@over(
    "counts v",
    [
        (([20, 0], [0, 20]), 1.0),
        (([10, 10], [10, 10]), 0.0),
        (([20, 20],), 0.0),
        # chi² = 80·800²/40⁴·1 = 20 of 80, bias 1/79: sqrt((20/80 - 1/79) / (1 - 1/79))
        (([30, 10], [10, 30]), np.sqrt((0.25 - 1 / 79) / (1 - 1 / 79))),
    ],
)
def test_cramers_v_of_known_tables(counts, v):
    batch, label = table(*counts)
    assert probes.cramers_v(batch, label) == pytest.approx(v, abs=1e-12)
    assert probes.cramers_v(label, batch) == pytest.approx(v, abs=1e-12)


# ---- features


def values(image, scale=SCALE):
    found = features.image_features(image, np.asarray(scale))
    return dict(zip(features.feature_names(len(image)), found, strict=True))


def test_features_see_what_batches_do(field):
    image = field[0][None]
    was = values(image)
    assert was["0: mean"] == pytest.approx((image.mean() - 400) / 6600, rel=1e-5)
    assert was["0: quantile 0.5"] == pytest.approx((np.median(image) - 400) / 6600, rel=1e-5)
    brighter = values(image + 660)
    assert brighter["0: mean"] - was["0: mean"] == pytest.approx(0.1, rel=1e-4)
    assert brighter["0: noise"] == pytest.approx(was["0: noise"], abs=1e-3)
    assert values(ndimage.gaussian_filter(image, (0, 1, 1)))["0: detail"] < was["0: detail"] - 0.2
    vignette = values((image - 400) * synthetic.light(image.shape[1:], synthetic.Effect(vignette=0.5)) + 400)
    assert vignette["0: background radial"] < was["0: background radial"]
    gradient = values((image - 400) * synthetic.light(image.shape[1:], synthetic.Effect(gradient=0.5)) + 400)
    assert gradient["0: background across"] > was["0: background across"]
    turned = [abs(gradient[f"0: background {way}"] - was[f"0: background {way}"]) for way in ("across", "down")]
    assert turned[0] > 3 * turned[1]


def test_noise_feature_is_the_log_of_the_standard_deviation():
    noise = np.random.default_rng(0).normal(3000, 66, (1, 128, 128))
    assert values(noise)["0: noise"] == pytest.approx(-2, abs=0.02)


def test_features_of_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 64, 64))
    named = values(np.stack([a, b, 1 - a]).astype(np.float32), [[0, 1]] * 3)
    assert named["0, 2: correlation"] == pytest.approx(-1, abs=1e-4)
    assert abs(named["0, 1: correlation"]) < 0.1
    assert len(named) == 3 * len(features.PLANE_NAMES) + 3 * 2


@over(shape=[(1, 1, 1), (2, 3, 5), (1, 70, 33)], value=[0, 255])
def test_features_of_constants_are_finite(shape, value):
    found = features.image_features(np.full(shape, value, np.uint8), np.array([[0, 200]] * shape[0]))
    assert np.isfinite(found).all() and len(found) == len(features.feature_names(shape[0]))


def test_an_empty_range_is_refused():
    with pytest.raises(InputError, match="Channel 1 has an empty range"):
        features.image_features(np.zeros((2, 8, 8)), np.array([[0, 1], [5, 5]]))


# ---- baselines


@pytest.fixture(scope="module")
def stacks():
    rng = np.random.default_rng(0)
    images = [rng.gamma(2, 300, (2, 24, 20 + i)).astype(np.uint16) for i in range(6)]
    images[3:] = [image * 2 + 100 for image in images[:3]]  # batch B is batch A, brighter
    return images, list("AAABBB")


@over(dtype=[np.uint16, np.float32])
def test_statistics_are_those_of_all_pixels(stacks, dtype):
    images, batch = [image.astype(dtype) for image in stacks[0]], stacks[1]
    statistics = Statistics.of(images, batch, reference="A", example=images[0])
    pixels = np.concatenate([image[1].ravel() for image in images[3:]]).astype(float)
    assert statistics.names == ("A", "B")
    assert statistics.mean[1, 1] == pytest.approx(pixels.mean())
    assert statistics.sd[1, 1] == pytest.approx(pixels.std())
    np.testing.assert_allclose(statistics.quantiles[1, 1], np.quantile(pixels, baselines.LEVELS))


@over(method=["batch moments", "batch quantiles"])
def test_methods_per_batch_undo_a_straight_line(stacks, method):
    images, batch = stacks
    outputs = BASELINES[method](images, batch, Statistics.of(images, batch, reference="A", example=images[0]))
    assert all(output is image for output, image in zip(outputs[:3], images[:3], strict=True))
    for output, image in zip(outputs[3:], images[:3], strict=True):
        assert output.dtype == np.uint16
        np.testing.assert_allclose(output, image.astype(float), atol=1)


def test_per_image_methods_match_the_reference(stacks):
    images, batch = stacks
    statistics = Statistics.of(images, batch, reference="A", example=images[0])
    (scored,) = BASELINES["per-image z-score"]([images[4].astype(np.float32)], ["B"], statistics)
    np.testing.assert_allclose(scored.mean((1, 2)), statistics.mean[0], rtol=1e-5)
    np.testing.assert_allclose(scored.std((1, 2)), statistics.sd[0], rtol=1e-5)
    (matched,) = BASELINES["per-image match_histograms"]([images[3]], ["B"], statistics)
    np.testing.assert_allclose(matched, images[0].astype(float), atol=1)


def test_whole_numbers_are_rounded_and_clipped():
    values_ = np.array([-3.0, 1.5, 2.5, 254.6, 300])
    np.testing.assert_array_equal(as_type(values_, np.dtype(np.uint8)), [0, 2, 2, 255, 255])
    assert as_type(values_, np.dtype(np.float32)).dtype == np.float32


def test_colour_gets_reinhard():
    rng = np.random.default_rng(0)
    a = [ndimage.gaussian_filter(rng.random((3, 32, 32)), (0, 2, 2)) for _ in range(4)]
    a = [(60 + 130 * (image - image.min()) / np.ptp(image)).astype(np.uint8) for image in a]
    b = [(image * np.array([0.7, 0.9, 1.0])[:, None, None]).astype(np.uint8) for image in a]
    statistics = Statistics.of([*a, *b], list("AAAABBBB"), reference="A", example=a[0])
    methods = baselines.applicable(statistics)
    assert set(methods) == {*BASELINES, "per-batch Reinhard"}
    moved = methods["per-batch Reinhard"]([a[0], b[0]], ["A", "B"], statistics)
    assert moved[0] is a[0] and moved[1].dtype == np.uint8 and moved[1].shape == a[0].shape
    off, left = (np.abs(image.astype(float) - a[0]).mean() for image in (b[0], moved[1]))
    assert left < 0.35 * off


def test_reinhard_is_for_colour(stacks):
    statistics = Statistics.of(*stacks, reference="A", example=stacks[0][0])
    assert set(baselines.applicable(statistics)) == set(BASELINES)
    with pytest.raises(InputError, match="RGB"):
        baselines.RGB_BASELINES["per-batch Reinhard"](*stacks, statistics)


def test_cheats_keep_shapes_and_nothing_else(stacks):
    images, batch = stacks
    statistics = Statistics.of(images, batch, reference="A", example=images[0])
    for cheat in CHEATS.values():
        outputs = cheat(images, batch, statistics)
        assert [(o.shape, o.dtype) for o in outputs] == [(i.shape, i.dtype) for i in images]
    pool = [image[:, :4, :4].tobytes() for image in images[:3]]
    copies = CHEATS["cheat: random reference image"](images, batch, statistics)
    assert all(copy[:, :4, :4].tobytes() in pool for copy in copies)
    assert all(not np.array_equal(copy, image) for copy, image in zip(copies, images, strict=True))


def test_a_batch_that_was_not_fitted_is_refused(stacks):
    statistics = Statistics.of(*stacks, reference="A", example=stacks[0][0])
    with pytest.raises(UnknownBatchError, match="Batch 'Z' was not in the fit set, which has A, B"):
        BASELINES["batch moments"](stacks[0][:1], ["Z"], statistics)
    with pytest.raises(UnknownBatchError):
        Statistics.of(*stacks, reference="Z", example=stacks[0][0])
    with pytest.raises(UnknownBatchError):
        baselines.zscore_features(np.zeros((1, 2)), ["Z"], np.zeros((2, 2)), ["A", "B"])


def test_features_are_scored_per_batch():
    fit = np.array([[1.0, 7], [3, 7], [10, 7], [30, 9]])
    scored = baselines.zscore_features(np.array([[4.0, 8], [20, 8]]), ["A", "B"], fit, list("AABB"))
    np.testing.assert_allclose(scored, [[2, 1], [0, 0]])


# ---- mistakes


def test_mistakes_are_named():
    images = [plain(0)[0]] * 2
    case = {"before": images, "batch": list("AB"), "reference": "A", "scale": [[0, 1]]}
    with pytest.raises(ConfigError, match="Unknown method 'nothing'"):
        evaluate({IDENTITY: images}, Case(**case), judged="nothing")
    with pytest.raises(InputError, match="2 images, but 3 values of `label`"):
        Case(**case, label=list("xyz"))
    with pytest.raises(InputError, match="reference batch 'Z'"):
        Case(**case | {"reference": "Z"})
    with pytest.raises(InputError, match="number or shape"):
        evaluate({IDENTITY: images[:1]}, Case(**case), judged=IDENTITY)
