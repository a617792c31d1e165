"""One contract for every method: a paper is tested the moment it is in the table, by what its class states."""

import copy
import io
import json
import os
import re
import signal
from dataclasses import asdict, fields

import numpy as np
import pytest
import torch
from conftest import write_images
from helpers import assert_equal
from torch import nn

import img2img
from img2img.core.method import CLASS, Image, Label, Method, Noise, Use
from img2img.core.needs import Facts, Needs
from img2img.data.grid import draw_grid
from img2img.data.images import write_image
from img2img.data.picture import Picture
from img2img.data.scale import Scale
from img2img.errors import Img2ImgError, Interrupted
from img2img.interchange.export import export_model
from img2img.methods import CONFIGS, METHODS, PLACES
from img2img.model.file import ModelCard, load_resume, load_use, read_card, save_model
from img2img.model.sampling import Sampler
from img2img.options import outline
from img2img.report.curves import READINGS
from img2img.runs.facts import read_report_record
from img2img.runs.folder import RunFolder
from img2img.training.ema import Ema
from img2img.training.start import read_start

SIZE, CLASSES = 16, ("x", "y", "z")
SMALL = {  # of the options that a method has
    "generator": "unet_16", "discriminator": "patch_16", "width": 4, "d_width": 4, "blocks": 1, "d_layers": 2,
    "latent": 3, "depth": 1,
}  # fmt: skip


def small(name, **options):
    """The config of a method with networks of a few channels."""
    config = METHODS[name].Config
    known = {field.name for field in fields(config)}
    return config(**{option: value for option, value in (SMALL | options).items() if option in known})


def facts_for(needs):
    return Facts(SIZE, dict.fromkeys(needs.domains, 2), CLASSES if needs.labels else ())


def tiny(name, seed=0):
    torch.manual_seed(seed)
    config = small(name)
    facts = facts_for(config.needs)
    return METHODS[name](METHODS[name].resolve(config, facts), facts)


def batches_of(method, n=4):
    """Batches without end of what the method needs; with labels, every class is in each."""
    draw = torch.Generator().manual_seed(0)
    while True:
        batch = {
            domain: torch.rand(n, channels, SIZE, SIZE, generator=draw) * 2 - 1
            for domain, channels in method.facts.channels.items()
        }
        yield batch | ({"label": torch.arange(n) % len(CLASSES)} if method.needs.labels else {})


def inputs_of(use, n=2):
    """Arguments for the network of a use."""
    draw = torch.Generator().manual_seed(0)
    for x in use.inputs:
        if isinstance(x, Image):
            yield torch.rand(n, 2, SIZE, SIZE, generator=draw) * 2 - 1
        elif isinstance(x, Noise):
            yield x.draw(n, generator=draw)
        else:
            yield torch.arange(n) % x.classes


def card_of(name, method):
    scales = dict.fromkeys(method.facts.channels, Scale(0, 255, "uint8"))
    uses, facts = {use: use for use in method.uses}, method.facts
    return ModelCard(name, asdict(method.config), facts.size, facts.channels, scales, uses, 3, "0.1.0", facts.classes)


# One method, without files.


@pytest.mark.parametrize("name", METHODS)
def test_config(name):
    method, config = METHODS[name], small(name)
    module, title = PLACES[name]
    assert (method.__module__, method.__name__, method.Config.__name__) == (module, title, f"{title}Config")
    for one in (method.Config(), config):
        assert method.Config(**json.loads(json.dumps(asdict(one)))) == one
        facts = facts_for(one.needs)
        resolved = method.resolve(one, facts)
        assert resolved == method.resolve(resolved, facts) and "auto" not in asdict(resolved) | {"penalty": ""}
    for read in (CONFIGS[name], outline._executed(module, f"{title}Config")):  # the latter without the import
        assert read.needs == method.Config.needs
        assert [(f.name, f.type, f.default) for f in fields(read)] == [
            (f.name, f.type, f.default) for f in fields(method.Config)
        ]


DATA_DEPENDENT = {
    "local",
    "semigan",
    "stargan",
}  # their steps choose images by label, or ask which device autocast is on


@pytest.mark.parametrize("name", [name for name in METHODS if name not in DATA_DEPENDENT])
def test_a_step_makes_no_tensor_on_another_device(name):
    """As on a GPU, but without one: a tensor of the CPU among those of the device "meta" is an error."""
    method = tiny(name).train().to("meta")
    batches = ({key: x.to("meta") for key, x in batch.items()} for batch in batches_of(method))
    for step in (1, 4):
        method.proceed(step, 4)
        assert all(x.device.type == "meta" for x in method.step(batches).values())
    for use in method.uses.values():
        use.network(*(x.to("meta") for x in inputs_of(use)))


def test_a_tensor_on_another_device_is_found():
    method = tiny("dcgan").train().to("meta")
    with pytest.raises(RuntimeError, match="meta"):
        method.step(batches_of(method))


@pytest.mark.parametrize("name", METHODS)
def test_a_step_moves_each_player_in_its_own_turn_alone(name, monkeypatch):
    method = tiny(name).train()
    move, turns, reached = method.move, [], set()
    names = {id(p): key for key, p in method.named_parameters()}
    player_of = {names[id(p)]: player for player in method.optimizers for p in method.parameters_of(player)}
    states = [snapshot(method)]

    for optimizer in method.optimizers.values():
        optimizer.register_step_pre_hook(lambda *_: reached.update(k for k, p in graded(method)))

    def spy(player, loss):
        # between two moves a player may at most prepare its own, such as by clipping
        assert {player_of[key] for key in changed(states[-1], snapshot(method))} <= {player}, "moved between turns"
        assert loss.shape == () and torch.isfinite(loss)
        before = snapshot(method)
        move(player, loss)
        turns.append(player)
        states.append(snapshot(method))
        assert {player_of[key] for key in changed(before, states[-1])} == {player}
        assert not list(graded(method)), "a gradient is left for the next turn"

    monkeypatch.setattr(method, "move", spy)
    batches = batches_of(method)
    for step in (1, 4):  # of 4: some players move early in a run, others late
        method.proceed(step, 4)
        scalars = method.step(batches)
        assert not changed(states[-1], snapshot(method))
        for key, x in scalars.items():
            assert x.shape == () and torch.isfinite(x) and not x.requires_grad, key
            assert 0 <= x <= 1 or method.kinds.get(key) != "share", key
    assert set(turns) == set(method.optimizers) == set(method.gradient_norms)
    assert set(method.kinds.values()) <= set(READINGS)
    assert reached == {key for key, p in method.named_parameters() if p.requires_grad}
    assert all(torch.isfinite(p).all() for p in method.parameters())


def snapshot(method):
    return {name: p.detach().clone() for name, p in method.named_parameters()}


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def graded(method):
    return ((key, p) for key, p in method.named_parameters() if p.grad is not None)


@pytest.mark.parametrize("name", METHODS)
def test_players_share_no_parameter_and_miss_none(name):
    method = tiny(name)
    owned = [id(p) for player in method.optimizers for p in method.parameters_of(player)]
    assert len(set(owned)) == len(owned)
    assert set(owned) == {id(p) for p in method.parameters() if p.requires_grad}
    used = {id(p) for use in method.uses.values() for p in use.network.parameters()}
    assert used and used <= {id(p) for network in method.networks().values() for p in network.parameters()}


@pytest.mark.parametrize("name", METHODS)
def test_a_step_takes_the_batches_that_it_announces(name):
    method, taken = tiny(name), []
    batches = (taken.append(batch) or batch for batch in batches_of(method))
    for step in (1, 2, 3):
        method.proceed(step, 10)
        method.step(batches)
        assert len(taken) == method.draws_until(step)
    assert method.draws_until(0) == 0 and method.draws >= 1


@pytest.mark.parametrize("name", METHODS)
def test_the_state_is_all_that_there_is(name):
    """A method that gets another's state and optimizers takes the same next step."""
    one, other = tiny(name).train(), tiny(name, seed=1).train()
    batches = batches_of(one)
    one.step(batches)
    other.load_state_dict(one.state_dict())
    for player, optimizer in one.optimizers.items():
        other.optimizers[player].load_state_dict(copy.deepcopy(optimizer.state_dict()))
    taken = [next(batches) for _ in range(one.draws)]
    for method in (one, other):
        torch.manual_seed(2)
        method.proceed(2, 10)
        method.step(iter(taken))
    assert not changed(snapshot(one), snapshot(other))


@pytest.mark.parametrize("name", METHODS)
def test_preview(name):
    method = tiny(name).eval()
    batch = next(batches_of(method))
    columns, again = method.preview(batch), method.preview(batch)
    assert len({len(images) for images in columns.values()}) == 1
    for title, images in columns.items():
        assert images.shape[1:] == (2, SIZE, SIZE) and torch.isfinite(images).all(), title
        assert not images.requires_grad and torch.equal(images, again[title]), title
    assert draw_grid(columns).width > SIZE


@pytest.mark.parametrize("name", METHODS)
def test_a_model_file_gives_back_every_use(name, tmp_path):
    method, path = tiny(name).train(), tmp_path / "model.safetensors"
    method.step(batches_of(method))
    method.eval()
    card = card_of(name, method)
    save_model(path, card, {use: method.uses[use].network for use in card.uses})
    assert read_card(path) == card
    for title, use in method.uses.items():
        loaded = load_use(path, read_card(path), title)
        assert loaded[1:] == use[1:] and not loaded.network.training
        assert all(x.data_ptr() % 64 == 0 for x in loaded.network.state_dict().values())  # by which products round
        if use.output == CLASS:
            with torch.no_grad():
                said, again = use.network(*inputs_of(use))[0], loaded.network(*inputs_of(use))[0]
            assert torch.equal(said, again) and said.shape == (2, len(method.facts.classes))
            continue
        spec = card.directions[title]
        assert (spec.takes_images, spec.labelled, spec.out_channels) == (bool(use.source), use.labelled, 2)
        with torch.no_grad():
            expected = use.network(*inputs_of(use))
            assert torch.equal(loaded.network(*inputs_of(use)), expected)
        assert expected.shape == (2, 2, SIZE, SIZE) and expected.dtype == torch.float32


class Half(nn.Module):
    """What two uses share, before what is one's own."""

    multiple = 1

    def __init__(self, shared, own):
        super().__init__()
        self.shared, self.own = shared, own

    def forward(self, x, label):
        return self.own(self.shared(x)) + label.view(-1, 1, 1, 1)


class Sharing(Method):
    """Two uses with a common first layer."""

    Config = next(iter(METHODS.values())).Config

    @staticmethod
    def build(config, facts):
        shared = nn.Conv2d(2, 3, 3, padding=1)
        inputs = (Image("image"), Label(len(facts.classes)))
        return {way: Use(Half(shared, nn.Conv2d(3, 2, 1)), inputs, "image") for way in ("there", "back")}


def test_what_uses_share_is_stored_once(tmp_path, monkeypatch):
    table = dict(METHODS) | {"sharing": Sharing}
    monkeypatch.setattr("img2img.model.file.METHODS", table)
    method = Sharing(Sharing.Config(), facts_for(Needs(labels=True)))
    path, card = tmp_path / "model.safetensors", card_of("sharing", method)
    save_model(path, card, {use: method.uses[use].network for use in card.uses})
    read = read_card(path)
    assert read.shared == {f"back.shared.{name}": f"there.shared.{name}" for name in ("weight", "bias")}
    assert path.stat().st_size < 4 * sum(p.numel() for p in method.uses["there"].network.parameters()) + 9000
    for title, use in method.uses.items():
        given = list(inputs_of(use))
        assert torch.equal(load_use(path, read, title).network(*given), use.network(*given))


# From images to results.

QUICK = dict(
    size=SIZE, batch_size=6, steps=4, augment="none", device="cpu", precision="fp32", quiet=True, seed=3,
    log_every=2, save_every=2, sample_every=2, keep=1,
)  # fmt: skip


def options_for(name, root):
    """The options of a tiny run of a method, on folders of images in `root`."""
    needs = METHODS[name].Config.needs
    if needs.domains == ("a", "b"):
        data = {domain: write_images(root / domain, 6, (SIZE, SIZE), seed) for seed, domain in enumerate("ab")}
    else:
        parts = CLASSES if needs.labels else ("",)
        for seed, part in enumerate(parts):
            write_images(root / "data" / part, 6, (SIZE, SIZE), seed)
        data = {"data": root / "data"}
    config = small(name)
    idle = {option for option, _ in config.idle()}
    return QUICK | {key: x for key, x in asdict(config).items() if key in SMALL and key not in idle} | data


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """The folder of a run of each method, trained when it is first asked for, and its options."""
    runs = {}

    def run(name):
        if name not in runs:
            root = tmp_path_factory.mktemp(name)
            runs[name] = root / "run", options_for(name, root)
            img2img.train(name, out=root / "run", **runs[name][1])
        return runs[name]

    return run


def opened(run):
    return img2img.load(run, device="cpu", precision="fp32")


def image_of(channels, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, channels), dtype=np.uint8)


@pytest.mark.parametrize("name", METHODS)
def test_a_run_leaves_a_report_that_names_its_method(name, run_of):
    run, _ = run_of(name)
    assert re.search(rf"\b{name}\b", (run / "report.html").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    record = json.loads((run / "config.json").read_text())
    assert record["method"] == name
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["00000002.png", "00000004.png"]
    kinds = read_report_record(RunFolder(run)).facts.kinds
    norms = {name for row in rows for name in row if name.startswith("grad_")}
    assert norms and {kinds.get(name) for name in norms} == {"norm"}


@pytest.mark.parametrize("name", METHODS)
def test_a_run_starts_from_a_model_and_from_a_run(name, run_of):
    run, _ = run_of(name)
    card, last = read_card(run / "model.safetensors"), load_resume(run / "last.pt")

    def begun(path, only=None):
        torch.manual_seed(9)
        method = METHODS[name](METHODS[name].Config(**card.config), card.facts)
        begin = read_start("it", path, method, card, only)
        begin.give(method, Ema([], 0), 0)
        return method, begin

    for path, only in ((run / "model.safetensors", None), (run, "generator"), (run, None)):
        method, begin = begun(path, only)
        for title, own in card.uses.items():
            if only is None or method.uses[own].output != CLASS:
                expected = load_use(run / "model.safetensors", card, title).network.state_dict()
                found = method.uses[own].network.state_dict()
                assert all(torch.equal(found[key], x) for key, x in expected.items()), (path, title)
        assert bool(begin.state) == (path == run and only is None)
    assert_equal(dict(method.state_dict()), dict(last["method"]))
    for player, optimizer in method.optimizers.items():
        assert_equal(optimizer.state_dict()["state"], last["optimizers"][player]["state"])
    assert all(network in begin.note for network in method.networks()) and "the optimizers" in begin.note


@pytest.mark.parametrize("name", METHODS)
def test_results_of_one_class_are_not_taken_for_those_of_another(name, run_of, tmp_path):
    run, model = run_of(name)[0], opened(run_of(name)[0])
    if isinstance(model, Sampler) or not model.spec().labelled:
        return
    write_image(tmp_path / "in" / "x.png", Picture(image_of(3, SIZE, SIZE)))
    first, second, *_ = model.classes
    for _ in range(2):
        img2img.translate(run, tmp_path / "in", tmp_path / "out", label=first, device="cpu")
    with pytest.raises(Img2ImgError, match=f"label was {first}, now {second}"):
        img2img.translate(run, tmp_path / "in", tmp_path / "out", label=second, device="cpu")


@pytest.mark.parametrize("name", METHODS)
def test_a_trained_model_is_used(name, run_of):
    """Every direction and class gives images as those of the training, the same in any batch."""
    model = opened(run_of(name)[0])
    assert model.card.method == name and model.classes == tiny(name).facts.classes
    for direction in model.directions:
        for label in model.classes if model.spec(direction).labelled else [None]:
            if isinstance(model, Sampler):
                images = model(5, label=label)
                np.testing.assert_allclose(model(2, label=label, start=3), images[3:], atol=1)
            else:
                given = [image_of(3, SIZE, SIZE, seed=seed) for seed in range(3)]
                images = np.stack(model(given, direction, label=label))
                assert np.array_equal(model(given[1], direction, label=label), images[1])
            assert images.dtype == np.uint8 and images.shape[1:] == (SIZE, SIZE, 3)


@pytest.mark.parametrize("name", METHODS)
def test_a_label_is_asked_for_and_known(name, run_of):
    model = opened(run_of(name)[0])
    with pytest.raises(Img2ImgError, match=r"'q'.* [Nn]ames?|'q'|no class"):
        model.towards(label="q")
    if model.spec().labelled and not isinstance(model, Sampler):
        with pytest.raises(Img2ImgError, match=r"needs a class.* x, y, z"):
            model(image_of(3, SIZE, SIZE))


@pytest.mark.parametrize("name", METHODS)
def test_tiles_give_what_the_whole_image_gives(name, run_of):
    """Or the sentence that says why not."""
    model = opened(run_of(name)[0])
    if isinstance(model, Sampler):
        pytest.skip("draws images of one size")
    model = model.towards(label=model.classes[-1] if model.spec().labelled else None)
    image = image_of(3, 160, 176)
    whole = model(image)
    try:
        tiles = model(image, tile=128)
    except Img2ImgError as error:
        assert str(error).endswith(".") and "\n" not in str(error)
    else:
        assert tiles.shape == whole.shape and np.abs(tiles.astype(int) - whole).mean() < 2


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
def test_a_model_is_exported_or_says_why_not(name, suffix, run_of, tmp_path):
    model, path = opened(run_of(name)[0]), tmp_path / f"model{suffix}"
    label = {"label": model.classes[0]} if model.spec().labelled else {}
    try:
        exported = export_model(model.path, path, **label)
    except Img2ImgError as error:
        assert str(error).endswith(".") and "\n" not in str(error) and not path.exists()
    else:
        assert path.exists() and exported.difference < 1e-3


@pytest.mark.parametrize("name", METHODS)
def test_a_stopped_run_resumes_to_the_bit(name, run_of, tmp_path, monkeypatch):
    whole, options = run_of(name)
    parts, step, calls = tmp_path / "parts", METHODS[name].step, []

    def stopping(self, batches):
        scalars = step(self, batches)
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return scalars

    with monkeypatch.context() as patch:
        patch.setattr(METHODS[name], "step", stopping)
        with pytest.raises(Interrupted, match="step 2"):
            img2img.train(name, out=parts, **options)
    img2img.train(name, out=parts, resume=True, quiet=True)
    assert len(calls) == 2
    assert differences(load_resume(whole / "last.pt"), load_resume(parts / "last.pt")) == []
    for file in ("model.safetensors", "models/00000002.safetensors", "samples/00000004.png"):
        assert (whole / file).read_bytes() == (parts / file).read_bytes(), file


def differences(a, b, where="last.pt"):
    """The places where two nested states differ, to the bit."""
    if type(a) is not type(b):
        return [where]
    if isinstance(a, dict | list | tuple):
        pairs = a.items() if isinstance(a, dict) else enumerate(a)
        other = b if isinstance(b, dict) else dict(enumerate(b))
        if list(dict(pairs)) != list(other):
            return [where]
        pairs = a.items() if isinstance(a, dict) else enumerate(a)
        return [place for key, x in pairs for place in differences(x, other[key], f"{where}[{key!r}]")]
    same = a.dtype == b.dtype and torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return [] if same else [where]


@pytest.mark.parametrize("name", METHODS)
def test_info(name, run_of, command_line):
    run, _ = run_of(name)
    code, text, _ = command_line("info", run)
    model = opened(run)
    assert code == 0 and name in text and all(use in text for use in model.directions)
    assert all(label in text for label in model.classes)
    code, text, _ = command_line("info", run, "--json")
    info = json.load(io.StringIO(text))
    uses = {use: load_use(model.path, model.card, use).network for use in model.directions}
    assert {use: entry["parameters"] for use, entry in info["directions"].items()} == {
        use: sum(x.numel() for x in network.state_dict().values()) for use, network in uses.items()
    }
