"""Images drawn by Ray: the bytes of one process, whoever is killed in the middle; and what a user can get wrong."""

import pickle
from pathlib import Path

import pytest
from conftest import refused
from helpers import dcgan_run

import img2img
from img2img.bulk.sampling import Sampling, piece_of
from img2img.bulk.workers import TRIES, Begun, Worker
from img2img.errors import ConfigError
from img2img.model.options import SampleOptions
from img2img.model.samples import SOURCE, Drawing

ON_CPU = {"device": "cpu"}
BATCH = 4


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return dcgan_run(tmp_path_factory.mktemp("dcgan") / "run")


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """The images of one process, their record, and a sheet."""
    img2img.sample(
        run, 43, out=(out := tmp_path_factory.mktemp("whole") / "out"), batch_size=BATCH, grid=True, **ON_CPU
    )
    return contents(out)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def drawing(run, out, kind=Drawing, **options):
    return kind(img2img.load(run, **ON_CPU), 43, out, SampleOptions(batch_size=BATCH, **options))


def of_worker(job, batches):
    """What a worker answers that is given batches, and ends as often as Ray would start it again."""
    begun, ends = Begun(), 0
    pieces = [piece_of(range(BATCH * k, min(BATCH * k + BATCH, job.n))) for k in batches]
    while True:
        try:
            rows = Worker(Sampling(pickle.loads(pickle.dumps(job.copy_for("cpu")))), begun, str(Path.cwd()))(
                {"number": range(len(pieces)), "piece": pieces}
            )
        except SystemExit:
            ends += 1
            continue
        return ends, [(n, kind, pickle.loads(value)) for n, kind, value in zip(*rows.values(), strict=True)]


def test_copies_that_draw_batches_in_any_order_give_the_same_bytes(run, whole, tmp_path):
    job = drawing(run, tmp_path / "out")
    for batches in ([10, 3, 7], [0, 9, 8, 1], [2, 6, 5, 4, 3]):
        assert of_worker(job, batches) == (0, [(n, "result", None) for n in range(len(batches))])
    assert contents(tmp_path / "out") == {name: content for name, content in whole.items() if name != "grid.png"}
    assert drawing(run, tmp_path / "out").missing == []


class Deadly(Drawing):
    """A drawing that ends its process at image 13."""

    def draw(self, numbers):
        for number in super().draw(numbers):
            if number == 13:
                raise SystemExit
            yield number


def test_a_batch_that_ends_every_worker_is_a_sentence(run, tmp_path):
    ends, rows = of_worker(drawing(run, tmp_path / "out", Deadly, overwrite=True), [2, 3, 4])
    says = "The batch of images 12 to 15: the process that worked on it ended each time; is there enough memory?"
    assert ends == 1 + TRIES and rows == [(0, "result", None), (-1, "TrainingError", says)]


def test_a_worker_that_would_draw_differently_or_sees_another_disk_is_refused(run, tmp_path):
    job = Drawing(img2img.load(run), 43, tmp_path / "out", SampleOptions())
    job.record["processor"] = "AVX9"
    says = refused(ConfigError, job.copy_for("auto").join)
    assert "would compute differently than the results in" in says and "processor was AVX9, now" in says
    job = drawing(run, tmp_path / "other")
    job.record["seed"] = 5
    assert "Another command has begun to write other results into" in refused(ConfigError, job.copy_for("cpu").join)
    (tmp_path / "other" / SOURCE).unlink()
    assert refused(ConfigError, job.copy_for("cpu").join).endswith("must be on a disk that all machines share.")


def test_mistakes_in_options(run, tmp_path, command_line):
    says = refused(ConfigError, img2img.sample, run, 3, ray="local", **ON_CPU)
    assert says == "ray is for images that become files; give out, the folder for them."
    code, _, text = command_line("sample", run, "--out", tmp_path / "out", "--ray-cpus", "2")
    assert code == 2 and "--ray-cpus has no effect without --ray." in text
    code, _, text = command_line("sample", run, "--out", tmp_path / "out", "--ray", "127.0.0.1:1")
    assert code == 2 and "there is no Ray cluster at this address: Connection refused." in text
    assert not (tmp_path / "out").exists()
