"""Kept features: computed once, the same bytes however the work is divided, whole files or none, nothing trusted."""

import contextlib
import hashlib
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
import torchvision
from conftest import refused
from helpers import over, save_torchscript, seeded, smooth, spoiled
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import nn

import img2img
from img2img.data.shards import Shard
from img2img.errors import ConfigError, DataError
from img2img.evaluation.compare import compare
from img2img.evaluation.evaluate import rank
from img2img.metrics import cache as cache_module
from img2img.metrics.cache import FeatureCache
from img2img.metrics.options import MetricOptions
from img2img.metrics.scorer import Scorer

ROOT = Path(__file__).parents[1]
RNG = np.random.default_rng(0)
SLOWLY = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
METRICS = "fid,kid,precision,recall,drift"


class Tiny(nn.Module):
    """Features (N, 4) of images with three channels."""

    def __init__(self, seed):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x).relu().mean((2, 3))


def program(path, seed=1):
    save_torchscript(Tiny(seed).eval(), torch.zeros(1, 3, 32, 32), path)
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return program(tmp_path_factory.mktemp("program") / "tiny.pt")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A network with classes, and its weights."""
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    with torch.random.fork_rng():
        torch.manual_seed(2)
        torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Real images in folders and of several sizes, and generated ones; one of them is there twice."""
    root = tmp_path_factory.mktemp("images")
    for name in ("real/a", "real/b", "fake"):
        (root / name).mkdir(parents=True)
        for k in range(8):
            size = (32 + 8 * (k % 2), 32, 3)
            Image.fromarray(RNG.integers(0, 256, size, dtype=np.uint8)).save(root / name / f"{k}.png")
    (root / "fake" / "again.png").write_bytes((root / "fake" / "3.png").read_bytes())
    return {"real": root / "real", "fake": root / "fake"}


@pytest.fixture
def computed(monkeypatch):
    """The images that were given to a network."""
    images, original = [], FeatureCache._compute
    monkeypatch.setattr(
        FeatureCache, "_compute", lambda self, key, image: images.append(image) or original(self, key, image)
    )
    return images


def kept(folder):
    """What is kept of each image, by network and image."""
    found = {}
    for path in Path(folder).rglob("*.safetensors"):
        rows = load_file(path)
        for key, *values in zip(rows["keys"], rows["features"], rows["logits"], strict=True):
            value = b"".join(x.numpy().tobytes() for x in values)
            assert found.setdefault((path.parent.name, key.numpy().tobytes()), value) == value
    return found


def scores(folders, **options):
    return img2img.evaluate(**folders, metrics=METRICS, **options).scores


@pytest.fixture(scope="module")
def whole(folders, tiny, tmp_path_factory):
    """The features of all at once, and the scores."""
    folder = tmp_path_factory.mktemp("whole")
    return scores(folders, features=str(tiny), cache=folder), kept(folder)


# The same bytes


class Stop(Exception):
    pass


@SLOWLY
@given(count=st.integers(1, 5), order=st.randoms(use_true_random=False), stops=st.lists(st.integers(1, 4), max_size=5))
def test_parts_in_any_order_with_stops_keep_the_same_bytes(folders, tiny, whole, tmp_path_factory, count, order, stops):
    folder, parts = tmp_path_factory.mktemp("parts"), [f"{k}/{count}" for k in range(1, count + 1)]
    order.shuffle(parts)
    options = dict(features=str(tiny), cache=folder)

    def stop_after(images):
        def progress(done, total):
            if done >= images:
                raise Stop

        return progress

    for part, images in zip(parts, stops, strict=False):
        with contextlib.suppress(Stop):
            img2img.evaluate(**folders, shard=part, progress=stop_after(images), **options)
    results = [img2img.evaluate(**folders, shard=part, **options) for part in parts]
    assert sum(x.protocol["images"] for x in results) == 9 and sum(x.protocol["real_images"] for x in results) == 16
    assert all(not x.rows and not x.scores and "no scores" in repr(x) for x in results)
    assert kept(folder) == whole[1] and len(whole[1]) == 24  # the one that is there twice is kept once
    assert scores(folders, **options) == whole[0]


def test_no_image_is_computed_twice(folders, tiny, whole, tmp_path, computed):
    options = dict(features=str(tiny), cache=tmp_path)
    for part in ("1/2", "2/2"):
        img2img.evaluate(**folders, shard=part, **options)
    assert len(computed) == 24
    files = sorted(tmp_path.rglob("*.*"))
    assert scores(folders, **options) == whole[0]
    assert scores({"real": folders["fake"], "fake": folders["real"]}, **options).keys() == whole[0].keys()
    assert len(computed) == 24 and sorted(tmp_path.rglob("*.*")) == files
    scores(folders, size=16, **options)  # other pixels
    assert len(computed) == 48


def test_processes_write_at_the_same_time(folders, tiny, whole, tmp_path, monkeypatch):
    """All of everything, in files of three: whoever comes late finds some of them."""
    monkeypatch.setattr(cache_module, "IMAGES", 3)
    barrier = threading.Barrier(4, timeout=60)

    def work(part):
        barrier.wait()
        return img2img.evaluate(**folders, features=str(tiny), cache=tmp_path, shard=part)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, ["1/1", "1/1", "1/2", "2/2"]))
    assert kept(tmp_path) == whole[1]
    assert scores(folders, features=str(tiny), cache=tmp_path) == whole[0]


def test_files_are_written_while_it_runs(tiny, tmp_path, monkeypatch):
    scorer = Scorer(["kid"], MetricOptions(features=str(tiny)), cache=tmp_path)
    monkeypatch.setattr(cache_module, "IMAGES", 4)
    scorer.features(smooth(10, 32))
    assert [len(load_file(path)["keys"]) for path in tmp_path.rglob("*.safetensors")] == [4, 4]
    start = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: start + 61)
    scorer.features(smooth(1, 32, seed=1))
    assert len(kept(tmp_path)) == 11


def test_features_are_those_without_a_cache(folders, tiny, classifier, whole, tmp_path):
    """Of programs the same, as they compute images one by one; otherwise up to rounding, which batches change."""
    assert scores(folders, features=str(tiny)) == whole[0]
    options = MetricOptions(features="squeezenet1_1", features_weights=str(classifier))
    images, found = smooth(24, 40), []
    for folder in (None, tmp_path, tmp_path):
        scorer = Scorer(["fid", "kid", "precision", "coverage", "inception_score"], options, cache=folder)
        scorer.prepare(lambda: images.split(8))
        row = scorer.row()
        row.add(fake=spoiled(images, 0.3))
        found.append(row.scores())
    assert found[1] == found[2] and len(kept(tmp_path)) == 48
    assert found[0].keys() == found[1].keys()
    for name, score in found[0].items():
        assert found[1][name].value == pytest.approx(score.value, rel=1e-3, abs=1e-6), name
    features, logits = scorer.features(images[:2])
    assert features.shape == (2, 512) and logits.shape == (2, 1000)


def test_other_weights_are_other_features(folders, tiny, classifier, whole, tmp_path, computed):
    scores(folders, features=str(tiny), cache=tmp_path / "c")
    assert len(computed) == 24
    copy = tmp_path / "copy.pt"
    copy.write_bytes(tiny.read_bytes())
    renamed = scores(folders, features=str(copy), cache=tmp_path / "c")
    assert len(computed) == 24 and list(renamed.values()) == list(whole[0].values())
    program(copy, seed=2)
    other = scores(folders, features=str(copy), cache=tmp_path / "c")
    assert len(computed) == 48 and other["fid[copy]"] != renamed["fid[copy]"]
    assert other == scores(folders, features=str(copy))
    assert len(list((tmp_path / "c").iterdir())) == 2
    images, keys = smooth(2, 32), []
    for name in ("squeezenet1_1", "squeezenet1_0"):
        if name == "squeezenet1_0":
            torch.save(torchvision.models.squeezenet1_0(weights=None).state_dict(), tmp_path / "w.pth")
        path = classifier if name == "squeezenet1_1" else tmp_path / "w.pth"
        scorer = Scorer(["kid"], MetricOptions(features=name, features_weights=str(path)), cache=tmp_path / "d")
        scorer.features(images)
        scorer.keep()
        keys.append({network for network, _ in kept(tmp_path / "d")})
    assert len(keys[1] - keys[0]) == 1


def test_values_and_shape_tell_images_apart(tiny, tmp_path, computed):
    scorer = Scorer(["kid"], MetricOptions(features=str(tiny)), cache=tmp_path)
    images = smooth(1, 32)
    for x in (images, images.reshape(1, 3, 64, 16), images.transpose(2, 3), images + 1e-7, images.double()):
        scorer.features(x)
    assert len(computed) == 4  # the last one is the first again


# Models


@pytest.mark.slow
def test_evaluations_of_models_share_features(folders, tiny, tmp_path, computed, monkeypatch):
    monkeypatch.setattr("img2img.training.journal.write_report", lambda *_: None)
    a, b = (RNG.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8) for _ in "ab")
    common = dict(size=32, width=4, d_width=4, discriminator="patch_16", generator="resnet_3", augment="none")
    for name in ("one", "two"):
        data = dict(a=a, b=b, out=tmp_path / name, steps=4, keep=2, seed=len(name + name[0]), quiet=True, device="cpu")
        img2img.train("cyclegan", **data, **common)
    options = dict(a=folders["real"] / "a", b=folders["real"] / "b", metrics="kid", device="cpu", features=str(tiny))
    fresh = img2img.evaluate(tmp_path / "one", **options)
    options["cache"] = tmp_path / "c"
    first = img2img.evaluate(tmp_path / "one", **options)
    assert first.rows == fresh.rows and len(computed) == 8 * 4  # real, the result, and two baselines
    del computed[:]
    assert img2img.evaluate(tmp_path / "one", **options).rows == first.rows and not computed
    ranking = rank(tmp_path / "one", **options)
    assert ranking.scores["model.safetensors"][1] == first.rows["model"]
    assert len(computed) == 8 * (len(ranking.scores) - 1) > 0
    del computed[:]
    compared = compare([tmp_path / "one", tmp_path / "two"], **options)
    assert len(computed) <= 8 and compared.rows["one"] == first.rows["model"]
    says = refused(ConfigError, img2img.evaluate, tmp_path / "one", shard="1/2", **options)
    assert says.startswith("--shard takes a part of two folders: give --real DIR and --fake DIR, and no model.")
    assert refused(ConfigError, rank, tmp_path / "one", shard="1/2", **options) == says
    assert refused(ConfigError, compare, [tmp_path / "one", tmp_path / "two"], shard="1/2", **options) == says


# Files


KILLED = """
import os, signal, sys
from pathlib import Path
import img2img
written = Path.write_bytes
def write_half(path, content):
    written(path, content[: len(content) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
Path.write_bytes = write_half
real, fake, features, cache = sys.argv[1:]
img2img.evaluate(real=real, fake=fake, features=features, cache=cache, shard="1/1")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_process_leaves_no_half_of_a_file(folders, tiny, whole, tmp_path):
    words = [sys.executable, "-c", KILLED, *map(str, folders.values()), tiny, tmp_path / "c"]
    assert subprocess.run(words, capture_output=True).returncode == -signal.SIGKILL
    (half,) = (path for path in (tmp_path / "c").rglob("*") if path.is_file())
    assert half.name.startswith(".") and half.stat().st_size
    assert scores(folders, features=str(tiny), cache=tmp_path / "c") == whole[0]
    assert kept(tmp_path / "c") == whole[1] and not half.exists()


def named(folder, content):
    """Write a file of features under the name that its content has."""
    path = folder / f"{hashlib.sha256(content).hexdigest()}.safetensors"
    path.write_bytes(content)
    return path


def header_of(path, **changes):
    """The header of a file of features, with changes."""
    with safe_open(path, framework="pt") as file:
        return {"img2img": json.dumps(json.loads(file.metadata()["img2img"]) | changes)}


def rewritten(path, header=None, **changes):
    """The content of a file of features with other tensors, or another header."""
    tensors = {name: x for name, x in (load_file(path) | changes).items() if x is not None}
    return save(tensors, metadata=header_of(path) if header is None else header)


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


BAD = {
    "truncated": lambda path: path.read_bytes()[:-1],
    "empty": lambda path: b"",
    "no tensors": lambda path: b"nonsense",
    "pickle": lambda path: pickle.dumps(Evil()),
    "huge header": lambda path: (2**62).to_bytes(8, "little") + path.read_bytes()[8:],
    "bytes after the end": lambda path: path.read_bytes() + b"x",
    "no header": lambda path: rewritten(path, {}),
    "a header that is no JSON": lambda path: rewritten(path, {"img2img": "x"}),
    "a deep header": lambda path: rewritten(path, {"img2img": "[" * 10**5}),
    "another network": lambda path: rewritten(path, header_of(path, file="0" * 64)),
    "another version": lambda path: rewritten(path, header_of(path, version=2)),
    "lists for names": lambda path: rewritten(path, header_of(path, features=[], file={})),
    "a tensor is missing": lambda path: rewritten(path, logits=None),
    "a tensor too many": lambda path: rewritten(path, more=torch.zeros(1)),
    "short keys": lambda path: rewritten(path, keys=torch.zeros(10, 31, dtype=torch.uint8)),
    "keys of another type": lambda path: rewritten(path, keys=torch.zeros(10, 32, dtype=torch.int16)),
    "fewer keys": lambda path: rewritten(path, keys=torch.zeros(9, 32, dtype=torch.uint8)),
    "fewer logits": lambda path: rewritten(path, logits=torch.zeros(9, 0)),
    "halves": lambda path: rewritten(path, features=torch.zeros(10, 4, dtype=torch.float16)),
    "a number": lambda path: rewritten(path, features=torch.tensor(1.0)),
    "three axes": lambda path: rewritten(path, features=torch.zeros(10, 2, 2)),
    "NaN": lambda path: rewritten(path, features=torch.full((10, 4), torch.nan)),
    "infinite": lambda path: rewritten(path, features=torch.full((10, 4), -torch.inf)),
    "more features than in other files": lambda path: rewritten(path, features=torch.zeros(10, 5)),
}


@pytest.fixture
def used(tiny, tmp_path):
    """A cache of ten images, and how to open it again."""
    options = MetricOptions(features=str(tiny))
    scorer = Scorer(["kid"], options, cache=tmp_path)
    scorer.features(smooth(10, 32))
    scorer.keep()
    (path,) = tmp_path.rglob("*.safetensors")
    return path, lambda: Scorer(["kid"], options, cache=tmp_path)


@over(fault=list(BAD))
def test_a_damaged_or_foreign_file_is_refused_by_its_name(used, tiny, tmp_path, fault):
    for proper in (True, False):  # under the name of its content, and under that of another
        path, again = used
        folder = tmp_path / str(proper) / path.parent.name
        folder.mkdir(parents=True)
        (folder / path.name).write_bytes(path.read_bytes())
        content = BAD[fault](path)
        bad = named(folder, content) if proper else folder / f"{'0' * 64}.safetensors"
        bad.write_bytes(content)
        options = MetricOptions(features=str(tiny))
        says = refused(DataError, Scorer, ["kid"], options, cache=folder.parent)
        blamed = {str(bad), str(folder / path.name)} if "other files" in fault and proper else {str(bad)}
        assert says.partition(" is damaged, or does not hold features of this network; delete it")[0] in blamed
    again()


def test_a_flipped_bit_is_noticed(used):
    path, again = used
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert str(path) in refused(DataError, again)
    path.unlink()
    again()


def test_what_is_no_regular_file_of_some_size_is_not_read(used, monkeypatch):
    path, again = used
    (folder := path.parent / "a.safetensors").mkdir()
    assert str(folder) in refused(DataError, again)
    folder.rmdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(pipe := path.parent / "b.safetensors")
        assert str(pipe) in refused(DataError, again)
        pipe.unlink()
    with (large := path.parent / "c.safetensors").open("wb") as file:
        file.truncate(2**34)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail(f"{self} was read"))
    path.unlink()
    assert str(large) in refused(DataError, again)


def test_features_of_another_width_are_refused(used):
    path, again = used
    content = rewritten(path, features=torch.zeros(10, 7))
    path.unlink()
    named(path.parent, content)
    says = refused(DataError, again().features, smooth(1, 32, seed=5))
    assert says == (
        f"The network of --features gives 4 features, and the images in {path.parent} have 7; delete that folder."
    )


def test_features_that_are_not_finite_are_not_kept(tmp_path):
    class Broken(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) / 0

    save_torchscript(Broken(), torch.ones(1, 3, 32, 32), tmp_path / "broken.pt")
    scorer = Scorer(["kid"], MetricOptions(features=str(tmp_path / "broken.pt")), cache=tmp_path / "c")
    assert "values that are not finite" in refused(DataError, scorer.features, smooth(1, 32))
    scorer.keep()
    assert not kept(tmp_path / "c")


def test_an_onnx_file_without_its_weights_is_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = torch.randn(4, 3, 3, 3, generator=seeded(0)).numpy()
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, c, None, None]) for name, c in (("x", 3), ("y", 4))
    ]
    graph = helper.make_graph([node], "tiny", ends[:1], ends[1:], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "one.onnx")
    onnx.save(model, tmp_path / "two.onnx", save_as_external_data=True, location="two.data", size_threshold=0)
    Scorer(["kid"], MetricOptions(features=str(tmp_path / "one.onnx")), cache=tmp_path / "c").features(smooth(1, 32))
    two = MetricOptions(features=str(tmp_path / "two.onnx"))
    Scorer(["kid"], two).features(smooth(1, 32))
    says = refused(ConfigError, Scorer, ["kid"], two, cache=tmp_path / "c")
    assert says.startswith(f"{tmp_path / 'two.onnx'} keeps weights in other files") and says.endswith("save it as one.")


def test_features_of_another_machine_are_used_and_noted(folders, tiny, whole, tmp_path, monkeypatch):
    options = dict(features=str(tiny), cache=tmp_path)
    monkeypatch.setattr(cache_module, "machine", lambda device: {"device": "An\x1b[1m GPU", "processor": None})
    img2img.evaluate(**folders, shard="1/2", **options)
    monkeypatch.undo()
    result = img2img.evaluate(**folders, metrics=METRICS, **options)
    (note,) = (note for note in result.protocol["notes"] if "were computed on" in note)
    assert "'An\\x1b[1m GPU, img2img " in note and note.endswith("the last digits may differ from those of here")
    assert result.scores == whole[0]


# The user


def test_mistakes(folders, tiny, tmp_path):
    def says(**options):
        return refused(ConfigError, img2img.evaluate, **folders, **options)

    assert "encoder is fitted to the real images" in says(cache=tmp_path)
    assert "and none of drift takes any" in says(cache=tmp_path, features=str(tiny), metrics="drift")
    assert says(shard="1/2").endswith("add --cache DIR.")
    assert says(shard="3/2", cache=tmp_path).startswith("--shard takes a part and the number of parts")
    (tmp_path / "file").touch()
    text = says(cache=tmp_path / "file", features=str(tiny))
    assert text.startswith(f"--cache {tmp_path / 'file'} cannot be used: ")
    pairs = dict(real=folders["fake"], fake=folders["fake"], paired=True, features=str(tiny), cache=tmp_path)
    for shard in (None, "1/1"):
        text = refused(ConfigError, img2img.evaluate, shard=shard, **pairs)
        assert text == "--cache keeps features, and none of l1, psnr, ssim, drift takes any: add --metric kid."
        img2img.evaluate(shard=shard, metrics="fid,l1", **pairs)


def test_the_folder_is_read_where_it_cannot_be_written(folders, tiny, whole, tmp_path, monkeypatch):
    options = dict(features=str(tiny), cache=tmp_path)
    img2img.evaluate(**folders, shard="1/2", **options)

    def refuse(path, durable):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(cache_module, "atomic", refuse)
    says = refused(ConfigError, img2img.evaluate, **folders, shard="2/2", **options)
    assert says.startswith(f"--cache: {tmp_path}") and says.endswith("cannot be written: Permission denied.")
    monkeypatch.undo()
    img2img.evaluate(**folders, shard="2/2", **options)
    monkeypatch.setattr(cache_module, "atomic", refuse)
    assert scores(folders, **options) == whole[0]


def test_arrays_and_lists_of_files_have_parts_too(folders, tiny, tmp_path):
    arrays = RNG.integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    files = sorted(folders["fake"].iterdir())
    for fake in (arrays, files):
        results = [
            img2img.evaluate(real=arrays, fake=fake, shard=f"{k}/3", features=str(tiny), cache=tmp_path)
            for k in (1, 2, 3)
        ]
        assert sum(x.protocol["images"] for x in results) == len(fake)
    assert len(kept(tmp_path)) == 7 + 8


def test_the_division_does_not_move_when_folders_are_added(folders, tiny, tmp_path, monkeypatch):
    """Parts are of paths below the folder that is named, however it is spelled."""
    monkeypatch.chdir(folders["real"].parent)
    counts = set()
    for real in (Path("real"), "./real", "fake/../real", folders["real"]):
        options = dict(real=real, fake="fake", features=str(tiny), cache=tmp_path, shard="1/3")
        counts.add(img2img.evaluate(**options).protocol["real_images"])
    expected = sum(Shard(1, 3).holds(PurePosixPath(f"{x}/{k}.png")) for x in "ab" for k in range(8))
    assert counts == {expected}


def test_the_command(folders, tiny, tmp_path, command_line):
    words = ["evaluate", "--real", folders["real"], "--fake", folders["fake"], "--features", tiny]
    words += ["--cache", tmp_path / "c"]
    code, out, err = command_line(*words, "--shard", "1/1", "--json", tmp_path / "x.json")
    assert code == 0 and out.splitlines()[0] == f"features of 25 images in {tmp_path / 'c'}"
    assert json.loads((tmp_path / "x.json").read_text())["protocol"]["shard"] == "1/1"
    code, out, err = command_line(*words)
    assert code == 0 and "kid[tiny]" in out
    code, out, err = command_line(*words, "--shard", "1/0")
    assert code == 2 and "from 1/8 to 8/8" in err
    assert command_line(*words, "--device", "cuda:99")[0] == 2  # the network runs where it is told to


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the block is for bash")
def test_processes_that_share_the_work(folders, tiny, whole, tmp_path):
    """The commands of docs/evaluating.md, with another network and fewer parts."""
    text = (ROOT / "docs" / "evaluating.md").read_text(encoding="utf-8")
    block = next(x for x in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "xargs" in x)
    for name, value in {
        "img2img ": f"{sys.executable} -m img2img ",
        "seq 4": "seq 2",
        "@/4": "@/2",
        "--features inception": f"--features {tiny}",
        "real/": f"{folders['real']}",
        "generated/": f"{folders['fake']}",
    }.items():
        assert name in block
        block = block.replace(name, value)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", block], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert kept(tmp_path) == whole[1] and done.stdout.count("features of ") == 2 and "kid[tiny]" in done.stdout
