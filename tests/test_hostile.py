"""Files that somebody else has made: whatever they hold, every door answers with one sentence."""

import copy
import hashlib
import json
import os
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch
from conftest import refused, write_images
from safetensors import safe_open
from safetensors.torch import save_file

import img2img
from img2img import BatchEqualizer
from img2img.errors import ConfigError, Img2ImgError, ModelFileError
from img2img.evaluation.sides import Sides
from img2img.interchange.info import model_info, rows
from img2img.model.file import load_use, read_card
from img2img.model.record import RECORD
from img2img.report.run import rewrite_report
from img2img.runs.folder import RunFolder
from img2img.runs.record import RunRecord, read_log
from img2img.runtime.records import from_json
from img2img.training.finished import is_evaluated

BAD = (None, True, -1, 0, 10**30, 1.5, float("nan"), "x", "", [], [1], {}, {"a": 1}, "\x1b[2J", "\ud800")

ALIKE = 4  # entries of a deep container


def places(value, path=()):
    """The path of every value in nested dicts and lists; deep down, where they are alike, of a few."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, x in list(inner)[: ALIKE if len(path) > 1 else None]:
        yield from places(x, (*path, key))


def mutations(record):
    """Copies of `record`: each value replaced by each of `BAD`, and each key left out."""
    for path in places(record):
        for bad in (*BAD, places):
            changed = copy.deepcopy(record)
            at = changed
            for key in path[:-1]:
                at = at[key]
            if bad is not places:
                at[path[-1]] = bad
            elif isinstance(at, dict):
                del at[path[-1]]
            yield f"{'.'.join(map(str, path))} = {bad!r}", json.dumps(changed)
    for text in ("", "null", "[]", "5", '"x"', "{", "[" * 50_000, '{"a":' * 50_000):
        yield text[:20], text


def unsound(record, use):
    """The mutations of `record` that `use` answers with anything but success or a sentence."""
    found = []
    for what, text in mutations(record):
        try:
            use(text)
        except Img2ImgError as error:
            sentence = str(error)
            if "\n" in sentence or not sentence.isprintable() or not sentence.endswith("."):
                found.append((what, sentence))
        except Exception as error:
            found.append((what, repr(error)))
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    data = write_images(root / "a", 4, (32, 32), 1), write_images(root / "b", 4, (32, 32), 2)
    img2img.train(
        "cyclegan", a=data[0], b=data[1], out=root / "run", size=32, width=4, d_width=4, discriminator="patch_16",
        generator="resnet_3", steps=2, device="cpu", precision="fp32", quiet=True, val_fraction=0.25, log_every=1,
    )  # fmt: skip
    return root / "run"


@pytest.fixture(scope="module")
def weights(run):
    with safe_open(run / "model.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()["img2img"]  # noqa: SIM118


class TestModelFiles:
    def test_any_header(self, weights, tmp_path):
        tensors, header = weights
        path = tmp_path / "m.safetensors"

        def use(text):
            save_file(tensors, path, metadata={"img2img": text})
            rows(model_info(path))
            card = read_card(path)
            for direction in card.directions:
                load_use(path, card, direction)

        assert unsound(json.loads(header), use) == []

    def test_headers_of_today_are_read(self, weights, tmp_path):
        tensors, header = weights
        save_file(tensors, tmp_path / "m.safetensors", metadata={"img2img": header})
        assert json.loads(json.dumps(asdict(read_card(tmp_path / "m.safetensors")))) == json.loads(header)

    def test_the_sentence_names_the_place(self, weights, tmp_path):
        tensors, header = weights
        record = json.loads(header)
        record["channels"]["b"] = -1
        save_file(tensors, tmp_path / "m.safetensors", metadata={"img2img": json.dumps(record)})
        said = refused(ModelFileError, img2img.load, tmp_path / "m.safetensors")
        assert "channels: b: Input should be greater than or equal to 1" in said

    def test_tensors_of_no_direction(self, weights, tmp_path):
        tensors, header = weights
        save_file(tensors | {"evil.\x1b[2J": torch.zeros(1)}, tmp_path / "m.safetensors", metadata={"img2img": header})
        for use in (model_info, img2img.load):
            assert "which none of its directions has" in refused(ModelFileError, use, tmp_path / "m.safetensors")

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_weights_of_other_precision_are_used_in_fp32(self, weights, tmp_path, dtype):
        tensors, header = weights
        path, image = tmp_path / "m.safetensors", np.zeros((32, 32, 3), np.uint8)
        save_file({name: x.to(dtype) for name, x in tensors.items()}, path, metadata={"img2img": header})
        rounded = {name: x.to(dtype).float() for name, x in tensors.items()}
        save_file(rounded, tmp_path / "same.safetensors", metadata={"img2img": header})
        expected = img2img.load(tmp_path / "same.safetensors", precision="fp32")(image)
        assert (img2img.load(path, precision="fp32")(image) == expected).all()

    def test_weights_that_are_no_fractions(self, weights, tmp_path):
        tensors, header = weights
        save_file({n: x.to(torch.int32) for n, x in tensors.items()}, tmp_path / "m.safetensors", {"img2img": header})
        assert "weights are fractions" in refused(ModelFileError, img2img.load, tmp_path / "m.safetensors")

    def test_unknown_keywords_of_a_call(self, run):
        said = refused(ConfigError, img2img.load(run), np.zeros((32, 32, 3), np.uint8), esemble=True)
        assert "Did you mean 'ensemble'?" in said


class TestPth:
    """Files of `torch.load(weights_only=True)` that hold something else than weights, or seem to hold more."""

    @staticmethod
    def looped():
        weights = {}
        weights["state_dict"] = weights
        return weights

    CASES = {
        "a loop": looped,
        "deeper than any wrapper": lambda: {"netG": {"netG": {"netG": {"netG": {"netG": {"w": torch.zeros(1)}}}}}},
        "one number that stands for 4 TB": lambda: {"model.1.weight": torch.zeros(1).expand(2**20, 2**20)},
        "sparse": lambda: {"model.1.weight": torch.eye(3).to_sparse()},
        "complex": lambda: {"model.1.weight": torch.zeros(3, dtype=torch.complex64)},
        "truths": lambda: {"model.1.weight": torch.zeros(3, dtype=torch.bool)},
        "whole numbers": lambda: {"model.1.weight": torch.zeros(3, dtype=torch.int8)},
        "without memory": lambda: {"model.1.weight": torch.zeros(3, device="meta")},
    }

    @pytest.mark.parametrize("case", CASES)
    def test_one_sentence(self, tmp_path, case):
        torch.save(self.CASES[case](), tmp_path / "G.pth")
        refused(ModelFileError, img2img.import_model, tmp_path / "G.pth", tmp_path / "m.safetensors")
        assert not (tmp_path / "m.safetensors").exists()


class TestRunFolders:
    @pytest.fixture
    def copied(self, run, tmp_path):
        return shutil.copytree(run, tmp_path / "run")

    def test_any_config(self, run, copied):
        path = copied / "config.json"

        def resume(text):
            from_json(RunRecord, text, str(path))  # what is read of it first; then options, which have limits

        def evaluate(text):
            path.write_text(text)
            Sides.of_run(copied, img2img.evaluation.options.EvaluateOptions())

        record = json.loads(path.read_text())
        assert unsound(record, resume) == []
        record["options"] = {
            k: v for k, v in record["options"].items() if k in ("a", "size", "augment", "val_fraction")
        }
        assert unsound(record, evaluate) == []

    @pytest.mark.parametrize("name", ["report.json", "evaluation.json"])
    def test_any_result(self, copied, name):
        path = copied / name

        def use(text):
            path.write_text(text)
            rewrite_report(copied)

        record = json.loads(path.read_text())
        assert unsound(record, use) == []

    def test_any_ranking(self, copied):
        path = copied / "checkpoints.json"
        scores = {"models/00000001.safetensors": {"step": 1, "kid": {"value": 1.0}}}
        record = {"metric": "kid", "better": "lower", "best": "model.safetensors", "scores": scores, "rows": {}}

        def use(text):
            path.write_text(text)
            rewrite_report(copied)

        assert unsound(record, use) == []

    def test_any_line_of_the_log(self, copied):
        log = copied / "log.jsonl"
        first, *rest = log.read_text().splitlines()

        def use(text):
            log.write_text("\n".join([text, *rest]) + "\n")
            rewrite_report(copied)

        assert unsound(json.loads(first), use) == []
        log.write_text("5\n" + "\n".join(rest) + "\n")
        assert "Line 1 of" in refused(ModelFileError, read_log, log)

    def test_any_record_of_results(self, run, tmp_path):
        model = img2img.load(run, precision="fp32")
        write_images(tmp_path / "in", 1, (32, 32), 1)
        img2img.translate(model, tmp_path / "in", tmp_path / "out")
        path = tmp_path / "out" / RECORD
        record = json.loads(path.read_text())

        def use(text):
            path.write_text(text)
            img2img.translate(model, tmp_path / "in", tmp_path / "out")

        assert unsound(record, use) == []

    def test_a_log_or_an_evaluation_that_nests_without_end(self, copied):
        for name in ("log.jsonl", "evaluation.json"):
            (copied / name).write_text("[" * 50_000)
        assert RunFolder(copied).logged_steps() == []
        assert is_evaluated(RunFolder(copied), img2img.load(copied)) is False

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    @pytest.mark.parametrize("name", ["config.json", "log.jsonl"])
    def test_pipes_are_not_waited_for(self, copied, name):
        (copied / name).unlink()
        os.mkfifo(copied / name)
        refused(ModelFileError, img2img.evaluate, copied)


@pytest.fixture
def saved(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(100, 200, (16, 2, 32, 32)).astype(np.uint16)
    equalizer = BatchEqualizer(target="A")
    with pytest.warns(UserWarning):
        equalizer.fit(images, batch=["A"] * 8 + ["B"] * 8)
    equalizer.save(tmp_path / "eq")
    return tmp_path / "eq", images


class TestEqualizers:
    def test_any_config(self, saved):
        folder, images = saved
        path = folder / "config.json"
        record = json.loads(path.read_text())
        record["fitted"] = {k: v[:1] if k in ("fingerprints_", "notes_") else v for k, v in record["fitted"].items()}

        def use(text):
            path.write_text(text)
            BatchEqualizer.load(folder).transform(images[:1], batch=["B"])

        assert unsound(record, use) == []

    def test_weights_of_other_shapes(self, saved):
        folder, _ = saved
        config, content = (folder / "config.json"), (folder / "weights.safetensors")
        with safe_open(content, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        record = json.loads(config.read_text())
        for name, array in arrays.items():
            for bad in (array[..., None], array.ravel()[:0], np.full_like(array, np.nan, float)):
                from safetensors.numpy import save

                content.write_bytes(save(arrays | {name: np.ascontiguousarray(bad)}))
                record["checksum"] = hashlib.sha256(content.read_bytes()).hexdigest()
                config.write_text(json.dumps(record))
                assert "is damaged" in refused(ModelFileError, BatchEqualizer.load, folder), (name, bad.shape)
