"""Jobs on one cluster of Ray, from disks and stores: the bytes of one process, whoever is killed in the middle."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import refused
from helpers import cyclegan_run, dcgan_run, fit_plates, write_photos, write_plates

import img2img
from img2img import BatchEqualizer
from img2img.api import models, translating
from img2img.bulk.cluster import connected
from img2img.bulk.options import RayOptions
from img2img.errors import ConfigError
from img2img.model.folder import Job
from img2img.model.record import RECORD
from img2img.model.samples import SOURCE, Drawing
from img2img.model.staging import StagedJob
from img2img.model.stored_samples import StoredDrawing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(  # of botocore
        "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
    ),
]
ON_CPU = {"device": "cpu"}
BY_RAY = {"ray": "local", "ray_workers": 2}
BATCH = 4
SECRET = "s3cr3t-word"


@pytest.fixture(scope="module")
def cluster(s3):
    """Ray with two workers, for all tests of this module; workers know the store from their environment."""
    pytest.importorskip("ray")
    with connected(RayOptions(**BY_RAY)) as ray:
        yield ray


@pytest.fixture(scope="module")
def s3():
    """A server on this machine that speaks the protocol of S3, with a bucket; and a file system for it."""
    s3fs, server = pytest.importorskip("s3fs"), pytest.importorskip("moto.server")
    served = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    served.start()
    host, port = served.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        }.items():
            patch.setenv(name, value)
        fs = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
        fs.mkdir("bucket")
        yield fs
        fs.rm("bucket", recursive=True)  # servers in one process share what they hold
    served.stop()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return cyclegan_run(tmp_path_factory.mktemp("cyclegan") / "run")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def translated(run, photos, tmp_path_factory):
    """The results of one process."""
    img2img.translate(run, photos, out := tmp_path_factory.mktemp("translated") / "out", **ON_CPU)
    return contents(out)


@pytest.fixture(scope="module")
def sampler(tmp_path_factory):
    return dcgan_run(tmp_path_factory.mktemp("dcgan") / "run")


@pytest.fixture(scope="module")
def drawn(sampler, tmp_path_factory):
    """The images of one process, their record, and a sheet."""
    out = tmp_path_factory.mktemp("drawn") / "out"
    img2img.sample(sampler, 43, out=out, batch_size=BATCH, grid=True, **ON_CPU)
    return contents(out)


def contents(place, fs=None):
    """What is in the files of a folder, or below a path of a store, by their names, except the record of a job."""
    if fs is None:
        found = {p.relative_to(place).as_posix(): p.read_bytes() for p in place.rglob("*") if p.is_file()}
    else:
        found = {name.removeprefix(f"{place}/"): fs.cat_file(name) for name in fs.find(place)}
    return {name: content for name, content in found.items() if name != RECORD and not name.endswith(".lock")}


def deadly(kind, killed, is_last):
    """A class like `kind` whose `translate` or `draw` ends its process once, at a piece that `is_last`."""
    name = "draw" if issubclass(kind, Drawing) else "translate"

    def work(self, pieces):
        import os

        ends = not killed.exists()
        for piece in getattr(kind, name)(self, pieces):
            if ends and is_last(piece):
                killed.touch()
                os.kill(os.getpid(), 9)
            yield piece

    return type("Deadly", (kind,), {name: work})


# Translate


@pytest.mark.nightly
def test_translating_loses_nothing_though_a_worker_is_killed(cluster, run, photos, translated, tmp_path, monkeypatch):
    killed = tmp_path / "killed"
    monkeypatch.setattr(translating, "Job", deadly(Job, killed, lambda outcome: outcome.source.name != "4.png"))
    seen, report = [], tmp_path / "report.json"
    asked = BY_RAY | ON_CPU
    result = img2img.translate(run, photos, tmp_path / "out", progress=seen.append, report=report, **asked)
    many = {"ray": "local", "ray_workers": 3} | ON_CPU
    says = refused(ConfigError, img2img.translate, run, photos, tmp_path / "out", **many)
    assert says.startswith("--ray local has room for 2 workers of 1 CPU each, not for 3;")
    says = refused(ConfigError, img2img.translate, run, photos, tmp_path / "out", ray_gpus=0.5, **asked)
    assert says == "--ray-gpus has no effect on cpu; leave it out, or use --device cuda."
    assert killed.exists() and contents(tmp_path / "out") == translated
    assert (result.translated, result.skipped, [path.name for path, _ in result.failed]) == (40, 0, ["broken.png"])
    assert [x.done for x in seen] == list(range(1, 42)) and {x.total for x in seen} == {41}
    assert json.loads(report.read_text())["translated"] == 40
    assert json.loads((tmp_path / "out" / RECORD).read_text())["threads"] == 1


def named(photos):
    """The photos whose names are UTF-8, as those in a store are, by their names there."""
    found = {p.relative_to(photos).as_posix(): p for p in photos.rglob("*.png")}
    return {name: path for name, path in found.items() if name.isascii()}


@pytest.mark.nightly
def test_translating_a_store_loses_nothing_though_a_worker_is_killed(
    cluster, s3, run, photos, translated, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name, path in named(photos).items():
        s3.pipe_file(f"bucket/photos/{name}", path.read_bytes())
    expected = {name: content for name, content in translated.items() if name in named(photos)}
    assert len(expected) == 39
    killed, report = tmp_path / "killed", tmp_path / "report.json"
    monkeypatch.setattr(translating, "StagedJob", deadly(StagedJob, killed, lambda outcome: True))
    seen, places = [], ("s3://bucket/photos", "s3://bucket/out")
    result = img2img.translate(run, *places, progress=seen.append, report=report, **BY_RAY, **ON_CPU)
    assert killed.exists() and contents("bucket/out", s3) == expected
    assert (result.translated, result.skipped) == (39, 0) and [x.done for x in seen] == list(range(1, 41))
    [(url, reason)] = result.failed
    assert url == "s3://bucket/photos/broken.png" and reason.startswith(f"{url} is not in a format")
    again = img2img.translate(run, *places, **ON_CPU)  # without Ray
    assert (again.translated, again.skipped) == (0, 39)
    img2img.translate(run, photos, tmp_path / "disk", **BY_RAY | {"ray_workers": 1}, **ON_CPU)
    assert json.loads(s3.cat_file(f"bucket/out/{RECORD}")) == json.loads((tmp_path / "disk" / RECORD).read_text())
    session = Path(cluster._private.worker._global_node.get_session_dir_path())
    logged = [path for path in session.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert not logged and SECRET not in report.read_text()


@pytest.mark.nightly
def test_a_command_that_is_killed_is_continued(cluster, s3, run, photos, translated, tmp_path):
    files = named(photos)
    for k in range(4):  # so many that the job is not done before the signal comes
        for name, path in files.items():
            s3.pipe_file(f"bucket/many/{k}/{name}", path.read_bytes())
    places = ("s3://bucket/many", "s3://bucket/killed")
    address = cluster.get_runtime_context().gcs_address
    words = [sys.executable, "-m", "img2img", "translate", run, places[0], "--out", places[1], "--device", "cpu"]
    process = subprocess.Popen([*words, "--ray", address], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while len(s3.find("bucket/killed")) < 3 and process.poll() is None:
        time.sleep(0.1)
    process.kill()
    _, said = process.communicate(timeout=60)
    assert process.returncode == -9 and "Traceback" not in said, said
    begun = contents("bucket/killed", s3)
    assert 1 < len(begun) < 4 * 39
    result = img2img.translate(run, *places, **ON_CPU)  # without Ray
    assert len(result.failed) == 4 and 0 < result.translated <= 4 * 39 - len(begun)
    found = contents("bucket/killed", s3)
    assert begun.items() <= found.items()
    assert found == {f"{k}/{name}": translated[name] for k in range(4) for name in files if name in translated}


# Sample


def test_drawing_loses_nothing_though_a_worker_is_killed(cluster, sampler, drawn, tmp_path, monkeypatch):
    killed, out = tmp_path / "killed", tmp_path / "out"
    monkeypatch.setattr(models, "Drawing", deadly(Drawing, killed, lambda number: number == 13))
    out.mkdir()
    for name in ("000021.png", "000042.png", SOURCE):  # some are there
        (out / name).write_bytes(drawn[name])
    seen, asked = [], BY_RAY | {"batch_size": BATCH, "grid": True} | ON_CPU
    written = img2img.sample(sampler, 43, out=out, progress=lambda *x: seen.append(x), **asked)
    assert killed.exists() and contents(out) == drawn
    assert (written.drawn, written.skipped, seen) == (41, 2, [(k, 43) for k in range(3, 44)])
    assert json.loads(drawn[SOURCE])["threads"] == 1


@pytest.mark.nightly
def test_drawing_into_a_store_loses_nothing_though_a_worker_is_killed(
    cluster, s3, sampler, drawn, tmp_path, monkeypatch
):
    killed = tmp_path / "killed"
    monkeypatch.setattr(models, "StoredDrawing", deadly(StoredDrawing, killed, lambda number: number == 13))
    s3.pipe({f"bucket/drawn/{name}": drawn[name] for name in ("000021.png", SOURCE)})
    asked = BY_RAY | {"batch_size": BATCH, "grid": True} | ON_CPU
    written = img2img.sample(sampler, 43, out="s3://bucket/drawn", **asked)
    assert killed.exists() and contents("bucket/drawn", s3) == drawn
    assert (written.drawn, written.skipped, written.pictures) == (42, 1, ["s3://bucket/drawn/grid.png"])


# Equalize


@pytest.mark.nightly
def test_equalizing_loses_nothing_though_a_worker_is_killed(cluster, s3, tmp_path, monkeypatch):
    from img2img.lab.transforming import Equalizing

    class Deadly(Equalizing):
        killed = tmp_path / "killed"

        def __call__(self, i, image):
            import os

            if i == 17 and not self.killed.exists():
                self.killed.touch()
                os.kill(os.getpid(), 9)
            return Equalizing.__call__(self, i, image)

    (tmp_path / "plates").mkdir()
    table = write_plates(tmp_path / "plates")
    loaded, seen = BatchEqualizer.load(fit_plates(table, tmp_path / "eq")), []
    some = table.parent / "some.csv"
    frame = pd.read_csv(table)
    frame[frame.index % 20 != 3].to_csv(some, index=False)  # without the row that others are compared with
    alone = loaded.transform_table(some, None, tmp_path / "alone")
    monkeypatch.setattr("img2img.lab.transforming.Equalizing", Deadly)
    found = loaded.transform_table(some, None, tmp_path / "out", progress=lambda *x: seen.append(x), **BY_RAY)
    expected = contents(tmp_path / "alone")
    assert Deadly.killed.exists() and contents(tmp_path / "out") == expected
    pd.testing.assert_frame_equal(found, alone)
    assert seen == [(k, 22) for k in range(1, 23)]
    says = refused(ConfigError, loaded.transform_table, some, None, tmp_path / "out", ray_gpus=0.5, **BY_RAY)
    assert says == "--ray-gpus has no effect on cpu; leave it out, or use --device cuda."
    s3.put(f"{table.parent}/", "bucket/plates/", recursive=True)
    Deadly.killed.unlink()
    stored = loaded.transform_table("s3://bucket/plates/some.csv", None, "s3://bucket/equalized", **BY_RAY)
    assert Deadly.killed.exists() and stored.drop(columns="error").equals(alone.drop(columns="error"))
    found, listed = contents("bucket/equalized", s3), expected.pop("equalized.csv")
    assert found.pop("equalized.csv").replace(b"s3://bucket/plates", bytes(table.parent)) == listed
    assert found == expected
    again = loaded.transform_table("s3://bucket/plates/some.csv", None, "s3://bucket/equalized")  # without Ray
    assert again.status.value_counts().to_dict() == {"kept": 21, "failed": 1}


# Two nodes


@pytest.mark.nightly
def test_a_node_that_is_removed_loses_nothing(run, photos, translated, sampler, drawn, tmp_path):
    pytest.importorskip("ray")
    script = f"""
import img2img
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=1, include_dashboard=False))
second = [cluster.add_node(num_cpus=1)]
def remove():
    cluster.remove_node(second.pop(), allow_graceful=False)
def progress(outcome):
    if outcome.done == 10:
        remove()
def drawing(done, total):
    if done >= 8 and second:
        remove()
if __name__ == "__main__":
    options = dict(device="cpu", ray=cluster.address)
    result = img2img.translate({str(run)!r}, {str(photos)!r}, "out", progress=progress, **options)
    assert not second
    second.append(cluster.add_node(num_cpus=1))
    options |= dict(progress=drawing, batch_size={BATCH}, grid=True)
    written = img2img.sample({str(sampler)!r}, 43, out="drawn", **options)
    assert not second
    print(result.translated, len(result.failed), written.drawn)
"""
    (tmp_path / "script.py").write_text(script)
    words, quiet = [sys.executable, "script.py"], {"RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(words, cwd=tmp_path, env=os.environ | quiet, capture_output=True, text=True, timeout=300)
    assert done.stdout.split()[-3:] == ["40", "1", "43"], done.stderr
    assert contents(tmp_path / "out") == translated and contents(tmp_path / "drawn") == drawn
