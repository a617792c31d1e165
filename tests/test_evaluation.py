"""Evaluating: the right images, what a model has to beat, checkpoints, runs side by side, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refused, write_images
from PIL import Image

import img2img
from img2img.data.domain import Domain
from img2img.errors import ConfigError, DataError, Img2ImgError, ModelFileError
from img2img.evaluation.baselines import HistogramMatching
from img2img.evaluation.compare import compare
from img2img.evaluation.evaluate import evaluate, rank
from img2img.evaluation.judge import Judge
from img2img.evaluation.options import EvaluateOptions
from img2img.evaluation.scores import Evaluation, described
from img2img.evaluation.sides import CHUNK_VALUES, Side, Sides, chunks
from img2img.metrics.score import Score
from img2img.metrics.structure import structure
from img2img.metrics.table import METRICS, best_of, is_better, names_of, sign_of
from img2img.report.remarks import of_evaluation
from img2img.report.result import meanings
from img2img.runs.results import MATCHED, MODEL, NOTHING
from img2img.training.validation import kept_steps

SIZE = 32


def stripes(folder, count, upright, seed, dtype=np.uint8):
    """Images of upright or lying stripes on noise: two classes that a small judge tells apart."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        wave = (np.arange(SIZE) // 4 % 2 * 120 + rng.integers(20, 60)).astype(float)
        image = np.tile(wave, (SIZE, 1)) + rng.normal(0, 8, (SIZE, SIZE))
        image = (image if upright else image.T).clip(0, 255)
        grey = image.astype(dtype) * (257 if dtype == np.uint16 else 1)
        out = grey if dtype == np.uint16 else np.repeat(grey[..., None], 3, axis=2)
        Image.fromarray(out).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Unpaired data with held-out parts, and pairs (B is the negative of A) with a held-out part."""
    root = tmp_path_factory.mktemp("data")
    for part, count in (("train", 6), ("test", 5)):
        stripes(root / "unpaired" / f"{part}A", count, True, 1)
        stripes(root / "unpaired" / f"{part}B", count + 1, False, 2)
    for part, count in (("train", 6), ("val", 4)):
        folder = stripes(root / "all" / part, count, True, 3)
        for path in folder.iterdir():
            a = np.asarray(Image.open(path))
            target = root / "pairs" / part / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.concatenate([a, 255 - a], 1)).save(target)
    return root


TINY = dict(size=SIZE, width=4, d_width=4, discriminator="patch_16", device="cpu", precision="fp32", quiet=True)
RHYTHM = dict(log_every=4, save_every=4, sample_every=4, validate_every=2)


@pytest.fixture(scope="module")
def runs(root, tmp_path_factory):
    """A run on pairs and one on two domains."""
    out = tmp_path_factory.mktemp("runs")
    common = TINY | RHYTHM | dict(steps=8, keep=3)
    img2img.train("pix2pix", data=root / "pairs", out=out / "p2p", generator="unet_32", **common)
    img2img.train("cyclegan", data=root / "unpaired", out=out / "cyc", generator="resnet_3", **common)
    return out


def test_a_run_is_scored_on_what_it_held_out(runs, root):
    result = evaluate(runs / "p2p")
    assert list(result.rows) == [MODEL, NOTHING, MATCHED]
    assert set(result.rows[MODEL]) == {"l1", "psnr", "ssim", "drift"}
    protocol = result.protocol
    assert protocol["images"] == 4 and protocol["paired"] and protocol["size"] == "32, as in training"
    assert protocol["model"] == "model.safetensors" and protocol["step"] == 8 and protocol["direction"] == "a2b"
    model = img2img.load(runs / "p2p")
    paths = sorted((root / "pairs" / "val").iterdir())
    pairs = {path.name: np.asarray(Image.open(path)) for path in paths}
    outs = model([np.ascontiguousarray(pair[:, :SIZE]) for pair in pairs.values()])  # in one batch, which rounds alike
    errors = {
        name: float(np.abs(out.astype(float) - pair[:, SIZE:]).mean() / 255)
        for (name, pair), out in zip(pairs.items(), outs, strict=True)
    }
    assert result.per_image["l1"] == pytest.approx(errors, abs=1e-6)
    assert result.scores["l1"] == pytest.approx(np.mean(list(errors.values())), abs=1e-6)
    nothing = np.mean([np.abs(x[:, :SIZE].astype(float) - x[:, SIZE:]).mean() / 255 for x in pairs.values()])
    assert result.rows[NOTHING]["l1"].value == pytest.approx(nothing, abs=1e-6)


def test_the_result_goes_into_the_run_and_its_report(runs):
    evaluate(runs / "p2p", metrics="l1")
    saved = json.loads((runs / "p2p" / "evaluation.json").read_text())
    assert saved["metrics"]["l1"]["better"] == "lower" and saved["rows"][MODEL]["l1"]["value"] > 0
    with Image.open(runs / "p2p" / "evaluation_images.png") as picture:
        assert picture.size[0] > 3 * SIZE
    assert "histogram matching" in (runs / "p2p" / "report.html").read_text()


def test_other_images_leave_the_run_alone(runs, root):
    before = (runs / "p2p" / "evaluation.json").read_bytes()
    result = evaluate(runs / "p2p", ab=str(root / "pairs" / "train"), metrics=["l1"])
    assert result.protocol["images"] == 6 and result.protocol["size"] == "as they are"
    assert (runs / "p2p" / "evaluation.json").read_bytes() == before


def test_two_domains(runs):
    result = evaluate(runs / "cyc", metrics="structure,drift,cycle,identity,kid", features="encoder")
    model, nothing = result.rows[MODEL], result.rows[NOTHING]
    assert set(model) == {"structure", "drift", "cycle", "identity", "kid[encoder]"}
    assert set(nothing) == {"structure", "drift", "kid[encoder]"}  # nothing to go back with
    assert nothing["structure"].value == pytest.approx(1)
    assert result.protocol["images"] == 5 and result.protocol["real_images"] == 6 and not result.protocol["paired"]
    assert any("subsets of 5" in note for note in result.protocol["notes"])
    assert any("encoder: " in note and "no absolute meaning" in note for note in result.protocol["notes"])
    metrics = result.to_json()["metrics"]
    assert "no absolute meaning" in metrics["kid[encoder]"]["text"] and "relative" in metrics["kid[encoder]"]["range"]
    assert "no absolute meaning" not in metrics["drift"]["text"] and "relative" not in metrics["drift"]["range"]


def test_direction(runs):
    there, back = (evaluate(runs / "cyc", direction=d, metrics="structure,cycle") for d in ("a2b", "b2a"))
    assert (there.protocol["images"], back.protocol["images"]) == (5, 6)
    assert there.scores["cycle"] != back.scores["cycle"]


def test_does_not_depend_on_how_images_are_grouped(runs, root, monkeypatch):
    whole = evaluate(runs / "cyc", metrics="structure,drift,cycle,identity")
    monkeypatch.setattr("img2img.evaluation.sides.CHUNK", 2)
    parts = evaluate(runs / "cyc", metrics="structure,drift,cycle,identity")
    assert parts.scores == pytest.approx(whole.scores, abs=1e-6)


def test_images_of_many_sizes(runs, tmp_path):
    rng = np.random.default_rng(0)
    for i, (h, w) in enumerate([(40, 32), (32, 32), (40, 32), (33, 47)]):
        for side in "ab":
            path = tmp_path / side / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)).save(path)
    given = dict(a=str(tmp_path / "a"), b=str(tmp_path / "b"), paired=True, metrics="l1")
    result = evaluate(runs / "cyc", **given)
    model = img2img.load(runs / "cyc")
    expected = {
        f"{i}.png": np.abs(
            model(np.asarray(Image.open(tmp_path / f"a/{i}.png"))).astype(float)
            - np.asarray(Image.open(tmp_path / f"b/{i}.png"))
        ).mean()
        / 255
        for i in range(4)
    }
    assert result.per_image["l1"] == pytest.approx(expected, abs=1e-6)
    resized = evaluate(runs / "cyc", size=32, limit=2, **given)
    assert resized.protocol["images"] == 2 and resized.protocol["size"] == "32, resized"


def test_two_folders(root):
    test, train = str(root / "unpaired" / "testA"), str(root / "unpaired" / "trainB")
    same = evaluate(real=test, fake=test, paired=True)
    assert same.rows["fake"]["l1"].value == 0 and same.rows["fake"]["ssim"].value == pytest.approx(1)
    other = evaluate(real=test, fake=train, features="encoder", neighbours=1)
    assert set(other.rows["fake"]) == {
        *(f"{name}[encoder]" for name in ("kid", "precision", "recall", "density", "coverage")),
        "drift",
    }


def test_two_folders_of_16_bit(tmp_path):
    for name, seed in (("real", 1), ("fake", 2)):
        stripes(tmp_path / name, 5, True, seed, np.uint16)
    result = evaluate(real=str(tmp_path / "real"), fake=str(tmp_path / "fake"), paired=True, metrics="l1")
    real, fake = (
        [np.asarray(Image.open(p)).astype(float) for p in sorted((tmp_path / name).iterdir())]
        for name in ("real", "fake")
    )
    span = max(map(np.max, real)) - min(map(np.min, real))
    expected = np.mean([np.abs(x - y).mean() for x, y in zip(real, fake, strict=True)]) / span
    assert result.scores["l1"] == pytest.approx(expected, abs=1e-6)


def side_of(images):
    return Side.of(Domain.of("B", images), EvaluateOptions())


def test_histogram_matching_sees_all_of_a_large_image():
    image = np.full((1024, 1024, 1), 200, np.uint8)
    image[:, ::256] = 0
    quantiles = HistogramMatching(side_of([image] * 8)).quantiles[:, 0]
    assert quantiles[20] == 200 and quantiles[0] == 0
    ramp = np.tile(np.arange(256, dtype=np.uint8), (512, 4))[..., None]
    assert abs(HistogramMatching(side_of([ramp] * 20)).quantiles[512, 0] - 127.5) < 1


def test_the_way_back_of_pairs(root, tmp_path):
    data = dict(data=root / "pairs", generator="unet_32", out=tmp_path / "back", direction="b2a")
    img2img.train("pix2pix", **(TINY | RHYTHM | data | {"steps": 4}))
    own = evaluate(tmp_path / "back", metrics="l1,drift")
    named = evaluate(tmp_path / "back", ab=str(root / "pairs" / "val"), metrics="l1,drift")
    assert own.protocol["direction"] == "b2a"
    for row, scores in own.rows.items():
        assert {k: s.value for k, s in scores.items()} == pytest.approx(
            {k: s.value for k, s in named.rows[row].items()}
        )
    log = [json.loads(line) for line in (tmp_path / "back" / "log.jsonl").read_text().splitlines()]
    last = [row for row in log if row["kind"] == "validation"][-1]
    assert own.scores["l1"] == pytest.approx(last["l1"], abs=0.002)  # results are rounded to pixel values


def test_images_of_one_name_in_several_folders(root, tmp_path):
    for part in ("train", "val"):
        for sub in "xy":
            shutil.copytree(root / "pairs" / part, tmp_path / "data" / part / sub)
    run = tmp_path / "run"
    img2img.train("pix2pix", data=tmp_path / "data", out=run, generator="unet_32", steps=1, **TINY)
    result = evaluate(run, metrics="l1")
    assert len(result.per_image["l1"]) == 8 and {"x/000.png", "y/000.png"} <= set(result.per_image["l1"])


def test_identity_asks_on_the_scale_of_the_input(tmp_path):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 1000, (4, 32, 32), np.uint16), rng.integers(5000, 60000, (4, 32, 32), np.uint16)
    out = tmp_path / "run"
    model = img2img.train("cyclegan", a=a, b=b, out=out, generator="resnet_3", steps=1, **TINY)
    scale_in, scale_out = (getattr(model.spec(), name) for name in ("scale_in", "scale_out"))
    for name, images in (("a", a), ("b", b)):
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{i}.png")
    result = evaluate(out, a=str(tmp_path / "a"), b=str(tmp_path / "b"), metrics="identity")
    x = torch.stack([scale_out.encode(image[..., None]) for image in b])
    with torch.no_grad():
        expected = float((model.network()(x) - x).abs().mean() / 2)
    assert scale_in != scale_out and result.scores["identity"] == pytest.approx(expected, abs=1e-3)
    assert "identity" not in result.per_image  # its images have other names than the inputs


def test_results_are_json_for_everybody(root, tmp_path):
    folder = str(root / "unpaired" / "testA")
    result = evaluate(real=folder, fake=folder, paired=True, metrics="psnr")
    assert result.scores["psnr"] == np.inf
    result.save(tmp_path / "out.json")
    saved = json.loads((tmp_path / "out.json").read_text(), parse_constant=pytest.fail)
    assert saved["rows"]["fake"]["psnr"]["value"] is None


def test_memory_does_not_grow_with_the_size_of_images():
    images = [np.zeros((900, 900, 3), np.uint8)] * 40
    assert max(sum(x.size for x in chunk) for chunk in chunks(images)) <= CHUNK_VALUES
    assert [len(chunk) for chunk in chunks([np.zeros((4000, 4000, 3), np.uint8)] * 2)] == [1, 1]
    assert [len(chunk) for chunk in chunks([np.zeros((8, 8, 3), np.uint8)] * 20)] == [16, 4]


def test_histogram_matching_gives_the_other_sides_values():
    rng = np.random.default_rng(0)
    real = [rng.gamma(2, 20, (40, 40, 2)).clip(0, 255).astype(np.uint8) for _ in range(3)]
    image = rng.integers(0, 256, (50, 50, 2), dtype=np.uint8)
    kept = image.copy()
    out = HistogramMatching(side_of(real))(image)
    assert out.dtype == np.uint8 and out.shape == image.shape and (image == kept).all()
    levels = np.linspace(0.02, 0.98, 25)
    for c in range(2):
        pooled = np.concatenate([x[..., c].ravel() for x in real])
        np.testing.assert_allclose(np.quantile(out[..., c], levels), np.quantile(pooled, levels), atol=3)
        order = np.argsort(image[..., c].ravel(), kind="stable")
        assert (np.diff(out[..., c].ravel()[order].astype(int)) >= 0).all()  # ranks stay


def test_judge(root, tmp_path, runs):
    stripes(tmp_path / "judge" / "upright", 40, True, 5)
    stripes(tmp_path / "judge" / "lying", 40, False, 6)
    judge = Judge(tmp_path / "judge")
    assert judge.classes == ["lying", "upright"] and judge.accuracy > 0.9
    result = evaluate(runs / "cyc", metrics="structure", judge=str(tmp_path / "judge"))
    assert result.rows[NOTHING]["judge[upright]"].value > 0.9  # A is upright
    assert sum(result.rows[MODEL][f"judge[{name}]"].value for name in judge.classes) == pytest.approx(1)
    asked = {"classes": judge.classes, "accuracy": judge.accuracy, "tested": 8, "labelled": 0}
    assert result.protocol["judge"] == asked and "class_kept" not in result.scores
    assert any("give --labels" in note for note in result.protocol["notes"])


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A judge of upright and lying stripes, and inputs in a folder per class."""
    root = tmp_path_factory.mktemp("digits")
    for part, count in (("judge", 40), ("inputs", 6)):
        stripes(root / part / "upright", count, True, 5 + count)
        stripes(root / part / "lying", count, False, 6 + count)
    return root


def test_class_kept_is_asked_of_inputs_in_a_folder_per_class(digits, runs, root, command_line):
    inputs, other = str(digits / "inputs"), str(root / "unpaired" / "testB")
    asked = dict(metrics="structure", judge=str(digits / "judge"))
    result = evaluate(runs / "cyc", a=inputs, b=other, **asked)
    assert result.rows[NOTHING]["class_kept"].value > 0.9 and 0 <= result.scores["class_kept"] <= 1
    assert (
        result.protocol["judge"]["labelled"] == 12 and result.to_json()["metrics"]["class_kept"]["better"] == "higher"
    )
    one = evaluate(runs / "cyc", a=f"{inputs}/lying", b=other, **asked)
    assert "class_kept" not in one.scores  # one class of inputs is a domain, which a translation is to leave
    words = ("--a", inputs, "--b", other, "--metric", "structure", "--judge", digits / "judge")
    code, out, _ = command_line("evaluate", runs / "cyc", *words)
    assert code == 0 and "class_kept" in out and "class_kept: on 12 inputs of known class" in out


def test_class_kept_tells_a_kept_class_from_a_swapped_one(digits, tmp_path):
    swapped = tmp_path / "swapped"
    for name, other in (("upright", "lying"), ("lying", "upright")):
        shutil.copytree(digits / "inputs" / name, swapped / other)
    kept = {
        place: evaluate(real=str(digits / "inputs"), fake=str(place), metrics="drift", judge=str(digits / "judge"))
        for place in (digits / "inputs", swapped)
    }
    assert kept[digits / "inputs"].scores["class_kept"] > 0.9 and kept[swapped].scores["class_kept"] < 0.1
    flat, rows = tmp_path / "flat", ["label,file"]
    flat.mkdir()
    for path in sorted((digits / "inputs").rglob("*.png")):
        shutil.copy(path, flat / f"{path.parent.name}_{path.name}")
        rows.append(f"{path.parent.name},{path.parent.name}_{path.name}")
    table = tmp_path / "labels.csv"

    def asked(*lines):
        table.write_text("\n".join(lines) + "\n")
        folders = dict(real=str(flat), fake=str(flat), metrics="drift", judge=str(digits / "judge"))
        return evaluate(**folders, labels=str(table))

    assert asked(*rows).scores["class_kept"] > 0.9
    assert "has no label for 1 of 12 images, e.g. upright_005.png" in refused(DataError, asked, *rows[:-1])
    assert "has the label 'slanted'; the judge's classes are lying, upright" in refused(
        DataError, asked, *rows[:-1], "slanted,upright_005.png"
    )
    assert "columns file and label" in refused(DataError, asked, "a,b", "c,d")
    table.unlink()
    table.mkdir()
    folders = dict(real=str(flat), fake=str(flat), judge=str(digits / "judge"), labels=str(table))
    assert "cannot be read" in refused(DataError, evaluate, **folders)
    assert "add --judge DIR" in refused(ConfigError, EvaluateOptions, labels="labels.csv")


def unpaired_scores(structure, kid, chance=0.17, paired=False):
    """An evaluation of a model whose numbers are made up; those of doing nothing are of MNIST to USPS."""
    rows = {MODEL: {"kid[encoder]": kid, "structure": structure}, NOTHING: {"kid[encoder]": 24.5, "structure": 1.0}}
    known = {"paired": paired, "images": 4, "real_images": 4, "size": "as they are", "seconds": 1, "notes": []}
    known |= {} if chance is None else {"structure_by_chance": chance}
    return Evaluation(known, {row: {k: Score(x) for k, x in some.items()} for row, some in rows.items()})


def test_a_remark_where_results_no_longer_show_their_inputs(command_line, monkeypatch):
    words = "no longer show what the inputs show: structure 0.16, against 1 for the unchanged input and 0.17 for random"
    cases = {
        "6 % of the digits kept": (unpaired_scores(0.16, 0.436), True),
        "51 % kept": (unpaired_scores(0.53, 0.345), False),
        "nothing is won either": (unpaired_scores(0.16, 25.0), False),
        "label maps to photographs": (unpaired_scores(0.16, 0.436, chance=0.02), False),
        "images of many sizes": (unpaired_scores(0.16, 0.436, chance=None), True),
        "pairs, which have true answers": (unpaired_scores(0.16, 0.436, paired=True), False),
    }
    for case, (evaluation, said) in cases.items():
        texts = [remark.text for remark in of_evaluation(evaluation.record)]
        assert any("no longer show what the inputs show" in text for text in texts) == said, case
    assert words in " ".join(remark.text for remark in of_evaluation(cases["6 % of the digits kept"][0].record))
    monkeypatch.setattr("img2img.evaluation.evaluate.evaluate", lambda *_, **__: cases["6 % of the digits kept"][0])
    code, out, _ = command_line("evaluate", "run")
    assert code == 0 and words in out and "--judge" in out


def test_the_structure_of_chance_is_that_of_images_that_do_not_belong_together(runs, root, tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        for i in range(4):  # all alike, so any two are the pair
            shutil.copy(
                root / "unpaired" / ("testA" if name == "x" else "testB") / "000.png", tmp_path / name / f"{i}.png"
            )
    given = dict(a=str(tmp_path / "x"), b=str(tmp_path / "y"))
    known = evaluate(runs / "cyc", metrics="structure", **given).protocol
    images = [np.asarray(Image.open(tmp_path / name / "0.png")).transpose(2, 0, 1) for name in "xy"]
    expected = structure(*(torch.from_numpy(x / np.float32(127.5) - 1)[None] for x in images))
    assert known["structure_by_chance"] == pytest.approx(float(expected), abs=1e-4) and float(expected) < 0.9
    assert f"unrelated images of the target side: {float(expected):.2g}" in " ".join(known["notes"])
    assert "structure_by_chance" not in evaluate(runs / "cyc", metrics="drift", **given).protocol


def test_the_classes_of_a_judge_are_explained_once():
    metrics = {name: described(name) for name in ("drift", "class_kept", *(f"judge[{k}]" for k in range(10)))}
    page = meanings(metrics)
    assert page.count("<dt>") == 3 and page.count("judge[class]") == 1 and "class_kept" in page


def test_every_checkpoint(runs):
    ranking = rank(runs / "p2p", metrics="l1")
    kept = [f"models/{step:08d}.safetensors" for step in (2, 4, 6)]
    assert set(ranking.scores) == {*kept, "best.safetensors", "model.safetensors"}
    steps = [step for step, _ in ranking.scores.values()]
    assert steps == sorted(steps) and steps[0] == 2 and steps[-1] == 8
    values = {name: scores["l1"].value for name, (_, scores) in ranking.scores.items()}
    assert ranking.metric == "l1" and values[ranking.best] == min(values.values())
    saved = json.loads((runs / "p2p" / "checkpoints.json").read_text())
    assert saved["best"] == ranking.best and saved["scores"][kept[0]]["l1"]["value"] == values[kept[0]]
    for name in kept:
        alone = evaluate(runs / "p2p" / name, **_held_out(runs), metrics="l1")
        assert alone.scores["l1"] == pytest.approx(values[name], abs=1e-6)


def _held_out(runs):
    options = json.loads((runs / "p2p" / "config.json").read_text())["options"]
    return {"ab": str(Path(options["data"]) / "val")}


def test_best_goes_by_the_metrics_direction():
    assert best_of("l1", {"x": 0.2, "y": 0.1}) == "y"
    assert best_of("ssim", {"x": 0.2, "y": 0.1}) == "x"
    assert best_of("kid[encoder]", {"x": float("nan"), "y": 3.0}) == "y"
    assert best_of("l1", {"x": None, "y": float("nan")}) is None and best_of("unknown", {"x": 1.0}) is None
    assert is_better("l1", 0.1, 0.2) and is_better("iou[3]", 0.2, 0.1) and not is_better("ssim", 0.1, 0.1)
    assert [sign_of(name) for name in ("kid[encoder]", "mean_iou", "unknown")] == [-1, 1, 0]


@pytest.mark.parametrize(
    ("steps", "keep", "kept"), [(8, 3, [2, 4, 6]), (100, 4, [20, 40, 60, 80]), (2, 9, [1]), (9, 0, [])]
)
def test_models_are_kept_evenly(steps, keep, kept):
    assert kept_steps(steps, keep) == kept


def test_compare(runs, root, tmp_path):
    out = tmp_path / "compare.html"
    shown = [runs / "p2p", runs / "p2p" / "models" / "00000002.safetensors"]
    result = compare(shown, metrics="l1", out=out, show=3)
    assert list(result.rows) == ["p2p", "00000002.safetensors", NOTHING, MATCHED]
    assert result.rows["p2p"]["l1"].value == pytest.approx(evaluate(runs / "p2p", metrics="l1").scores["l1"], abs=1e-6)
    assert result.settings == {"step": {"p2p": 8, "00000002.safetensors": 2}}
    text = out.read_text()
    assert "00000002.safetensors" in text and "data:image/png" in text and "http" not in text.split("</style>")[1]
    assert result.to_json()["rows"]["p2p"]["l1"]["value"] == result.rows["p2p"]["l1"].value


class TestArrays:
    """What can be trained on can be evaluated on."""

    def test_they_give_the_scores_of_files(self, runs, root, tmp_path):
        for layout, run, options in (("unpaired", "cyc", {}), ("pairs", "p2p", {"paired": True})):
            a, b = (root / "unpaired" / f"test{side}" for side in "AB")
            if layout == "pairs":
                a, b = tmp_path / "a", tmp_path / "b"
                for path in sorted((root / "pairs" / "val").iterdir()):
                    both = np.asarray(Image.open(path))
                    for folder, half in ((a, both[:, :SIZE]), (b, both[:, SIZE:])):
                        folder.mkdir(exist_ok=True)
                        Image.fromarray(half).save(folder / path.name)
            files = evaluate(runs / run, a=str(a), b=str(b), **options)
            x, y = ([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())] for folder in (a, b))
            for given in ({"a": x, "b": y}, {"a": np.stack(x), "b": np.stack(y)}):
                found = evaluate(runs / run, **given)
                assert found.scores == pytest.approx(files.scores, rel=1e-5) and found.protocol["source"] == "arrays"
                assert next(iter(next(iter(found.per_image.values())))) == "image 0"
        apart = evaluate(real=np.stack(y), fake=np.stack(x), paired=True, metrics="l1")
        by_hand = np.mean([np.abs(p.astype(float) - q).mean() / 255 for p, q in zip(x, y, strict=True)])
        assert apart.scores["l1"] == pytest.approx(by_hand, abs=1e-6)

    def test_a_run_that_was_trained_on_them(self, tmp_path):
        arrays = np.random.default_rng(0).integers(0, 255, (3, SIZE, SIZE, 3), np.uint8)
        out = tmp_path / "run"
        img2img.train("cyclegan", a=arrays, b=255 - arrays, out=out, generator="resnet_3", steps=1, **TINY)
        assert "in Python a= and b=, folders or arrays" in refused(ConfigError, evaluate, out)
        assert evaluate(out, a=arrays, b=255 - arrays, metrics="structure").protocol["images"] == 3
        assert not (out / "evaluation.json").exists()  # it is not of the run's own held-out images
        ranking = rank(out, a=arrays, b=255 - arrays, metrics="structure")
        assert ranking.protocol["images"] == 3 and not (out / "checkpoints.json").exists()
        assert compare([out, out / "model.safetensors"], a=arrays, b=255 - arrays, metrics="structure").rows

    def test_mistakes(self, runs, root):
        x, folder = np.zeros((3, SIZE, SIZE, 3), np.uint8), str(root / "unpaired" / "testA")
        for options, sentence in (
            ({"a": x}, "arrays for both a and b"),
            ({"a": x, "b": folder}, "arrays for both a and b, or folders for both"),
            ({"real": x, "fake": x}, "does not go with a and b"),
            ({"a": x, "b": x[:0]}, "at least one image each, not 3 and 0"),
            ({"a": x, "b": x[:2], "paired": True}, "Pairs need equally many images in A and B"),
            ({"a": x[..., 0], "b": x, "metrics": "l2"}, "'l2'"),
        ):
            assert sentence in refused(Img2ImgError, evaluate, runs / "cyc", **options)
        assert "does not go with real and fake" in refused(ConfigError, evaluate, a=x, b=x)
        assert "for both real and fake" in refused(ConfigError, evaluate, real=x, fake=folder)
        assert "2 pairs differ in size" in refused(DataError, evaluate, real=x[:2], fake=x[:2, :20], paired=True)


class TestDuringTraining:
    def test_metrics_of_choice_and_the_best_by_one(self, root, tmp_path):
        out = tmp_path / "run"
        options = TINY | RHYTHM | dict(steps=6, generator="resnet_3", metrics="structure,kid", features="encoder")
        img2img.train("cyclegan", data=root / "unpaired", out=out, select="structure", **options)
        rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        scores = {row["step"]: row for row in rows if row["kind"] == "validation"}
        assert set(scores) == {2, 4, 6} and {"structure", "kid[encoder]"} <= set(scores[2])
        best = max(scores, key=lambda step: scores[step]["structure"])
        assert img2img.load(out / "best.safetensors").card.step == best

    def test_scoring_leaves_the_training_as_it_is(self, root, tmp_path):
        weights = []
        for name, every in (("often", 1), ("never", 10**6)):
            options = TINY | RHYTHM | dict(steps=4, generator="resnet_3", metrics="kid", features="encoder")
            model = img2img.train(
                "cyclegan", data=root / "unpaired", out=tmp_path / name, **(options | {"validate_every": every})
            )
            weights.append(model.network().state_dict())
        assert all((weights[0][key] == weights[1][key]).all() for key in weights[0])

    def test_patience(self, root, tmp_path, monkeypatch):
        scores = iter([0.5, 0.4, 0.45, 0.41, 0.1])
        monkeypatch.setattr("img2img.training.validation.Validation.__call__", lambda self, ema: {"l1": next(scores)})
        options = TINY | RHYTHM | dict(steps=20, generator="unet_32", patience=2)
        out = tmp_path / "run"
        img2img.train("pix2pix", data=root / "pairs", out=out, **options)
        assert img2img.load(out).card.step == 8 and img2img.load(out / "best.safetensors").card.step == 4
        rows = (out / "log.jsonl").read_text()
        img2img.train("pix2pix", data=root / "pairs", out=out, **options)  # it has ended, and stays so
        assert (out / "log.jsonl").read_text() == rows

    def test_refused(self, root, tmp_path):
        def sentence(method, data, **options):
            common = TINY | dict(steps=2, out=tmp_path / "no", data=root / data)
            return refused(ConfigError, img2img.train, method, **(common | options))

        assert "without pairs" in sentence("cyclegan", "unpaired", metrics="l1")
        assert "--select METRIC" in sentence("cyclegan", "unpaired", patience=2)
        assert "Did you mean 'ssim'" in sentence("pix2pix", "pairs", metrics="sim", generator="unet_32")
        assert "--keep" in sentence("pix2pix", "pairs", keep=-1, generator="unet_32")
        assert "names none" in sentence("pix2pix", "pairs", metrics="", generator="unet_32")
        assert "both directions" in sentence("pix2pix", "pairs", select="cycle", generator="unet_32")

    def test_images_too_small_for_a_metric_are_refused_at_once(self, root, tmp_path):
        options = TINY | dict(steps=2, out=tmp_path / "no", data=root / "pairs", generator="unet_32", metrics="ms_ssim")
        assert "176" in refused(DataError, img2img.train, "pix2pix", **options)

    def test_a_finished_run_keeps_its_evaluation(self, root, tmp_path):
        options = TINY | dict(steps=1, out=tmp_path / "run", data=root / "pairs", generator="unet_32")
        img2img.train("pix2pix", **options)
        evaluate(tmp_path / "run", metrics="psnr")
        before = (tmp_path / "run" / "evaluation.json").read_bytes()
        img2img.train("pix2pix", **options)
        assert (tmp_path / "run" / "evaluation.json").read_bytes() == before


class TestRefused:
    def test_names(self):
        assert "Did you mean 'psnr'" in refused(ConfigError, names_of, "psn")
        assert names_of(["l1,ssim", "l1", " kid"]) == ("l1", "ssim", "kid")

    def test_what_a_run_held_out_is_taken_as_it_was(self, runs):
        assert "used as in training" in refused(ConfigError, evaluate, runs / "p2p", size=64)

    def test_data_that_have_changed(self, root, tmp_path):
        data, run = tmp_path / "data", tmp_path / "run"
        shutil.copytree(root / "pairs" / "train", data)
        options = TINY | dict(ab=data, out=run, generator="unet_32", steps=1, val_fraction=0.34)
        img2img.train("pix2pix", **options)
        evaluate(run, metrics="l1")
        for i in range(3):
            shutil.copy(data / "000.png", data / f"more{i}.png")
        assert "have changed" in refused(DataError, evaluate, run)

    def test_what_a_model_cannot_be_asked(self, runs):
        for function in (evaluate, rank):
            assert "both directions" in refused(ConfigError, function, runs / "p2p", metrics="l1,cycle")

    def test_places(self, runs, root, tmp_path):
        p2p = runs / "p2p"
        assert "--a DIR --b DIR" in refused(ConfigError, evaluate, p2p / "model.safetensors")
        assert "--real DIR and --fake DIR" in refused(ConfigError, evaluate)
        assert "--real DIR" in refused(ConfigError, evaluate, ab=str(root))
        assert "--fake" in refused(ConfigError, evaluate, p2p, fake=str(root))
        assert "no folder" in refused(DataError, evaluate, p2p, ab=str(tmp_path / "nowhere"))
        assert "no folder" in refused(DataError, evaluate, real=str(root), fake=str(tmp_path / "nowhere"))
        assert "Did you mean 'limit'" in refused(ConfigError, evaluate, p2p, limt=3)
        assert "--limit" in refused(ConfigError, EvaluateOptions, limit=-1)
        assert "--size" in refused(ConfigError, EvaluateOptions, size=8)

    def test_metrics_that_do_not_suit(self, runs, root):
        folders = dict(real=str(root / "unpaired" / "testA"), fake=str(root / "unpaired" / "testB"))
        assert "add --paired" in refused(ConfigError, evaluate, runs / "cyc", metrics="l1")
        assert "needs a model" in refused(ConfigError, evaluate, **folders, metrics="structure")

    def test_images_of_another_kind(self, runs, tmp_path):
        stripes(tmp_path / "a", 3, True, 1, np.uint16)
        stripes(tmp_path / "b", 3, True, 1, np.uint16)
        text = refused(DataError, evaluate, runs / "cyc", a=str(tmp_path / "a"), b=str(tmp_path / "b"))
        assert "uint16" in text and "uint8" in text

    def test_folders_of_different_kinds(self, root, tmp_path):
        stripes(tmp_path / "deep", 3, True, 1, np.uint16)
        text = refused(DataError, evaluate, real=str(root / "unpaired" / "testA"), fake=str(tmp_path / "deep"))
        assert "cannot be compared" in text

    def test_runs_without_held_out_images(self, root, tmp_path):
        data = {"a": root / "unpaired" / "testA", "b": root / "unpaired" / "testB"}
        img2img.train("cyclegan", **data, out=tmp_path / "run", generator="resnet_3", steps=1, **TINY)
        assert "held no images out" in refused(ConfigError, evaluate, tmp_path / "run")
        arrays = np.zeros((3, SIZE, SIZE, 3), np.uint8)
        img2img.train("cyclegan", a=arrays, b=arrays + 1, out=tmp_path / "two", generator="resnet_3", steps=1, **TINY)
        assert "trained on arrays" in refused(ConfigError, evaluate, tmp_path / "two")

    def test_not_a_run(self, runs, tmp_path):
        assert "--all" in refused(ConfigError, rank, runs / "p2p" / "model.safetensors")
        (tmp_path / "odd").mkdir()
        (tmp_path / "odd" / "model.safetensors").write_bytes((runs / "p2p" / "model.safetensors").read_bytes())
        assert "not the folder of a translation run" in refused(ModelFileError, evaluate, tmp_path / "odd")

    def test_judges(self, root, tmp_path):
        assert "at least two" in refused(DataError, Judge, write_images(tmp_path / "one", 3, (32, 32), 1))
        for name in ("few", "many"):
            stripes(tmp_path / "judge" / name, 3 if name == "few" else 12, True, 1)
        assert "few has 3" in refused(DataError, Judge, tmp_path / "judge")
        assert "no folder" in refused(DataError, Judge, tmp_path / "nowhere")

    def test_comparisons(self, runs):
        assert "at least two" in refused(ConfigError, compare, [runs / "p2p"])
        assert "two different runs" in refused(ConfigError, compare, [runs / "p2p", runs / "p2p"])


class TestCommands:
    def test_evaluate(self, command_line, runs, tmp_path):
        code, out, _ = command_line("evaluate", runs / "p2p", "--metric", "l1,ssim", "--json", tmp_path / "out.json")
        assert code == 0 and "do nothing" in out and "histogram matching" in out and "n = 4 pairs" in out
        saved = json.loads((tmp_path / "out.json").read_text())
        assert set(saved["rows"][MODEL]) == {"l1", "ssim"}

    def test_the_network_is_named(self, command_line, root):
        folder = root / "unpaired"
        words = ("--real", folder / "testA", "--fake", folder / "testB", "--metric", "kid", "--features", "encoder")
        code, out, _ = command_line("evaluate", *words)
        assert code == 0 and "kid[encoder]" in out and "±" in out

    def test_all(self, command_line, runs, tmp_path):
        code, out, _ = command_line(
            "evaluate", runs / "p2p", "--all", "--metric", "l1", "--json", tmp_path / "all.json"
        )
        assert code == 0 and "models/00000002.safetensors (step 2)" in out and "best by l1:" in out
        assert json.loads((tmp_path / "all.json").read_text())["metric"] == "l1"

    def test_compare(self, command_line, runs, tmp_path):
        page = tmp_path / "page.html"
        words = (runs / "p2p", runs / "p2p" / "models" / "00000002.safetensors", "--metric", "l1", "--out", page)
        code, out, _ = command_line("compare", *words)
        assert code == 0 and page.exists() and "step: p2p 8, 00000002.safetensors 2" in out

    def test_list(self, command_line):
        code, out, _ = command_line("evaluate", "--metric", "list")
        assert code == 0 and all(name in out for name in METRICS)

    def test_where_nothing_can_be_written(self, command_line, runs, tmp_path):
        for place in (tmp_path / "nowhere" / "out.json", tmp_path):
            code, out, err = command_line("evaluate", runs / "p2p", "--json", place)
            assert code == 2 and out == "" and err.count("\n") == 1
        code, _, err = command_line("compare", runs / "p2p", runs / "cyc", "--out", tmp_path / "nowhere" / "page.html")
        assert code == 2 and "nowhere" in err

    def test_a_full_disk_is_one_line_after_the_scores(self, command_line, runs, tmp_path, monkeypatch):
        def full(self, *_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("pathlib.Path.write_text", full)
        two = (runs / "p2p", runs / "p2p" / "models" / "00000002.safetensors")
        out = tmp_path / "out"
        for words in (
            ("evaluate", runs / "p2p", "--json", out),
            ("evaluate", runs / "p2p", "--all", "--json", out),
            ("compare", *two, "--json", out, "--out", tmp_path / "page.html"),
            ("compare", *two, "--out", out),
        ):
            code, told, err = command_line(*words, "--metric", "l1")
            assert code == 2 and "l1" in told and err == f"img2img: {out} cannot be written: No space left on device.\n"
            assert not list(tmp_path.iterdir())

    def test_mistakes_are_one_line(self, command_line, runs):
        code, out, err = command_line("evaluate", runs / "p2p", "--metric", "l2")
        assert code == 2 and out == "" and err.count("\n") == 1 and "'l2'" in err


def test_sides_are_read_in_order_and_ahead(root):
    sides = Sides.of_folders(EvaluateOptions(ab=str(root / "pairs" / "train")), True)
    for side in sides.sides.values():
        for i, image in enumerate(side):
            np.testing.assert_array_equal(image, side[i])


def test_files_passed_over_are_a_note(tmp_path):
    for name in ("real", "fake"):
        write_images(tmp_path / name, 3, (16, 16), 0)
        (tmp_path / name / "x.heic").touch()
    result = img2img.evaluate(real=str(tmp_path / "real"), fake=str(tmp_path / "fake"), metrics="drift")
    assert "2 files were skipped: 2 .heic." in result.protocol["notes"]
