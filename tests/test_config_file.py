"""Options of training from a file."""

import json

from conftest import refused

from img2img.cli.config import read_options
from img2img.core.needs import Facts
from img2img.errors import ConfigError
from img2img.methods import METHODS
from img2img.options.declared import refuse_idle, split
from img2img.training.config import flat, groups_of

CYCLEGAN = groups_of(METHODS["cyclegan"].Config)


def read(path, text, method="cyclegan"):
    path.write_text(text)
    return read_options(path, method, groups_of(METHODS[method].Config))


def test_toml_and_the_command_line(unpaired, tmp_path, command_line):
    a, b = unpaired
    rows = [f'a = "{a}"', f'b = "{b}"', f'out = "{tmp_path / "run"}"', "steps = 3", "size = 32", "width = 4"]
    rows += ['generator = "resnet_3"', "d-width = 4", 'discriminator = "patch_16"', 'method = "cyclegan"']
    file = tmp_path / "options.toml"
    file.write_text("\n".join(rows))
    code, out, err = command_line("-q", "train", "cyclegan", "--config", file, "--steps", 2)
    assert (code, err) == (0, "") and f"model: {tmp_path / 'run'}" in out
    saved = json.loads((tmp_path / "run" / "config.json").read_text())["options"]
    assert (saved["steps"], saved["d_width"], saved["generator"]) == (2, 4, "resnet_3")
    again = tmp_path / "again"
    code, _, _ = command_line("-q", "train", "cyclegan", "--config", tmp_path / "run" / "config.json", "--out", again)
    assert code == 0
    assert (again / "model.safetensors").read_bytes() == (tmp_path / "run" / "model.safetensors").read_bytes()


def test_the_config_of_a_run_of_any_method_is_taken_as_options(tmp_path):
    wrong = []
    for name, method in METHODS.items():
        data, training, own, *others = groups = groups_of(method.Config)
        resolved = method.resolve(own(width=8) if "width" in own.__dataclass_fields__ else own(), Facts(64))
        record = {"method": name, "options": flat(data(size=64), training(steps=5), resolved, *(g() for g in others))}
        options = read(tmp_path / "config.json", json.dumps(record | {"processes": 1}), name)
        configs = split(options, *groups)
        try:
            for config in (configs[0], configs[2]):
                refuse_idle(name, options, config)
        except ConfigError as error:
            wrong.append((name, str(error)))
        if configs[1].steps != 5 or method.resolve(configs[2], Facts(64)) != resolved:
            wrong.append((name, options))
    assert not wrong


def test_refusals_name_the_file(tmp_path):
    file, json_file = tmp_path / "x.toml", tmp_path / "x.json"
    for path, text, words in [
        (file, "steps = 0.5", "--steps takes a whole number"),
        (file, "[steps]\na = 1", "--steps takes a whole number"),
        (file, "step = 5", "Did you mean 'steps'?"),
        (file, "out = 3", "out takes a path"),
        (file, "no toml", "is not the TOML"),
        (json_file, "[" * 10**5, "is not the TOML, or .json"),
        (json_file, "[1]", "holds no names with values"),
        (json_file, '{"method": "pix2pix", "options": {}}', "of the method pix2pix, and this command trains cyclegan"),
    ]:
        text = refused(ConfigError, read, path, text)
        assert words in text and str(path) in text, text
    assert "There is no file" in refused(ConfigError, read_options, tmp_path / "none.toml", "cyclegan", CYCLEGAN)
