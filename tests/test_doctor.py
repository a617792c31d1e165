"""What `img2img doctor` says of this machine, and of machines on which something is wrong."""

import json
import shutil
from importlib import metadata
from pathlib import Path

import pytest
import torch

from img2img import doctor
from img2img.errors import DISTRIBUTION

DISK = shutil.disk_usage(".")


def checks():
    return {check.name: check for check in doctor.examine()}


def test_a_sound_machine(command_line):
    code, out, _ = command_line("doctor", "--json")
    found = {check["name"]: check for check in json.loads(out)}
    assert code == 0 and found["cpu"]["state"] == "ok" and "one training step in" in found["cpu"]["found"]
    assert f"torch {metadata.version('torch')}" in found["libraries"]["found"]
    assert found["--device auto"]["found"].startswith("cuda" if torch.cuda.is_available() else ("cpu", "mps"))
    assert found["[lab]"]["state"] == "ok" and "[test]" not in found
    for check in found.values():
        assert check["state"] in doctor.STYLES and (check["state"] == "ok") == (not check["cure"]), check


def test_an_extra_is_missing_and_a_library_is_broken(monkeypatch, command_line):
    asked = metadata.version

    def version(name):
        if name == "zarr":
            raise metadata.PackageNotFoundError(name)
        return asked(name)

    def broken(name):
        return (
            "cannot be imported: operator torchvision::nms does not exist" if name == "torchvision" else imported(name)
        )

    imported = doctor._import
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(doctor, "_import", broken)
    code, out, _ = command_line("doctor")
    assert code == 1
    assert f"missing [zarr]: zarr is not installed\n        pip install '{DISTRIBUTION}[zarr]'\n" in out
    assert "failed  torchvision: cannot be imported: operator torchvision::nms" in out
    assert "pip install --force-reinstall torch torchvision\n" in out


@pytest.mark.parametrize(
    ("wrong", "name", "state", "words"),
    [
        (
            lambda patch: patch.setattr(doctor.shutil, "disk_usage", lambda _: DISK._replace(free=1e9)),
            "this folder",
            "failed",
            "1.0 GB free",
        ),
        (
            lambda patch: patch.setattr(doctor.os, "access", lambda *_: False),
            "this folder",
            "failed",
            "cannot be written",
        ),
        (
            lambda patch: patch.setattr(doctor.shutil, "which", lambda _: None),
            "--compile",
            "missing",
            "no C++ compiler",
        ),
        (lambda patch: patch.setattr(doctor, "_step", lambda *_: 1 / 0), "cpu", "failed", "division by zero"),
    ],
)
def test_what_is_wrong_is_said_with_its_cure(monkeypatch, wrong, name, state, words):
    monkeypatch.delenv("CXX", raising=False)
    wrong(monkeypatch)
    check = checks()[name]
    assert check.state == state and words in check.found and check.cure.endswith((".", "]'"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines where PyTorch uses no GPU")
def test_a_driver_without_a_pytorch_that_uses_it(monkeypatch):
    assert "GPU" not in checks()
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert checks()["GPU"].state == "failed" and "pytorch.org" in checks()["GPU"].cure


def test_weights_in_the_cache_are_found(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    missing = checks()["weights of lpips[alex]"]
    assert missing.state == "missing" and str(tmp_path) in missing.cure
    place = missing.cure.rpartition(" to ")[2].removesuffix(".")
    (tmp_path / "checkpoints").mkdir()
    Path(place).touch()
    assert checks()["weights of lpips[alex]"].state == "ok"
