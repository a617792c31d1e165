"""Plug-ins: methods, generators and objectives of other packages, on the one of examples/plugin and on broken ones."""

import json
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refused
from helpers import RHYTHM, assert_equal
from PIL import Image

import img2img
from img2img import doctor, plugins
from img2img.cli import main as cli
from img2img.errors import ConfigError, Interrupted, ModelFileError
from img2img.methods import CONFIGS, METHODS, PLACES
from img2img.model.plugged import TABLES
from img2img.networks import GENERATORS

ROOT = Path(img2img.__file__).parents[1]
EXAMPLE = ROOT / "examples" / "plugin"
RNG = np.random.default_rng(0)
IMAGES = {name: RNG.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8) for name in "ab"}
TINY = dict(
    size=16, width=4, d_width=2, discriminator="patch_16", steps=4, augment="none", device="cpu", precision="fp32",
    quiet=True, val_fraction=0, **RHYTHM,
)  # fmt: skip


def install(folder, name, version, groups):
    """Write what pip writes of a package, so that its entry points are found, into a folder of the path."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {x}\n" for key, x in points.items()) for group, points in groups.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture(autouse=True)
def forgotten():
    """What a test installs and passes is forgotten after it."""
    yield
    plugins._entry_points.cache_clear()
    plugins._PASSED.clear()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("img2img_example", "broken_plugin")]:
        del sys.modules[name]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The folder of installed plug-ins: the example is."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    site = tmp_path / "site"
    install(site, project["name"], project["version"], project["entry-points"])
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(cli.train, "registered_commands", [])
    plugins._entry_points.cache_clear()
    return site


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the example's method, with its generator and its objective."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("plugged")
        project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
        install(root / "site", project["name"], project["version"], project["entry-points"])
        patch.syspath_prepend(str(EXAMPLE))
        patch.syspath_prepend(str(root / "site"))
        plugins._entry_points.cache_clear()
        options = TINY | dict(generator="context", objective="logistic_margin", transform="flip")
        img2img.train("gcgan", **IMAGES, out=root / "run", **options)
    plugins._entry_points.cache_clear()
    return root / "run"


def test_the_example_is_a_method_like_any_other(installed, run, command_line, tmp_path):
    code, out, err = command_line("train", "--help")
    assert code == 0 and err == "" and "img2img-example 0.1.0" in out and "Geometry-Consistent" in out
    code, out, _ = command_line("train", "gcgan", "--help")
    assert code == 0 and "--lambda-geo" in out and "Of plug-ins: context." in out and "logistic_margin" in out
    (tmp_path / "in").mkdir()
    Image.fromarray(IMAGES["a"][0]).save(tmp_path / "in" / "x.png")
    assert command_line("translate", run, tmp_path / "in", "--out", tmp_path / "out", "--device", "cpu")[0] == 0
    with Image.open(tmp_path / "out" / "x.png") as image:
        assert image.size == (16, 16)
    code, out, _ = command_line("info", run)
    assert code == 0 and "gcgan" in out and "img2img-example 0.1.0" in out


def test_what_is_in_the_run(run, installed):
    packages = {option: "img2img-example 0.1.0" for option in ("method", "generator", "objective")}
    assert json.loads((run / "config.json").read_text())["plugins"] == packages
    model = img2img.load(run, device="cpu")
    assert model.card.plugins == packages and model.card.config["transform"] == "flip"
    assert "gcgan" in (run / "report.html").read_text(encoding="utf-8")
    assert [type(layer).__name__ for layer in model.network().layers][:2] == ["Conv2d", "AdaptiveNorm"]
    assert model(np.zeros((13, 11, 3), np.uint8)).shape == (13, 11, 3)  # of any size: `multiple` is 1


def test_a_stopped_run_continues_bit_equal(run, installed, tmp_path, monkeypatch):
    monkeypatch.setattr("img2img.training.journal.write_report", lambda *_: None)
    options = TINY | dict(generator="context", objective="logistic_margin", transform="flip", save_every=2)
    step = METHODS["gcgan"].step

    def stops(self, batches):
        if self.step_number == 3:
            raise KeyboardInterrupt
        return step(self, batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(METHODS["gcgan"], "step", stops)
        with pytest.raises(Interrupted):
            img2img.train("gcgan", **IMAGES, out=tmp_path / "parts", **options)
    img2img.train("gcgan", **IMAGES, out=tmp_path / "parts", **options)
    whole, parts = (torch.load(folder / "last.pt") for folder in (run, tmp_path / "parts"))
    assert whole["step"] == 4
    assert_equal(whole["method"], parts["method"])
    assert_equal(whole["optimizers"], parts["optimizers"])


def test_without_the_package_a_model_says_what_to_install(run, tmp_path, command_line):
    text = refused(ModelFileError, img2img.load, run)
    assert "uses the method 'gcgan' of img2img-example 0.1.0, which is not installed here" in text
    code, _, err = command_line("info", run)
    assert code == 2 and err.count("\n") == 1 and "Install that package." in err
    assert "Unknown method 'gcgan'" in refused(ConfigError, img2img.train, "gcgan", **IMAGES, out=run, **TINY)
    assert "Unknown --generator 'context'" in refused(
        ConfigError, img2img.train, "cyclegan", **IMAGES, out=tmp_path / "new", **TINY, generator="context"
    )


def test_a_run_of_a_built_in_method_with_a_plugged_generator(installed, tmp_path, monkeypatch):
    monkeypatch.setattr("img2img.training.journal.write_report", lambda *_: None)
    options = TINY | dict(generator="context", objective="logistic_margin", steps=1)
    img2img.train("pix2pix", **IMAGES, out=tmp_path / "run", **options)
    plugins._entry_points.cache_clear()
    monkeypatch.setattr(plugins.metadata, "entry_points", lambda group: [])
    assert "uses the generator 'context' of img2img-example" in refused(ModelFileError, img2img.load, tmp_path / "run")
    resumed = refused(ModelFileError, img2img.train, "pix2pix", **IMAGES, out=tmp_path / "run", resume=True)
    assert "uses the generator 'context' of img2img-example 0.1.0" in resumed


def test_options_that_a_network_does_not_take_are_refused(installed, tmp_path):
    for option, value in (("dropout", 0.5), ("upsample", "resize")):
        text = refused(
            ConfigError, img2img.train, "cyclegan", **IMAGES, out=tmp_path / "x", **TINY, generator="context",
            **{option: value},
        )  # fmt: skip
        assert f"--{option} has no effect here: it is for a --generator that has an argument {option}" in text
    assert not (tmp_path / "x").exists()


def test_names_are_found_without_importing(installed):
    assert "context" in GENERATORS and [*GENERATORS][-1] == "context" and "context" not in GENERATORS.own
    assert len(PLACES) == len(PLACES.own) + 1 and CONFIGS["gcgan"]().lambda_geo == 20
    assert "img2img_example.context" not in sys.modules and "img2img_example.gcgan" not in sys.modules


def test_doctor_lists_plug_ins(installed):
    (check,) = doctor._plugins()
    assert (check.name, check.state, check.cure) == ("plug-in img2img-example 0.1.0", "ok", "")
    assert check.found == "method gcgan, generator context, objective logistic_margin"


BROKEN = {
    "raises": ("methods", "does_not_import", "broken_plugin.raises:Paper", "ZeroDivisionError: division by zero"),
    "nothing": ("methods", "not_there", "broken_plugin.nothing:Paper", "ModuleNotFoundError: No module named"),
    "plain": ("methods", "no_method", "broken_plugin.plain:Paper", "is not a class derived from Method"),
    "exits": ("generators", "ends", "broken_plugin.exits:Net", "SystemExit: 3"),
}


def test_broken_plug_ins_are_named_and_the_others_work(installed, tmp_path, monkeypatch, command_line):
    package = tmp_path / "site" / "broken_plugin"
    package.mkdir()
    (package / "__init__.py").touch()
    paper = (
        '"""A paper."""\nfrom img2img.extending import TranslationConfig\nclass PaperConfig(TranslationConfig): ...\n'
    )
    (package / "plain.py").write_text(f"{paper}class Paper: ...\n")
    (package / "raises.py").write_text(f"{paper}1 / 0\nclass Paper: ...\n")
    (package / "exits.py").write_text("import sys\nsys.exit(3)\n")
    for key, (group, name, where, _) in BROKEN.items():
        install(tmp_path / "site", f"broken-{key}", "2.0", {f"img2img.{group}": {name: where}})
    plugins._entry_points.cache_clear()
    code, out, err = command_line("train", "--help")
    assert code == 0 and "gcgan" in out and "cyclegan" in out
    assert err.count("\n") == 1 and "The method 'not_there' of broken-nothing 2.0 cannot be used" in err
    assert "img2img_example.gcgan" not in sys.modules and "broken_plugin.raises" not in sys.modules  # read, not run
    checks = {check.name: check for check in doctor._plugins()}
    assert checks.pop("plug-in img2img-example 0.1.0").state == "ok"
    assert len(checks) == len(BROKEN)
    for key, (group, name, _, words) in BROKEN.items():
        check = checks[f"plug-in broken-{key} 2.0"]
        assert check.state == "failed" and words in check.found and check.cure == f"pip install --upgrade broken-{key}"
        table = METHODS if group == "methods" else TABLES[group.removesuffix("s")]
        assert f"'{name}' of broken-{key} 2.0 cannot be used" in refused(ConfigError, table.__getitem__, name)


def test_plug_ins_never_take_the_names_of_others(installed, tmp_path, command_line):
    where = "img2img_example.context:ContextNetwork"
    install(
        tmp_path / "site",
        "thief",
        "1.0",
        {"img2img.generators": {"resnet_9": where}, "img2img.methods": {"dcgan": where}},
    )
    install(tmp_path / "site", "rival", "1.0", {"img2img.generators": {"context": where}})
    plugins._entry_points.cache_clear()
    assert GENERATORS["resnet_9"] is GENERATORS.own["resnet_9"] and METHODS["dcgan"].__module__ == "img2img.core.dcgan"
    both = refused(ConfigError, GENERATORS.__getitem__, "context")
    assert "rival 1.0 and img2img-example 0.1.0 both have one. Uninstall one of them." in both
    code, _, err = command_line("train", "--help")
    assert code == 0 and "The method 'dcgan' of thief 1.0 is ignored: img2img itself has one" in err
    checks = {check.name: check for check in doctor._plugins()}
    assert checks["plug-in thief 1.0"].found.count("is ignored") == 2 and checks["plug-in rival 1.0"].state == "failed"
