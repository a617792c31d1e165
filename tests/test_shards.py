"""A job in parts: the same pixels as at once, however it is cut, restarted, ordered, or shared among processes."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pytest
import tifffile
from conftest import refused
from helpers import cyclegan_run, dcgan_run
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

import img2img
from img2img.data.shards import Shard, read_list
from img2img.errors import ConfigError, DataError, ModelFileError
from img2img.lab import BatchEqualizer
from img2img.model.record import RECORD
from img2img.runtime.files import create_json

RNG = np.random.default_rng(0)
ON_CPU = {"device": "cpu"}
SLOWLY = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return cyclegan_run(tmp_path_factory.mktemp("cyclegan") / "run")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images of several sizes, in folders; one of them cannot be read."""
    root = tmp_path_factory.mktemp("photos")
    for k, name in enumerate(["1.png", "2.png", "in/1.png", "in/2.png", "in/deep/ä b.png", "in/deep/2.png", "z.png"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (30 + 9 * k % 40, 40, 3), dtype=np.uint8)).save(root / name)
    tifffile.imwrite(root / "stack.tif", RNG.integers(0, 256, (3, 20, 30, 3), dtype=np.uint8), photometric="rgb")
    (root / "broken.png").write_bytes(b"broken")
    return root


def contents(folder):
    """What is in the files of a folder, except the records."""
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: content for name, content in found.items() if not PurePosixPath(name).name.startswith(".")}


@pytest.fixture(scope="module")
def whole(run, photos, tmp_path_factory):
    """The results of all at once."""
    img2img.translate(run, photos, out := tmp_path_factory.mktemp("whole") / "out", **ON_CPU)
    return contents(out)


# The division


@given(st.lists(st.text("abc/ä.é\U0001f600", min_size=1), max_size=30), st.integers(1, 9))
def test_every_file_is_in_exactly_one_part(names, count):
    parts = [Shard(k, count) for k in range(1, count + 1)]
    for name in names:
        path = PurePosixPath(name.strip("/.") or "x")
        assert sum(part.holds(path) for part in parts) == 1
        assert [part.holds(path.with_suffix(".png")) for part in parts] == [
            part.holds(path.with_suffix(".jpg")) for part in parts
        ]
    assert [sum(part.holds_number(i) for part in parts) for i in range(50)] == [1] * 50


def test_the_division_never_changes():
    """Parts that were made by an older version fit those of a newer one."""

    def part(name, count):
        return next(k for k in range(1, count + 1) if Shard(k, count).holds(PurePosixPath(name)))

    assert [part(name, 8) for name in ("a.png", "b/c.tif", "ä.png")] == [3, 2, 5]
    sizes = Counter(part(f"{i}.png", 4) for i in range(4000))
    assert all(900 < size < 1100 for size in sizes.values())


@pytest.mark.parametrize("text", ["0/4", "5/4", "4", "1/0", "a/b", "1/2/3", "-1/4", "1/2000000", ""])
def test_what_is_no_part(text, run, photos, tmp_path):
    says = refused(ConfigError, img2img.translate, run, photos, tmp_path / "out", shard=text)
    assert says.startswith("--shard takes a part and the number of parts, from 1/8 to 8/8, not")
    assert not (tmp_path / "out").exists()


# Translating


@SLOWLY
@given(count=st.integers(1, 5), order=st.randoms(use_true_random=False), stops=st.lists(st.integers(0, 4), max_size=5))
def test_parts_in_any_order_with_stops_give_the_same_bytes(run, photos, whole, tmp_path_factory, count, order, stops):
    out, parts = tmp_path_factory.mktemp("parts") / "out", [f"{k}/{count}" for k in range(1, count + 1)]
    order.shuffle(parts)
    for part, stop in zip(parts, stops, strict=False):  # these are stopped, and begun again below
        begun = img2img.translate_folder(run, photos, out, shard=part, **ON_CPU)
        for _, _ in zip(range(stop), begun, strict=False):
            pass
        begun.close()
    results = [img2img.translate(run, photos, out, shard=part, **ON_CPU) for part in parts]
    assert contents(out) == whole
    assert [path.name for result in results for path, _ in result.failed] == ["broken.png"]
    assert img2img.translate(run, photos, out, **ON_CPU).skipped == len(whole)


def test_parts_at_the_same_time_give_the_same_bytes(run, photos, whole, tmp_path):
    """The first one decides how all compute, whatever they would take by themselves."""
    barrier = threading.Barrier(4, timeout=60)

    def work(part):
        model = img2img.load(run, **ON_CPU)
        barrier.wait()
        return img2img.translate(model, photos, tmp_path / "out", shard=f"{part}/4").translated

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(1, 5))) == len(whole)
    assert contents(tmp_path / "out") == whole


def test_files_that_would_have_the_same_result_are_in_one_part(run, tmp_path):
    for suffix in ("png", "bmp", "tif"):
        for k in range(4):
            path = tmp_path / "in" / f"{k}.{suffix}"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    failed = []
    for part in ("1/3", "2/3", "3/3"):
        result = img2img.translate(run, tmp_path / "in", tmp_path / "out", shard=part, format="png", **ON_CPU)
        failed += [reason for _, reason in result.failed]
    assert len(failed) == 8 and all("its result would have the same path as that of" in reason for reason in failed)
    assert len(contents(tmp_path / "out")) == 4


def test_a_worker_of_another_kind_is_refused_or_asked_for_by_name(run, photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    img2img.translate(run, photos, out, shard="1/2")
    record = json.loads((out / RECORD).read_text())
    assert record["processor"] and record["software"].startswith("img2img ")
    (out / RECORD).write_text(json.dumps(record | {"processor": "AVX9"}))
    says = refused(ConfigError, img2img.translate, run, photos, out, shard="2/2")
    assert f"computed differently: processor was AVX9, now {record['processor']}. Use --overwrite" in says
    assert says.endswith("or accept other rounding with --device cpu.")
    model = img2img.load(run, **ON_CPU)
    img2img.translate(model, photos, out, shard="2/2")
    assert model.notes == [
        f"The existing results may be rounded differently: processor was AVX9, now {record['processor']}."
    ]
    assert json.loads((out / RECORD).read_text())["processor"] == "AVX9"
    (out / RECORD).write_text(json.dumps(record | {"software": "img2img 0.0.9, PyTorch 2.5"}))
    model = img2img.load(run, **ON_CPU)
    img2img.translate(model, photos, out)
    assert [note for note in model.notes if "software was img2img 0.0.9, PyTorch 2.5, now" in note]


def test_another_machine_does_not_take_over_a_folder_that_has_no_results_yet(run, photos, tmp_path):
    """They started at the same time, and neither has written anything."""
    img2img.translate(run, photos, out := tmp_path / "out", shard="1/9", **ON_CPU)
    record = json.loads((out / RECORD).read_text())
    shutil.rmtree(out)
    out.mkdir()
    (out / RECORD).write_text(json.dumps(record | {"processor": "AVX9"}))
    assert "processor was AVX9" in refused(ConfigError, img2img.translate, run, photos, out)


def test_a_command_that_takes_a_folder_over_stops_the_other(run, photos, tmp_path):
    begun = img2img.translate_folder(run, photos, out := tmp_path / "out", **ON_CPU)
    record = json.loads((out / RECORD).read_text())
    (out / RECORD).write_text(json.dumps(record | {"direction": "b2a"}))
    says = refused(ConfigError, list, begun)
    assert says == f"Another command has begun to write other results into {out}; give each an --out of its own."
    assert contents(out) == {}


def test_overwriting_leaves_no_other_results_behind(run, photos, tmp_path):
    out, other = tmp_path / "out", {"direction": "b2a", "overwrite": True} | ON_CPU
    img2img.translate(run, photos, out, **ON_CPU)
    before = contents(out)
    says = refused(ConfigError, img2img.translate, run, photos / "1.png", out, **other)
    assert "holds 7 results that were computed differently and that this job does not replace, e.g. " in says
    says = refused(ConfigError, img2img.translate, run, photos, out, shard="1/2", **other)
    assert "holds 8 results that were computed differently and that one shard cannot replace, e.g. " in says
    assert says.endswith(": direction was a2b, now b2a. Move or delete them, or choose another --out.")
    assert contents(out) == before
    img2img.translate(run, photos, out, shard="1/2", overwrite=True, **ON_CPU)  # by the same
    assert contents(out) == before
    img2img.translate(run, photos, out, **other)
    assert contents(out).keys() == before.keys() and all(contents(out)[name] != before[name] for name in before)


def test_one_of_several_processes_begins_a_record(tmp_path, monkeypatch):
    for link in (os.link, lambda *_: (_ for _ in ()).throw(OSError(95, "no links"))):
        monkeypatch.setattr(os, "link", link)
        path = tmp_path / f"{id(link)}.json"
        with ThreadPoolExecutor(8) as pool:
            written = list(pool.map(lambda k, path=path: create_json(path, k), range(50)))
        assert sum(written) == 1 and json.loads(path.read_text()) == written.index(True)
        assert list(tmp_path.glob(".*")) == []


# Lists


@pytest.mark.parametrize("suffix", ["txt", "csv", "parquet"])
def test_a_list_in_place_of_a_folder(suffix, run, photos, whole, tmp_path):
    names = ["in/1.png", str(photos / "z.png"), "in/../2.png", "in/1.png", "gone.png"]
    path = tmp_path / f"list.{suffix}"
    frame = pd.DataFrame({"n": range(5), "file": names})
    writers = {"txt": lambda: path.write_text("\n".join(names) + "\n\n"), "csv": lambda: frame.to_csv(path)}
    writers.get(suffix, lambda: frame.to_parquet(path))()
    result = img2img.translate(run, photos, tmp_path / "out", files=path, **ON_CPU)
    assert contents(tmp_path / "out") == {name: whole[name] for name in ("in/1.png", "z.png", "2.png")}
    assert [path.name for path, _ in result.failed] == ["gone.png"]
    parts = [img2img.translate(run, photos, tmp_path / "parts", files=path, shard=f"{k}/2", **ON_CPU) for k in (1, 2)]
    assert contents(tmp_path / "parts") == contents(tmp_path / "out")
    assert sum(part.translated for part in parts) == 3 and sum(len(part.failed) for part in parts) == 1


def test_mistakes_in_lists(run, photos, tmp_path):
    def says(name, content, source=photos, kind=DataError):
        (tmp_path / name).write_bytes(content)
        return refused(kind, img2img.translate, run, source, tmp_path / "out", files=tmp_path / name, **ON_CPU)

    outside = says("a.txt", b"1.png\n../x.png\n/etc/passwd\n")
    assert outside.startswith(f"The list names files that are not below {photos}: ") and "/etc/passwd" in outside
    assert says("b.txt", b"\n\n") == f"The list {tmp_path / 'b.txt'} names no files."
    assert "has no column file; its columns are name, label." in says("c.csv", b"name,label\nx,y\n")
    assert "cannot be read: 'utf-8' codec can't decode" in says("d.txt", b"\xff\xfe\x00")
    assert says("e.parquet", b"PAR1?") == f"The list {tmp_path / 'e.parquet'} is not a Parquet file."
    assert says("f.txt", b"1.png", photos / "1.png").startswith("There is no folder ")
    gone = refused(DataError, img2img.translate, run, photos, tmp_path / "out", files=tmp_path / "gone.txt")
    assert gone == f"The list {tmp_path / 'gone.txt'} cannot be read: No such file or directory."
    assert not (tmp_path / "out").exists()


def test_a_parquet_list_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'img2img-gan[lab]'" in refused(ConfigError, read_list, tmp_path / "list.parquet")


# Reports


def test_reports_of_parts_become_one(run, photos, tmp_path, command_line):
    paths = [tmp_path / f"{k}.json" for k in (1, 2, 3)]
    for k, path in enumerate(paths, 1):
        img2img.translate(run, photos, tmp_path / "out", shard=f"{k}/3", report=path, **ON_CPU)
    parts = [json.loads(path.read_text()) for path in paths]
    code, out, _ = command_line("report", "merge", *reversed(paths), "--out", tmp_path / "all.json")
    merged = json.loads((tmp_path / "all.json").read_text())
    assert code == 1 and "8 images translated, 0 already there, 1 failed" in out and "broken.png" in out
    assert merged["translated"] == sum(part["translated"] for part in parts) == 8
    assert merged["seconds"] == pytest.approx(sum(part["seconds"] for part in parts))
    assert [Path(x["file"]).name for x in merged["failed"]] == ["broken.png"] and merged["missing"] == []
    code, out, _ = command_line("report", "merge", paths[0], paths[2], "--out", tmp_path / "all.json")
    assert code == 1 and "missing: 1 shard, 2/3" in out
    assert json.loads((tmp_path / "all.json").read_text())["missing"] == ["2/3"]


def test_reports_that_do_not_belong_together(run, photos, tmp_path):
    def report(name, **options):
        img2img.translate(run, photos, tmp_path / name, report=tmp_path / f"{name}.json", **ON_CPU | options)
        return tmp_path / f"{name}.json"

    a, b, other = report("a", shard="1/2"), report("b", shard="2/2", direction="b2a"), report("c", shard="1/3")
    whole, again = report("d"), report("e", shard="1/2")
    merge, out = img2img.merge_reports, tmp_path / "all.json"
    assert refused(ConfigError, merge, [a, b], out) == "The reports are not of one job: direction is a2b and b2a."
    assert refused(ConfigError, merge, [a, other], out) == "The reports are of a job in 2 and of one in 3 parts."
    assert "is the report of a whole job" in refused(ConfigError, merge, [whole], out)
    assert "is another report of shard 1/2" in refused(ConfigError, merge, [a, again], out)
    assert refused(ConfigError, merge, [], out) == "Give the reports to merge."
    for damaged in ("{", "{}", '{"shard": "1/2"}'):
        (tmp_path / "x.json").write_text(damaged)
        assert "was not written by img2img" in refused(ModelFileError, merge, [tmp_path / "x.json"], out)
    assert not out.exists()


# Drawing


@SLOWLY
@given(count=st.integers(1, 5), order=st.randoms(use_true_random=False), batch=st.integers(1, 7))
def test_images_drawn_in_parts_are_the_same(drawing, tmp_path_factory, count, order, batch):
    root = tmp_path_factory.mktemp("drawn")
    img2img.sample(drawing, 23, out=root / "whole", batch_size=batch, **ON_CPU)
    parts = [f"{k}/{count}" for k in range(1, count + 1)]
    order.shuffle(parts)
    written = [
        img2img.sample(drawing, 23, out=root / "parts", shard=part, batch_size=batch, **ON_CPU) for part in parts
    ]
    assert contents(root / "parts") == contents(root / "whole") and sum(part.drawn for part in written) == 23
    more = img2img.sample(drawing, 23, out=root / "parts", batch_size=64, **ON_CPU)
    assert (more.drawn, more.skipped) == (0, 23) and ("drawn in batches of" in more.notes[0]) == (batch != 64)


@pytest.fixture(scope="module")
def drawing(tmp_path_factory):
    return dcgan_run(tmp_path_factory.mktemp("dcgan") / "run")


def test_images_drawn_by_another_machine_are_not_mixed(drawing, tmp_path):
    img2img.sample(drawing, 4, out=tmp_path, batch_size=2)
    record = json.loads((tmp_path / "samples.json").read_text())
    (tmp_path / "samples.json").write_text(json.dumps(record | {"processor": "AVX9"}))
    says = refused(ConfigError, img2img.sample, drawing, 6, out=tmp_path)
    assert f"images that were computed differently: processor was AVX9, now {record['processor']}; give" in says
    assert "processor was AVX9" in img2img.sample(drawing, 6, out=tmp_path, **ON_CPU).notes[0]
    precision = {"precision": "bf16" if record["precision"] == "fp32" else "fp32"} | ON_CPU
    assert "precision was" in refused(ConfigError, img2img.sample, drawing, 4, out=tmp_path, **precision)
    (tmp_path / "samples.json").write_text(json.dumps({k: record[k] for k in ("model", "seed")}))  # of version 0.1.0
    assert img2img.sample(drawing, 6, out=tmp_path).skipped == 6
    other = {"seed": 3, "overwrite": True, "out": tmp_path}
    assert refused(ConfigError, img2img.sample, drawing, 4, shard="1/2", **other).endswith("or delete them.")
    assert len(contents(tmp_path)) == 7


# Equalizing


def test_a_table_equalized_in_parts_is_the_same(tmp_path):
    rows = []
    for k, plate in enumerate(("P1", "P2")):
        for well in range(8):
            image = RNG.normal(200, 5, (24, 24))
            image[4:12, 5:14] += 500
            image *= 1 - 0.2 * k
            (tmp_path / plate).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / plate / f"{well}.tif", image.astype("uint16"))
            rows.append({"FileName_DNA": f"{plate}/{well}.tif", "Metadata_Plate": plate})
    pd.DataFrame(rows).to_csv(tmp_path / "plates.csv", index=False)
    control = "Metadata_Plate in ['P1', 'P2']"
    equalizer = BatchEqualizer(target="P1").fit_table(tmp_path / "plates.csv", control=control)
    equalizer.transform_table(tmp_path / "plates.csv", None, tmp_path / "whole")
    counts = []
    for part in ("3/4", "1/4", "4/4", "2/4"):
        frame = equalizer.transform_table(tmp_path / "plates.csv", None, tmp_path / "parts", shard=part)
        counts.append(len(frame))
    results = {name: content for name, content in contents(tmp_path / "whole").items() if name.endswith(".tif")}
    assert {n: c for n, c in contents(tmp_path / "parts").items() if n.endswith(".tif")} == results
    listed = [
        pd.read_csv(tmp_path / x / "equalized.csv").sort_values("FileName_DNA", ignore_index=True)
        for x in ("whole", "parts")
    ]
    pd.testing.assert_frame_equal(*listed)
    assert sum(counts) == len(rows) == len(results)
    empty = equalizer.transform_table(tmp_path / "plates.csv", None, tmp_path / "none", shard="1/1000")
    assert len(empty) == 0
    twice = pd.DataFrame(rows + rows[:1])
    says = refused(DataError, equalizer.transform_table, twice, tmp_path, tmp_path / "twice", shard="1/2")
    assert says.endswith("P1/0.tif is in several rows, which parts of the table cannot share.")


# The command


@pytest.mark.slow
def test_processes_that_share_a_folder(run, photos, whole, tmp_path):
    """As docs/translating.md has it: `seq 4 | xargs -P 2`, one of which is killed and started again."""
    words = [sys.executable, "-m", "img2img", "translate", run, photos, "--out", tmp_path / "out", "--device", "cpu"]
    first = subprocess.Popen([*words, "--shard", "1/4"], stderr=subprocess.DEVNULL)
    try:
        first.wait(1.5)
    except subprocess.TimeoutExpired:
        first.kill()
        first.wait()
    script = f"seq 4 | xargs -P 2 -I @ {' '.join(map(str, words))} --shard @/4 --report {tmp_path}/@.json"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.returncode == 123 and done.stderr.count("failed: ") == 1  # of xargs: one of the commands had a failure
    assert contents(tmp_path / "out") == whole
    merged = img2img.merge_reports(sorted(tmp_path.glob("*.json")), tmp_path / "all" / "all.json")
    assert merged.translated + merged.skipped == 8 and not merged.missing


@pytest.mark.slow
def test_the_array_job_of_the_docs(run, photos, whole, tmp_path):
    """Each task as SLURM starts it."""
    text = (Path(img2img.__file__).parents[1] / "docs" / "translating.md").read_text(encoding="utf-8")
    (script,) = (block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "#SBATCH" in block)
    shutil.copytree(run, tmp_path / "checkpoints" / "h2z")
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "img2img").write_text(f'#!/bin/sh\nexec {sys.executable} -m img2img "$@" --device cpu\n')
    (tmp_path / "img2img").chmod(0o755)
    for task in (1, 2):
        known = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(Path(img2img.__file__).parents[1])}
        array = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "2"}
        subprocess.run(["bash", "-c", script], cwd=tmp_path, env=os.environ | known | array)
    assert contents(tmp_path / "shared") == whole
    merged = img2img.merge_reports(sorted((tmp_path / "parts").iterdir()), tmp_path / "all.json")
    assert (merged.translated, len(merged.failed), merged.missing) == (8, 1, [])
