"""The report of a run: what is in it, from what is in the run's folder."""

import base64
import io
import json
import math
import random
import re
import shutil
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from img2img.report.diagnosis import Finding
from img2img.report.run import SHOWN_SAMPLES, write_report

FACTS = {
    "method": "cyclegan",
    "training images": "900 images of A, 800 of B",
    "held-out images": "100 and 100",
    "options": "size 256, steps 4000",
    "steps": "4000 of 4000",
}
METRICS = {
    "l1": {"better": "lower", "range": "0 to 1", "text": "Mean absolute difference to the target."},
    "psnr": {"better": "higher", "range": "0 dB to infinity", "text": "Peak signal-to-noise ratio to the target."},
    "kid[encoder]": {"better": "lower", "range": "0 upwards", "text": "Kernel distance of features."},
    "drift": {"better": "lower", "range": "0 to 1", "text": "Shift of the channels' mean and deviation."},
    "structure": {"better": "higher", "range": "-1 to 1", "text": "Correlation of the edges with the source's."},
    "cycle": {"better": "lower", "range": "0 to 1", "text": "Mean absolute difference after there and back."},
}


def score(value, std=None):
    return {"value": value, "std": std, "note": ""}


def scored(model, nothing, **more):
    """An evaluation with these values of the model and of doing nothing."""
    rows = {"model": model, "do nothing": nothing, **more}
    rows = {row: {name: score(v) for name, v in values.items()} for row, values in rows.items()}
    names = {name for row in rows.values() for name in row}
    protocol = {"images": 100, "direction": "a2b", "paired": True, "size": "256", "model": "model.safetensors"}
    protocol |= {"step": 4000, "features": "encoder", "notes": [], "seconds": 12.3}
    return {"protocol": protocol, "metrics": {n: METRICS[n] for n in METRICS if n in names}, "rows": rows}


GOOD = scored(
    {"l1": 0.081, "psnr": 21.4, "kid[encoder]": 0.021, "drift": 0.012, "structure": 0.84, "cycle": 0.034},
    {"l1": 0.192, "psnr": 14.2, "kid[encoder]": 0.153, "drift": 0.094, "structure": 1.0},
    **{"histogram matching": {"l1": 0.151, "psnr": 16.0, "kid[encoder]": 0.119, "drift": 0.008, "structure": 0.97}},
) | {"per_image": {"l1": {f"{i:03d}.png": 0.05 + 0.01 * i for i in range(9)}}}
GOOD["rows"]["model"]["kid[encoder]"]["std"] = 0.0031


def records(steps=4000, every=10, seed=0):
    """Records of a CycleGAN with held-out pairs, whose best l1 is half way."""
    rng, rows = random.Random(seed), []
    for step in range(every, steps + 1, every):
        fall, t = math.exp(-3 * step / steps), step / steps
        row = {"step": step, "epoch": 1 + step // 900, "kind": "train", "lr": 1.0}
        for side in ("a", "b"):
            row |= {f"g_gan_{side}": 0.3 + rng.gauss(0, 0.05), f"cycle_{side}": 0.05 + 0.2 * fall + rng.gauss(0, 0.01)}
            row |= {f"identity_{side}": 0.04 + 0.1 * fall, f"d_{side}": 0.2 + rng.gauss(0, 0.03)}
            row |= {
                f"d_{side}_real": min(1, 0.8 + rng.gauss(0, 0.08)),
                f"d_{side}_fake": min(1, 0.75 + rng.gauss(0, 0.08)),
            }
        row |= {"grad_G": 3 * fall + 0.5 + rng.random() / 5, "grad_D": 1 + rng.random() / 2}
        rows.append(row | {"seconds_per_step": 1.08, "images_per_s": 1.85})
        if step % max(every, steps // 8) == 0:
            l1 = 0.08 + 0.4 * (t - 0.5) ** 2
            rows.append({"step": step, "epoch": 1, "kind": "validation", "l1": l1, "psnr": 21 - 20 * l1})
    return rows


def grid(width, height, seed=0):
    """Smooth blobs, as photographs compress."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def run_folder(root, name="h2z", steps=(500, 1000, 4000), size=(300, 120)):
    """A run folder with config and samples."""
    folder = root / name
    (folder / "samples").mkdir(parents=True)
    for step in steps:
        grid(*size, seed=step).save(folder / "samples" / f"{step:08d}.png")
    config = {
        "method": "cyclegan",
        "options": {"a": "horses", "b": "zebras", "size": 256, "lr": 0.0002, "lambda_cycle": 10.0, "d_lr": None},
        "processes": 1,
        "command": "img2img train cyclegan --a horses --b zebras --out checkpoints/h2z",
        "environment": {"img2img": "0.1.0", "torch": "2.14.1", "python": "3.11.7", "system": "Linux x86_64, 2 cores"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def put(folder, name, record):
    (folder / name).write_text(json.dumps(record))


def checkpoints(best=2000):
    scores = {f"models/{s:08d}.safetensors": {"step": s, "l1": score(0.08 + abs(s - best) / 1e5)} for s in
              range(1000, 5000, 1000)}  # fmt: skip
    return {"metric": "l1", "better": "lower", "best": f"models/{best:08d}.safetensors", "scores": scores}


def full_folder(root):
    """A run folder with everything that a report can show, some of it alarming."""
    folder = run_folder(root, steps=(200,), size=(1000, 500))
    for step in range(400, 4001, 200):
        shutil.copy(folder / "samples" / "00000200.png", folder / "samples" / f"{step:08d}.png")
    put(folder, "evaluation.json", GOOD)
    put(folder, "checkpoints.json", checkpoints())
    grid(600, 300).save(folder / "evaluation_images.png")
    findings = [Finding("oscillation", 700, 1100), Finding("discriminator winning", 3100)]
    write_report(folder, records(), FACTS, findings)
    return folder


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The report with everything."""
    return (full_folder(tmp_path_factory.mktemp("full")) / "report.html").read_text(encoding="utf-8")


def report_of(folder, rows=(), facts=FACTS, findings=()):
    write_report(folder, rows, facts, findings)
    return (folder / "report.html").read_text(encoding="utf-8")


def titles(page):
    return re.findall(r"<h2 id=[^>]*>(.*?)</h2>", page)


def remarks_of(page):
    """(kind, text) of each warning."""
    return re.findall(r'<div class="remark (\w+)"><p><strong>(.*?)</strong>', page)


def text_of(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def pictures(page):
    return re.findall(r'src="data:image/(\w+);base64,([^"]+)"', page)


def test_sections_follow_what_is_in_the_folder(full, tmp_path):
    assert titles(full) == [
        *("Diagnosis", "Result", "Held-out images over the run", "Curves", "Samples"),
        *("How to use the model", "What was trained"),
    ]
    bare = tmp_path / "bare"
    bare.mkdir()
    assert titles(report_of(bare)) == ["Diagnosis", "How to use the model", "What was trained"]
    assert not (bare / "curves.png").exists()


def test_links_of_the_page_lead_to_its_sections(full):
    links = re.findall(r'href="#([^"]+)"', full)
    assert len(links) == 6 and set(links) <= set(re.findall(r'id="([^"]+)"', full))


def test_the_head_says_how_far_the_run_is(tmp_path):
    text = text_of(report_of(run_folder(tmp_path), records()))
    assert "Step 4,000 of 4,000 (done) after 1 h 12 min, 1.08 s per step." in text
    assert "Trained on 900 images of A, 800 of B; held out: 100 and 100." in text
    text = text_of(report_of(tmp_path / "h2z", records(40), FACTS | {"steps": "40 of 4000"}))
    assert "Step 40 of 4,000 after 43 s, 1.08 s per step." in text


def test_an_empty_log(tmp_path):
    page = report_of(run_folder(tmp_path, steps=()), [], {"method": "cyclegan"})
    assert "No step has been recorded yet." in page and pictures(page) == []
    assert "Nothing conspicuous" in page


def test_it_loads_nothing_and_runs_nothing(full):
    sources = re.findall(r"""(?:src|href|action|data|poster|srcset)\s*=\s*["']?([^"'\s>]+)""", full)
    assert sources and all(source.startswith(("data:", "#")) for source in sources)
    assert "http://" not in full and "https://" not in full and "<script" not in full and "@import" not in full
    assert "default-src 'none'" in full


HOSTILE = "<script>alert('1')</script><img src=x onerror=alert(2)>\"&"


def test_names_are_text(tmp_path):
    folder = run_folder(tmp_path, "a<b>&'c' d")
    evaluation = json.loads(json.dumps(GOOD))
    evaluation["rows"]["model"][HOSTILE] = score(1.0)
    evaluation["rows"][HOSTILE] = {"l1": score(0.9)}
    evaluation["metrics"][HOSTILE] = {"better": "lower", "range": HOSTILE, "text": HOSTILE}
    evaluation["per_image"]["l1"] = {HOSTILE: 0.1, f"{HOSTILE}2": 0.2}
    evaluation["protocol"] |= {"notes": [HOSTILE], "features": HOSTILE, "model": HOSTILE, "size": HOSTILE}
    put(folder, "evaluation.json", evaluation)
    marks = checkpoints()
    marks["scores"][HOSTILE] = {"step": 1, HOSTILE: score(0.1)}
    put(folder, "checkpoints.json", marks | {"best": HOSTILE})
    config = json.loads((folder / "config.json").read_text())
    config["options"][HOSTILE] = HOSTILE
    put(folder, "config.json", config | {"command": HOSTILE})
    rows = [*records(100), {"step": 100, "kind": "validation", "epoch": 1, HOSTILE: 1.0, "$x_$": 2.0}]
    page = report_of(folder, rows, FACTS | {HOSTILE: HOSTILE, "training images": HOSTILE})
    assert "<script" not in page and "<img src=x" not in page and "<b>&'c'" not in page
    assert page.count("&lt;script&gt;") >= 10
    assert "img2img evaluate" in page and "&#x27;&quot;&#x27;&quot;&#x27;c" in page  # quoted for the shell


def test_the_table_of_results(tmp_path):
    folder = run_folder(tmp_path)
    put(folder, "evaluation.json", GOOD)
    page = report_of(folder, records())
    lines = dict(re.findall(r'<tr><th scope="row">(\S+) ?[↑↓]?</th>(.*?)</tr>', page))
    assert lines["l1"] == "<td><strong>0.081</strong></td><td>0.192</td><td>0.151</td>"
    assert lines["psnr"] == "<td><strong>21.4</strong></td><td>14.2</td><td>16</td>"
    assert "<strong>0.021</strong> <small>± 0.0031</small>" in lines["kid[encoder]"]
    assert lines["drift"] == "<td><strong>0.012</strong></td><td>0.094</td><td>0.008</td>"  # matching has it for free
    assert lines["cycle"] == "<td><strong>0.034</strong></td><td>–</td><td>–</td>"
    assert lines["structure"] == "<td>0.84</td><td>1</td><td><strong>0.97</strong></td>"  # doing nothing is no merit
    text = text_of(page)
    assert "l1 ↓" in text and "psnr ↑" in text
    assert "Mean absolute difference to the target; lower is better; 0 to 1." in text
    assert "Measured on 100 held-out images, with their true answers. Direction a2b, size 256." in text
    assert "Features: encoder." in text
    assert "By l1, best: 000.png (0.05), 001.png (0.06), 002.png (0.07); worst: 008.png (0.13), 007.png (0.12)" in text
    assert "Best and worst held-out images" not in text
    grid(600, 300).save(folder / "evaluation_images.png")
    assert "Best and worst held-out images" in report_of(folder, records())


def test_an_old_evaluation_says_so(tmp_path):
    folder = run_folder(tmp_path)
    put(folder, "evaluation.json", GOOD | {"protocol": GOOD["protocol"] | {"step": 2000, "notes": ["Few images."]}})
    text = text_of(report_of(folder, records()))
    assert "of step 2,000. The run has gone on to step 4,000 since." in text and "Few images." in text


def test_numbers_that_are_none(tmp_path):
    folder = run_folder(tmp_path)
    values = {"l1": float("nan"), "psnr": float("inf"), "kid[encoder]": None, "drift": -0.0123}
    put(folder, "evaluation.json", scored(values, {"l1": 0.1, "psnr": 30.0}))
    rows = [
        *records(200),
        {"step": 200, "epoch": 1, "kind": "train", "g_gan_a": float("nan"), "d_a_real": float("inf")},
    ]
    rows += [{"step": 200 + i, "epoch": 1, "kind": "validation", "l1": v, "psnr": float("inf")} for i, v in
             enumerate((float("nan"), 0.2))]  # fmt: skip
    page = report_of(folder, rows)
    lines = dict(re.findall(r'<tr><th scope="row">(\S+) ?[↑↓]?</th>(.*?)</tr>', page))
    assert lines["l1"] == "<td>–</td><td><strong>0.1</strong></td>"
    assert lines["psnr"] == "<td><strong>∞</strong></td><td>30</td>"
    assert lines["kid[encoder]"] == "<td>–</td><td>–</td>" and "−0.0123" in lines["drift"]
    assert not re.search(r"\bnan\b|\binf\b|None", text_of(page))


@pytest.mark.parametrize(
    ("model", "nothing", "expected"),
    [
        ({"l1": 0.1}, {"l1": 0.2}, None),
        ({"l1": 0.2}, {"l1": 0.1}, "nothing learned: the model does not beat doing nothing at l1 (0.2 against 0.1)."),
        ({"l1": 0.1}, {"l1": 0.1}, "nothing learned: the model does not beat doing nothing at l1 (0.1 against 0.1)."),
        ({"psnr": 20}, {"psnr": 10}, None),
        ({"psnr": 10}, {"psnr": 20}, "nothing learned: the model does not beat doing nothing at psnr (10 against 20)."),
        ({"psnr": math.inf}, {"psnr": 20}, None),
        ({"l1": 0.2, "psnr": 20}, {"l1": 0.1, "psnr": 10}, "the model does not beat doing nothing at l1 (0.2 against "
         "0.1)."),
        ({"l1": 0.2, "cycle": 0.1}, {"l1": 0.1}, "nothing learned: the model does not beat doing nothing at l1 (0.2 "
         "against 0.1)."),
        ({"structure": 0.5}, {"structure": 1.0}, None),
        ({"l1": math.nan}, {"l1": 0.1}, None),
        ({"cycle": 0.1}, {}, None),
    ],
)  # fmt: skip
def test_nothing_learned(tmp_path, model, nothing, expected):
    folder = run_folder(tmp_path)
    put(folder, "evaluation.json", scored(model, nothing))
    found = remarks_of(report_of(folder))
    if expected is None:
        assert [text for _, text in found] == ["Nothing conspicuous"]
    else:
        assert found == [("wrong" if expected.startswith("nothing") else "note", expected)]


def test_a_simpler_way_that_is_as_good(tmp_path):
    folder = run_folder(tmp_path)
    put(folder, "evaluation.json", scored({"l1": 0.2}, {"l1": 0.3}, **{"histogram matching": {"l1": 0.1}}))
    text = "the model does not beat the simpler way “histogram matching” at l1 (0.2 against 0.1)."
    assert remarks_of(report_of(folder)) == [("note", text)]


@pytest.mark.parametrize(("value", "warned"), [(0.02, False), (0.2, True), (None, False)])
def test_drift(tmp_path, value, warned):
    folder = run_folder(tmp_path)
    put(folder, "evaluation.json", scored({"drift": value}, {"drift": 0.5}))
    assert ("intensity drift" in text_of(report_of(folder))) == warned


def test_another_checkpoint_is_better(tmp_path):
    folder = run_folder(tmp_path)
    (folder / "models").mkdir()
    (folder / "models" / "00002000.safetensors").touch()
    put(folder, "checkpoints.json", checkpoints(best=2000))
    page = report_of(folder)
    (kind, text), *others = remarks_of(page)
    assert kind == "note" and not others
    assert text.startswith("the best checkpoint is not the last one (best at step 2,000): l1 0.08 at step 2,000")
    assert f"img2img translate {folder}/models/00002000.safetensors IMAGES" in page
    assert re.findall(r"([\d,]+), best</strong>", page) == ["2,000"]
    put(folder, "checkpoints.json", checkpoints(best=4000))
    assert [text for _, text in remarks_of(report_of(folder))] == ["Nothing conspicuous"]


def test_held_out_scores_that_grew_worse(tmp_path):
    folder = run_folder(tmp_path)
    (folder / "best.safetensors").touch()
    page = report_of(folder, records())
    ((kind, text),) = remarks_of(page)
    assert kind == "note" and "(best at step 2,000): held-out l1 0.08 then, 0.18 at the end" in text
    assert "Last 0.18 at step 4,000, best 0.08 at step 2,000 (dashed line); lower is better." in page
    assert f"img2img translate {folder}/best.safetensors IMAGES" in page
    page = report_of(folder, [row for row in records() if row["step"] <= 2000])
    assert "best checkpoint" not in page and f"img2img translate {folder} IMAGES" in page


def test_the_metric_that_chooses_is_the_one_of_the_run(tmp_path):
    folder = run_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    rows = [{"step": s, "kind": "validation", "kid[encoder]": k, "l1": 1 / s} for s, k in ((1, 0.1), (2, 0.3))]
    assert remarks_of(report_of(folder, rows)) == [("fine", "Nothing conspicuous")]
    put(folder, "config.json", config | {"options": {"select": "kid"}})
    ((_, text),) = remarks_of(report_of(folder, rows))
    assert "(best at step 1): held-out kid[encoder] 0.1 then, 0.3 at the end" in text


def test_findings_that_go_on_come_first(tmp_path):
    findings = [Finding("oscillation", 700, 1100), Finding("not finite", 3100, ways="--lr 0.0001, --clip 1")]
    page = report_of(run_folder(tmp_path), findings=findings)
    assert [kind for kind, _ in remarks_of(page)] == ["wrong", "over"]
    text = text_of(page)
    assert "not finite: a loss or a weight" in text and "To try: --lr 0.0001, --clip 1." in text
    assert "Seen from step 3100 on." in text and "Seen from step 700 to 1100. It is over." in text


@pytest.mark.parametrize("name", ["evaluation.json", "checkpoints.json", "config.json"])
@pytest.mark.parametrize("text", ["{", "[]", "", '{"a": '])
def test_what_cannot_be_read_is_told(tmp_path, name, text):
    folder = run_folder(tmp_path)
    (folder / name).write_text(text)
    assert f"the file {name} cannot be read and is left out." in text_of(report_of(folder, records(100)))


def test_many_samples_are_thinned(tmp_path):
    folder = run_folder(tmp_path, steps=range(100, 5100, 100), size=(40, 40))
    (folder / "samples" / "mine.png").write_bytes(b"no picture")
    page = report_of(folder)
    steps = [int(s.replace(",", "")) for s in re.findall(r"<figcaption>Step ([\d,]+)", page)]
    assert len(steps) == SHOWN_SAMPLES and steps[0] == 5000 and steps[-1] == 100
    assert steps == sorted(steps, reverse=True)
    gaps = {a - b for a, b in pairwise(steps)}
    assert max(gaps) - min(gaps) <= 100
    assert "12 of 50, evenly chosen" in page


def test_one_sample(tmp_path):
    page = report_of(run_folder(tmp_path, steps=(7,)))
    assert re.findall(r"<figcaption>(Step [\d,]+)", page) == ["Step 7"]


def test_large_samples_are_made_lighter(tmp_path):
    folder = run_folder(tmp_path, steps=(1,), size=(60, 40))
    pixels = np.random.default_rng(0).integers(0, 256, (900, 2400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "samples" / "00000002.png")
    page = report_of(folder)
    (large, data), (small, _) = pictures(page)
    assert (large, small) == ("jpeg", "png")
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (1600, 600)
    assert "Step 2 (reduced)" in page and "Step 1<" in page and "exact ones are in samples/" in page


def test_the_page_stays_small(full):
    assert len(full) < 3e6


def test_every_image_has_a_text(full):
    images = re.findall(r"<img [^>]*>", full)
    assert len(images) == 12 + 1 + 3 + 2 and all(re.search(r'alt="[^"]{10,}"', image[:200]) for image in images)


def test_curves_have_a_picture_per_panel(tmp_path):
    folder = run_folder(tmp_path, steps=())
    page = report_of(folder, records())
    assert re.findall(r'alt="([^"]*), over the steps"', page) == [
        *("Held out: l1", "Held out: psnr", "Losses", "Share that the discriminators judge right", "Gradient norms"),
    ]
    with Image.open(folder / "curves.png") as image:
        assert image.format == "PNG" and image.width == 918 and image.height > 5 * 400


def noise_rows():
    row = {"epoch": 1, "kind": "train", "g_gan": 0.7, "d": 0.6, "d_real": 0.7, "d_fake": 0.7, "diversity": 0.9}
    return [row | {"step": i, "seconds_per_step": 0.1, "grad_G": 0.0} for i in range(1, 20)]


@pytest.mark.parametrize("facts", [{"method": "dcgan", "steps": "19 of 30"}, {"steps": "19 of 30"}])
def test_a_model_that_draws_from_noise(tmp_path, facts):
    folder = run_folder(tmp_path)
    page = report_of(folder, noise_rows(), facts)
    assert f"img2img sample {folder} --n 64 --out RESULTS" in page
    assert "translate" not in page and "img2img evaluate" not in page and "Result" not in titles(page)
    assert ("img2img train dcgan" in page) == ("method" in facts)


def test_commands_each_stand_alone(tmp_path):
    folder = run_folder(tmp_path)
    page = report_of(folder, records(40), FACTS | {"steps": "40 of 4000"})
    assert re.findall(r"<pre><code>(.*?)</code></pre>", page) == [
        f"img2img translate {folder} IMAGES --out RESULTS",
        f"img2img evaluate {folder}",
        f"img2img train cyclegan --out {folder} --resume",
    ]
    assert "--resume" not in report_of(folder, records(40), FACTS)  # a finished run does not go on
    page = report_of(folder, facts=FACTS | {"held-out images": "none"})
    assert f"img2img evaluate {folder} --a HELD_OUT_A --b HELD_OUT_B<" in page
    (folder / "models").mkdir()
    assert f"<pre><code>img2img evaluate {folder} --all</code></pre>" in report_of(folder)


def test_a_network_of_the_equalizer_has_other_commands(tmp_path):
    page = report_of(run_folder(tmp_path), records(40), FACTS | {"method": "stargan"})
    assert re.findall(r"<pre><code>(.*?)</code></pre>", page) == ["img2img equalize --help"]


def test_options_and_versions(tmp_path):
    text = text_of(report_of(run_folder(tmp_path)))
    assert "--lambda-cycle 10.0" in text and "--d-lr none" in text and "torch 2.14.1" in text
    assert "size 256, steps 4000" not in text  # said once
    bare = tmp_path / "bare"
    bare.mkdir()
    assert "size 256, steps 4000" in text_of(report_of(bare))
