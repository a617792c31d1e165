"""The report of a run: what is in it, from what is in the run's folder."""

import base64
import io
import itertools
import json
import math
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from helpers import (
    DONE,
    FACTS,
    GOOD,
    checkpoints,
    full_folder,
    grid,
    noise_rows,
    put,
    records,
    run_folder,
    score,
    scored,
)
from PIL import Image

from img2img.report.curves import looks_of, training_panels
from img2img.report.run import LINKED, SHOWN_SAMPLES, rewrite_report, write_report
from img2img.runs.facts import (
    Finding,
    Progress,
    Report,
    RunFacts,
    UseRecord,
    facts_of,
    read_report_record,
    write_report_record,
)
from img2img.runs.folder import RunFolder
from img2img.runs.record import LogRow, kinds_of_old


@pytest.fixture(autouse=True)
def blank_curves():
    """Draw them."""


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The report with everything."""
    return (full_folder(tmp_path_factory.mktemp("full")) / "report.html").read_text(encoding="utf-8")


def report_of(folder, rows=(), facts=FACTS, progress=DONE, findings=()):
    write_report(RunFolder(folder), rows, Report(facts, progress, list(findings)))
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
        *("Samples", "Diagnosis", "Result", "Held-out images over the run", "Curves", "Earlier samples"),
        *("How to use the model", "What was trained"),
    ]
    bare = tmp_path / "bare"
    bare.mkdir()
    assert titles(report_of(bare)) == ["Diagnosis", "How to use the model", "What was trained"]
    assert not (bare / "curves.png").exists()


def test_links_of_the_page_lead_to_its_sections(full):
    links = re.findall(r'href="#([^"]+)"', full)
    assert len(links) == 8 and set(links) <= set(re.findall(r'id="([^"]+)"', full))


def test_the_head_says_how_far_the_run_is(tmp_path):
    text = text_of(report_of(run_folder(tmp_path), records()))
    assert "Step 4,000 of 4,000 (done) after 1 h 12 min, 1.08 s per step." in text
    assert "Trained on 900 images of A, 800 of B; held out: 100 and 100." in text
    text = text_of(report_of(tmp_path / "h2z", records(40), progress=Progress(40, 4000)))
    assert "Step 40 of 4,000 after 43 s, 1.08 s per step." in text
    text = text_of(report_of(tmp_path / "h2z", records(40), progress=Progress(40, 4000, "l1 no longer improved")))
    assert "Step 40 of 4,000 (ended: l1 no longer improved) after 43 s" in text


def test_an_empty_log(tmp_path):
    page = report_of(run_folder(tmp_path, steps=()), [], RunFacts(method="cyclegan"), None)
    assert "No step has been recorded yet." in page and pictures(page) == []
    assert "No problems found" in page


def test_it_loads_nothing_and_runs_nothing(full):
    sources = re.findall(r"""(?:src|href|action|data|poster|srcset)\s*=\s*["']?([^"'\s>]+)""", full)
    assert sources and all(source.startswith(("data:", "#")) or source in LINKED for source in sources)
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
    rows = [*records(100), LogRow(100, 1, "validation", {HOSTILE: 1.0, "$x_$": 2.0})]
    facts = replace(FACTS, method=HOSTILE, images={HOSTILE: 1, "B": 2}, notes={HOSTILE: HOSTILE})
    facts = replace(facts, uses=(UseRecord("a2b", ("a",), output="b"), UseRecord(HOSTILE, (HOSTILE,), output=HOSTILE)))
    page = report_of(folder, rows, facts, Progress(100, 4000, HOSTILE))
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
    assert "Mean absolute difference from the target; lower is better; 0 to 1." in text
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
    assert "of step 2,000. The run has reached step 4,000 since." in text and "Few images." in text


def test_numbers_that_are_none(tmp_path):
    folder = run_folder(tmp_path)
    values = {"l1": float("nan"), "psnr": float("inf"), "kid[encoder]": None, "drift": -0.0123}
    put(folder, "evaluation.json", scored(values, {"l1": 0.1, "psnr": 30.0}))
    rows = [
        *records(200),
        LogRow(200, 1, "train", {"g_gan_a": float("nan"), "d_a_real": float("inf")}),
    ]
    rows += [LogRow(200 + i, 1, "validation", {"l1": v, "psnr": math.inf}) for i, v in enumerate((math.nan, 0.2))]
    page = report_of(folder, rows)
    lines = dict(re.findall(r'<tr><th scope="row">(\S+) ?[↑↓]?</th>(.*?)</tr>', page))
    assert lines["l1"] == "<td>–</td><td><strong>0.1</strong></td>"
    assert lines["psnr"] == "<td><strong>∞</strong></td><td>30</td>"
    assert lines["kid[encoder]"] == "<td>–</td><td>–</td>" and "−0.0123" in lines["drift"]
    assert not re.search(r"\bnan\b|\binf\b|None", text_of(page))


def test_nothing_learned(tmp_path):
    beaten = "nothing learned: the model is no better than the unchanged input: "
    cases = [
        ({"l1": 0.1}, {"l1": 0.2}, None),
        ({"l1": 0.2}, {"l1": 0.1}, f"{beaten}l1 (0.2 against 0.1)."),
        ({"l1": 0.1}, {"l1": 0.1}, f"{beaten}l1 (0.1 against 0.1)."),
        ({"psnr": 20}, {"psnr": 10}, None),
        ({"psnr": 10}, {"psnr": 20}, f"{beaten}psnr (10 against 20)."),
        ({"psnr": math.inf}, {"psnr": 20}, None),
        ({"l1": 0.2, "psnr": 20}, {"l1": 0.1, "psnr": 10},
         "the model is no better than the unchanged input at l1 (0.2 against 0.1)."),
        ({"l1": 0.2, "cycle": 0.1}, {"l1": 0.1}, f"{beaten}l1 (0.2 against 0.1)."),
        ({"structure": 0.5}, {"structure": 1.0}, None),
        ({"l1": math.nan}, {"l1": 0.1}, None),
        ({"cycle": 0.1}, {}, None),
    ]  # fmt: skip
    folder, wrong = run_folder(tmp_path), []
    for model, nothing, expected in cases:
        put(folder, "evaluation.json", scored(model, nothing))
        found = remarks_of(report_of(folder))
        kind = "wrong" if (expected or "").startswith("nothing") else "note"
        wrong += [(model, found)] * (found != ([(kind, expected)] if expected else [("fine", "No problems found")]))
    assert wrong == []


def test_a_simpler_way_that_is_as_good(tmp_path):
    folder = run_folder(tmp_path)
    put(folder, "evaluation.json", scored({"l1": 0.2}, {"l1": 0.3}, **{"histogram matching": {"l1": 0.1}}))
    text = "the model is no better than the baseline “histogram matching”: l1 (0.2 against 0.1)."
    assert remarks_of(report_of(folder)) == [("note", text)]


def test_drift(tmp_path):
    folder, warned = run_folder(tmp_path), {}
    for value in (0.02, 0.2, None):
        put(folder, "evaluation.json", scored({"drift": value}, {"drift": 0.5}))
        warned[value] = "intensity drift" in text_of(report_of(folder))
    assert warned == {0.02: False, 0.2: True, None: False}


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
    assert [text for _, text in remarks_of(report_of(folder))] == ["No problems found"]


def test_held_out_scores_that_grew_worse(tmp_path):
    folder = run_folder(tmp_path)
    (folder / "best.safetensors").touch()
    page = report_of(folder, records())
    ((kind, text),) = remarks_of(page)
    assert kind == "note" and "(best at step 2,000): held-out l1 0.08 then, 0.18 at the end" in text
    assert "Last 0.18 at step 4,000, best 0.08 at step 2,000 (dashed line); lower is better." in page
    assert f"img2img translate {folder}/best.safetensors IMAGES" in page
    page = report_of(folder, [row for row in records() if row.step <= 2000])
    assert "best checkpoint" not in page and f"img2img translate {folder} IMAGES" in page


def test_the_metric_that_chooses_is_the_one_of_the_run(tmp_path):
    folder = run_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    rows = [LogRow(s, 1, "validation", {"kid[encoder]": k, "l1": 1 / s}) for s, k in ((1, 0.1), (2, 0.3))]
    assert remarks_of(report_of(folder, rows)) == [("fine", "No problems found")]
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


def test_what_cannot_be_read_is_told(tmp_path):
    silent = []
    for name, text in itertools.product(
        ("evaluation.json", "checkpoints.json", "config.json"), ("{", "[]", "", '{"a": ')
    ):
        folder = run_folder(tmp_path, f"run{len(list(tmp_path.iterdir()))}", steps=())
        (folder / name).write_text(text)
        told = text_of(report_of(folder))
        silent += [(name, text)] * (f"the file {name} cannot be read and is left out." not in told)
    assert silent == []


def test_many_samples_are_thinned(tmp_path):
    folder = run_folder(tmp_path, steps=range(100, 5100, 100), size=(40, 40))
    (folder / "samples" / "mine.png").write_bytes(b"no picture")
    page = report_of(folder)
    steps = [int(s.replace(",", "")) for s in re.findall(r"<figcaption>Step ([\d,]+)", page)]
    assert len(steps) == SHOWN_SAMPLES and steps[0] == 5000 and steps[-1] == 100
    assert steps == sorted(steps, reverse=True)
    gaps = {a - b for a, b in pairwise(steps)}
    assert max(gaps) - min(gaps) <= 100
    assert "11 of 49, evenly chosen" in page


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
        *("Held out: l1", "Held out: psnr", "Losses", "Accuracy of the discriminators", "Gradient norms"),
    ]
    with Image.open(folder / "curves.png") as image:
        assert image.format == "PNG" and image.width == 918 and image.height > 5 * 400


def test_a_model_that_draws_from_noise(tmp_path):
    folder = run_folder(tmp_path)
    for facts in (RunFacts(method="dcgan"), RunFacts(), RunFacts(method="new", uses=(UseRecord("sample"),))):
        page = report_of(folder, noise_rows(), facts, Progress(19, 30))
        assert f"img2img sample {folder} --n 64 --out RESULTS" in page
        assert "translate" not in page and "img2img evaluate" not in page and "Result" not in titles(page)
        assert (f"img2img train {facts.method} --out" in page) == bool(facts.method)


def test_commands_follow_from_what_the_networks_take_and_give(tmp_path):
    folder = run_folder(tmp_path)
    ways = (UseRecord("a2b", ("a",), output="b"), UseRecord("b2a", ("b",), output="a"))
    page = report_of(folder, facts=replace(FACTS, method="discogan", uses=ways))
    assert "or with <code>--direction</code> b2a from b to a:" in page
    assert "--direction" not in report_of(folder, facts=replace(FACTS, uses=ways[:1]))
    page = report_of(folder, facts=RunFacts(method="cgan", uses=(UseRecord("sample", labels=True),)))
    assert f"img2img sample {folder} --label NAME --n 64" in page
    page = report_of(
        folder, facts=RunFacts(method="stargan", uses=(UseRecord("translate", ("image",), True, "image"),))
    )
    assert f"img2img translate {folder} IMAGES --label TARGET --out RESULTS" in page and "img2img evaluate" not in page


def test_commands_each_stand_alone(tmp_path):
    folder = run_folder(tmp_path)
    page = report_of(folder, records(40), progress=Progress(40, 4000))
    assert re.findall(r"<pre><code>(.*?)</code></pre>", page) == [
        f"img2img translate {folder} IMAGES --out RESULTS",
        f"img2img evaluate {folder}",
        f"img2img train cyclegan --out {folder} --resume",
    ]
    assert "--resume" not in report_of(folder, records(40))  # a finished run is not resumed
    page = report_of(folder, facts=replace(FACTS, held_out={}))
    assert f"img2img evaluate {folder} --a HELD_OUT_A --b HELD_OUT_B<" in page
    (folder / "models").mkdir()
    assert f"<pre><code>img2img evaluate {folder} --all</code></pre>" in report_of(folder)


def test_a_network_of_the_equalizer_has_other_commands(tmp_path):
    page = report_of(run_folder(tmp_path), records(40), replace(FACTS, method="stargan", equalizer=True))
    assert re.findall(r"<pre><code>(.*?)</code></pre>", page) == ["img2img equalize --help"]


def test_options_and_versions(tmp_path):
    old = replace(FACTS, notes={"options": "size 256, steps 4000"})
    text = text_of(report_of(run_folder(tmp_path), facts=old))
    assert "--lambda-cycle 10.0" in text and "--d-lr none" in text and "torch 2.14.1" in text
    assert "size 256, steps 4000" not in text  # said once
    bare = tmp_path / "bare"
    bare.mkdir()
    assert "size 256, steps 4000" in text_of(report_of(bare, facts=old))


def test_kinds_of_scalars_choose_the_panel_and_not_their_names(tmp_path):
    """AC-GAN's loss of classes on real images is a loss, whatever it is called."""
    rows = [LogRow(i, 1, "train", {"cls_real": 2.3, "sure": 0.9, "slope": 1.0}) for i in (1, 2)]
    kinds = {"cls_real": "loss", "sure": "share", "slope": "norm"}
    page = report_of(run_folder(tmp_path, steps=()), rows, replace(FACTS, kinds=kinds))
    panels = re.findall(r'alt="([^"]*), over the steps"', page)
    assert panels == ["Losses", "Accuracy of the discriminators", "Gradient norms"]
    by_name = training_panels(rows, kinds_of_old(["cls_real", "sure", "slope"]))
    assert {panel.title: list(panel.curves) for panel in by_name} == {
        "Losses": ["sure", "slope"], "Accuracy of the discriminators": ["cls_real"],
    }  # fmt: skip


def test_a_report_json_of_version_010_is_read(tmp_path):
    """Facts as sentences by title, and the progress as text."""
    folder = run_folder(tmp_path)
    finding = {"kind": "oscillation", "start": 700, "end": 1100, "ways": "--lr 0.0001"}
    old = {
        "method": "pix2pix", "training images": "900 images of A, 800 of B", "held-out images": "100 and 90",
        "options": "size 256, steps 4000", "started": "2025-11-02 10:00", "on": "Linux, torch 2.9.1", "processes": 1,
        "steps": "3000 of 4000", "ended": "l1 no longer improved",
    }  # fmt: skip
    put(folder, "report.json", {"facts": old, "findings": [finding]})
    report = read_report_record(RunFolder(folder))
    assert report.progress == Progress(3000, 4000, "l1 no longer improved")
    assert report.findings == [Finding("oscillation", 700, 1100, "--lr 0.0001")]
    facts = report.facts
    assert (facts.images, facts.held_out) == ({"A": 900, "B": 800}, {"A": 100, "B": 90})
    assert (facts.method, facts.system, facts.processes) == ("pix2pix", "Linux, torch 2.9.1", 1)
    (folder / "log.jsonl").write_text("".join(row.to_json() for row in records(3000)))
    rewrite_report(folder)
    text = text_of((folder / "report.html").read_text(encoding="utf-8"))
    assert "Step 3,000 of 4,000 (ended: l1 no longer improved)" in text
    assert "Trained on 900 images of A, 800 of B; held out: 100 and 90." in text and "Seen from step 700" in text
    assert "Accuracy of the discriminators" in (folder / "report.html").read_text(encoding="utf-8")
    put(
        folder,
        "report.json",
        {
            "facts": {"training images": "6 images", "steps": "2 of 4", "batches": "A, B", "images": "6, checksum 0a"},
            "findings": [],
        },
    )
    report = read_report_record(RunFolder(folder))
    assert (
        report.facts.images == {"data": 6}
        and report.facts.notes["images"] == "6, checksum 0a"
        and report.facts.equalizer
        and report.progress == Progress(2, 4)
    )


def test_a_report_json_is_read_as_it_was_written(tmp_path):
    files = RunFolder(tmp_path)
    facts = replace(FACTS, uses=(UseRecord("a2b", ("a",), output="b"),), kinds={"d_real": "share"}, notes={"seed": "3"})
    report = Report(facts, Progress(3, 10), [Finding("oscillation", 1)])
    write_report_record(files, report)
    assert read_report_record(files) == report
    plain = {"name": "a2b", "images": ["a"], "labels": False, "output": "b"}
    assert facts_of({"method": "cyclegan", "uses": [plain], "seed": 3}).uses == facts.uses  # as a run states them
    for text in ("", "{", '{"format": 2, "facts": {"method": 5}}', '{"format": 99, "progress": 1}'):
        files.report_record.write_text(text)
        assert read_report_record(files) == Report()


def test_small_pictures_are_enlarged_by_whole_pixels_and_large_ones_are_not(tmp_path):
    small = report_of(run_folder(tmp_path / "small", steps=(100,), size=(150, 40)))
    assert 'width="600" height="160" class="pixels"' in small and ".pixels { image-rendering: pixelated }" in small
    large = report_of(run_folder(tmp_path / "large", steps=(100,), size=(500, 40)))
    assert 'width="500" height="40"' in large and 'class="pixels"' not in large


def test_players_keep_their_colours_and_no_two_curves_look_alike():
    cyclegan = looks_of(["g_gan", "cycle", "identity", "d_a", "d_b"])
    shares = looks_of(["d_a_real", "d_a_fake", "d_b_real", "d_b_fake"])
    norms = looks_of(["grad_G", "grad_D"])
    assert cyclegan["g_gan"] == norms["grad_G"] and cyclegan["d_a"] == shares["d_a_real"] == norms["grad_D"]
    assert shares["d_b_real"][0] == shares["d_b_fake"][0] == cyclegan["d_b"][0]
    for names in (list(cyclegan), list(shares), ["g", "g_gan", "g_l1", "d"], [f"x{i}" for i in range(15)]):
        assert len(set(looks_of(names).values())) == len(names), names
    assert len(looks_of([f"x{i}" for i in range(100)])) == 100


def test_files_of_the_run_are_linked_if_they_are_there(full, tmp_path):
    assert 'href="evaluation.json"' in full and 'href="samples"' in full and 'href="last.pt"' not in full
    assert "report.html" not in LINKED and "log.jsonl" in LINKED
