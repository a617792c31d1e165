"""Methods that draw from noise: their turns, what is drawn, labels, exact resume, and that they learn. What holds for
every method is in test_contract.py.
"""

import json
import os
import signal

import numpy as np
import pytest
import torch
from conftest import refused
from helpers import assert_equal, over
from safetensors.torch import load_file

import img2img
from img2img.core import wgan
from img2img.core.method import NOISES, Noise
from img2img.core.needs import Facts
from img2img.core.noise import SHOWN, FromNoise, diversity
from img2img.core.objectives import OBJECTIVES
from img2img.core.optimizers import Adam, RMSprop
from img2img.core.penalties import PENALTIES
from img2img.data.scale import Scale
from img2img.errors import ConfigError, Interrupted
from img2img.methods import METHODS
from img2img.model.file import load_resume, read_card
from img2img.model.sampling import Sampler
from img2img.networks.dcgan import SIZES

FROM_NOISE = [name for name, method in METHODS.items() if issubclass(method, FromNoise)]
FROM_NOISE = [name for name in FROM_NOISE if "network" not in METHODS[name].Config.unused]
SMALL = {"mlp": 2, "dcgan": 16}
CASES = [(name, network) for name in FROM_NOISE for network in SMALL]
CLASSES = ("x", "y", "z")


def tiny(name, network="mlp", seed=0, channels=2, size=None, **options):
    """A method with networks of a few units, for images of a few pixels."""
    torch.manual_seed(seed)
    config = METHODS[name].Config(**dict(network=network, latent=3, width=4, d_width=4) | options)
    return METHODS[name](config, Facts(size or SMALL[network], {"image": channels}, CLASSES * config.needs.labels))


def batches_of(method, n=3, seed=0):
    """Batches without end, and the list of those that were taken."""
    draw, taken = torch.Generator().manual_seed(seed), []
    shape = (n, method.facts.channels["image"], *[method.facts.size] * 2)
    label = {"label": torch.arange(n) % len(CLASSES)} if method.needs.labels else {}

    def batches():
        while True:
            taken.append(torch.rand(shape, generator=draw) * 2 - 1)
            yield {"image": taken[-1]} | label

    return batches(), taken


def snapshot(method):
    return {name: p.detach().clone() for name, p in method.named_parameters()}


def changed(before, after):
    """The networks whose parameters differ."""
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def within(method, bound):
    return all(p.abs().max() <= bound for p in method.d.parameters())


# Turns.


@over(name=FROM_NOISE)
def test_the_critic_moves_on_fresh_batches_and_fresh_noise(name, monkeypatch):
    method = tiny(name, n_critic=4)
    batches, taken = batches_of(method)
    seen, noises, turns = [], [], []
    move = method.move
    monkeypatch.setattr(method, "move", lambda player, loss: turns.append(player) or move(player, loss))
    method.d.register_forward_hook(lambda _m, x, _y: seen.extend([x[0].detach().clone()] * (len(turns) < 4)))
    method.g.register_forward_hook(lambda _m, z, _y: noises.append(z[0].clone()))
    method.step(batches)
    assert len(taken) == method.draws == method.draws_until(1) == 4
    assert turns == ["D"] * 4 + ["G"] and set(method.networks()) == {"g", "d"}
    real = [i for x in seen for i, batch in enumerate(taken) if torch.equal(x, batch)]
    assert real[:4] == [0, 1, 2, 3] and set(real[4:]) <= {3}  # G may compare with the last batch
    assert len(noises) == 5 and len({tuple(z.flatten().tolist()) for z in noises}) == 5


@over("name critic", [("gan", 1), ("dcgan", 1), ("cgan", 1), ("wgan", 5), ("wgan_gp", 5)])
def test_moves_of_the_critic_by_default(name, critic):
    method = tiny(name)
    batches, taken = batches_of(method)
    method.step(batches)
    method.step(batches)
    assert len(taken) == method.draws_until(2) == 2 * critic


def test_accumulated_batches_make_one_move():
    method = tiny("wgan_gp", n_critic=2)
    method.accumulate = 2
    moves = dict.fromkeys(method.optimizers, 0)
    for player, optimizer in method.optimizers.items():
        optimizer.register_step_pre_hook(lambda *_, player=player: moves.update({player: moves[player] + 1}))
    batches, _ = batches_of(method)
    method.step(batches)
    assert moves == {"G": 0, "D": 1}
    method.step(batches)
    assert moves == {"G": 1, "D": 2}


@over(network=SMALL)
def test_every_objective_trains(network):
    wrong = []
    for objective in OBJECTIVES:
        method = tiny("gan", network, objective=objective, d_norm="none")
        batches, _ = batches_of(method)
        for _ in range(2):
            scalars = method.step(batches)
        judged = {"d_distance"} if objective == "wasserstein" else {"d_real", "d_fake"}
        finite = all(torch.isfinite(x) for x in scalars.values())
        if not finite or set(scalars) != {"g_gan", "d", "diversity"} | judged:
            wrong.append((objective, scalars))
    assert wrong == []


TRICKS = {
    **{penalty: {"penalty": penalty} for penalty in PENALTIES if penalty != "gp_one_sided"},  # 0 on these flat critics
    "spectral": {"spectral": True},
    "smooth": {"smooth": 0.1},
    "noise": {"instance_noise": 0.1},
    "diffaugment": {"diffaugment": "color,cutout"},
    "two time scales": {"d_lr": 4e-4},
}


def test_every_trick_trains_and_matters():
    def after_two_steps(**options):
        method = tiny("gan", **options)
        batches, _ = batches_of(method)
        for step in (1, 2):
            method.proceed(step, 10)
            scalars = method.step(batches)
        assert all(torch.isfinite(x) for x in scalars.values()), options
        return scalars["d"]

    plain = after_two_steps()
    assert [trick for trick, options in TRICKS.items() if after_two_steps(**options) == plain] == []


def test_wgan_gp_applies_the_penalty():
    def loss(lambda_gp):
        method = tiny("wgan_gp", lambda_gp=lambda_gp, n_critic=1)
        return method.step(batches_of(method)[0])["d"].item()

    none, ten, twenty = (loss(x) for x in (0.0, 10.0, 20.0))
    assert ten - none > 1e-3
    assert twenty - none == pytest.approx(2 * (ten - none), rel=1e-4)


def test_optimizers_are_those_of_the_papers():
    for name in ("gan", "dcgan", "wgan_gp"):
        method = tiny(name)
        assert {type(o) for o in method.optimizers.values()} == {Adam}
    assert METHODS["dcgan"].Config().lr == 2e-4 and METHODS["dcgan"].Config().beta1 == 0.5
    assert method.optimizers["D"].param_groups[0]["betas"] == (0.0, 0.9)
    method = tiny("wgan")
    assert {type(o) for o in method.optimizers.values()} == {RMSprop}
    assert {o.param_groups[0]["lr"] for o in method.optimizers.values()} == {5e-5}


# Mistakes.


@over(
    "options answer",
    [
        ({"network": "mpl"}, "Unknown --network 'mpl'. Did you mean 'mlp'?"),
        ({"noise": "nromal"}, "Unknown --noise 'nromal'. Did you mean 'normal'?"),
        ({"objective": "lsgaan"}, "Unknown --objective 'lsgaan'."),
        ({"network": "dcgan", "norm": "instance"}, "Unknown --norm 'instance'."),
        ({"network": "dcgan", "d_norm": "bach"}, "Unknown --d-norm 'bach'."),
        ({"n_critic": 0}, "--n-critic takes a whole number from 1"),
        ({"latent": 0}, "--latent takes a whole number from 1"),
    ],
    name=FROM_NOISE,
)
def test_mistakes(name, options, answer):
    assert refused(ConfigError, METHODS[name].Config, **options).startswith(answer)


def test_clipping_to_nothing_is_refused():
    assert refused(ConfigError, tiny, "wgan", weight_clip=0.0).startswith("--weight-clip takes a number above 0")


@over(name=FROM_NOISE, penalty=PENALTIES)
def test_a_penalty_refuses_batch_norm(name, penalty):
    text = refused(ConfigError, tiny, name, "dcgan", penalty=penalty, d_norm="batch")
    assert f"--penalty {penalty} needs a gradient penalty per image" in text
    tiny(name, "mlp", penalty=penalty, d_norm="batch")
    tiny(name, "dcgan", penalty=penalty, d_norm="instance")


def test_the_refusal_names_the_option_that_helps():
    assert "--d-norm" in refused(ConfigError, tiny, "wgan_gp", "dcgan", d_norm="batch")


# WGAN.


def test_the_critic_judges_with_clipped_weights():
    method, judged = tiny("wgan", weight_clip=0.01, lr=0.05), []
    assert within(method, 0.01 + 1e-9)
    judge = method.referee.judge

    def spy(d, real, fake):
        judged.append(within(method, 0.01 + 1e-9))
        return judge(d, real, fake)

    method.referee.judge = spy
    batches, _ = batches_of(method)
    for _ in range(3):
        method.step(batches)
    assert judged == [True] * 15


def test_the_generator_learns_from_clipped_weights():
    method, fooled = tiny("wgan", weight_clip=0.01, lr=0.05), []
    fool = method.referee.fool

    def spy(d, fake, real):
        fooled.append(within(method, 0.01 + 1e-9))
        return fool(d, fake, real)

    method.referee.fool = spy
    method.step(batches_of(method)[0])
    assert fooled == [True] and within(method, 0.01 + 1e-9)


def test_batches_of_a_warm_up():
    method = tiny("wgan", warm_up=True)
    batches, taken = batches_of(method, n=1)
    for step in (1, 2, 3):
        method.proceed(step, 1000)
        method.step(batches)
        assert len(taken) == method.draws_until(step) == 100 * step


def test_batches_across_the_end_of_the_warm_up_and_step_501():
    """100 moves in each of the first 25 steps, and in every 500th from the first on, as the authors have it."""
    warm, plain = tiny("wgan", warm_up=True), tiny("wgan")
    drawn = 0
    for step in range(1, 1003):
        drawn += warm.critic_moves(step)
        assert warm.draws_until(step) == drawn
        assert plain.draws_until(step) == 5 * step
    assert [warm.draws_until(n) for n in (0, 25, 26)] == [0, 2500, 2505]
    assert warm.draws_until(500) == 2500 + 475 * 5
    assert warm.draws_until(501) - warm.draws_until(500) == 100
    assert warm.draws_until(502) - warm.draws_until(501) == 5


# What is drawn.


@over(noise=NOISES)
def test_noise(noise):
    torch.manual_seed(0)
    z = Noise(50, noise).draw(200)
    assert z.shape == (200, 50)
    assert torch.equal(
        Noise(3, noise).draw(2, generator=torch.Generator().manual_seed(1)),
        Noise(3, noise).draw(2, generator=torch.Generator().manual_seed(1)),
    )
    assert z.mean().abs() < 0.05
    assert z.std().item() == pytest.approx(1 if noise == "normal" else 1 / 3**0.5, rel=0.05)
    assert noise == "normal" or z.abs().max() <= 1


@over(size=SIZES)
def test_dcgan_draws_8_bit_images_of_every_size(size):
    method = tiny("dcgan", "dcgan", size=size, width=1, d_width=1, channels=3).eval()
    with torch.no_grad():
        drawn = method.g(method.noise.draw(2))
        assert method.d(drawn).shape == (2, 1)
    image = Scale(0, 255, "uint8").decode(drawn[0])
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert Scale(0, 255, "uint8").decode(torch.tensor([-1.0, 1.0]).view(1, 1, 2)).ravel().tolist() == [0, 255]


@over("name network", CASES)
def test_images_do_not_depend_on_the_batch_they_are_drawn_in(name, network):
    method = tiny(name, network, width=8)
    method.step(batches_of(method)[0])
    method.eval()
    with torch.no_grad():
        given = [method.noise.draw(5), *[torch.tensor([0, 0, 1, 1, 2])] * method.uses["sample"].labelled]
        one_by_one = [method.g(*(x[i : i + 1] for x in given)) for i in range(5)]
        torch.testing.assert_close(method.g(*given), torch.cat(one_by_one), atol=1e-6, rtol=1e-5)
        assert not torch.allclose(*method.g(*given)[:2])


@over("name network", CASES)
def test_the_sample_grid_is_of_the_same_noise_at_every_step(name, network):
    method = tiny(name, network)
    batches, _ = batches_of(method)
    old = tiny(name, network, seed=1)
    old.load_state_dict(method.state_dict())
    method.eval()
    columns = method.preview({"image": torch.zeros(1, 2, 2, 2)})
    assert list(columns) in ([""], list(method.facts.classes))  # rows of equal noise, a column for each class
    shown = torch.cat([*columns.values()])
    assert len(shown) == (SHOWN if "" in columns else 8 * len(columns)) and shown.shape[1:] == (
        2,
        *[SMALL[network]] * 2,
    )
    torch.testing.assert_close(columns, old.eval().preview({}))
    noise = method.fixed_noise.clone()
    method.train()
    method.step(batches)
    assert torch.equal(method.fixed_noise, noise)
    assert len({tuple(z.flatten().tolist()) for z in noise}) == SHOWN


def test_diversity_is_1_for_equal_spreads_and_0_for_one_image():
    real = torch.randn(6, 2, 3, 3)
    assert diversity(real, real).item() == pytest.approx(1)
    assert diversity(real * 0.5 + 3, real).item() == pytest.approx(0.5, rel=1e-5)
    assert diversity(real[:1].repeat(6, 1, 1, 1), real).item() == 0
    assert diversity(real[:1], real[:1]).item() == 0


# Runs.

RUNS = {
    "gan": dict(network="dcgan", size=16, ema=0.9, instance_noise=0.1, spectral=True),
    "wgan": dict(network="mlp", size=2, warm_up=True),
}
QUICK = dict(
    batch_size=2, latent=3, width=2, d_width=2, steps=8, device="cpu", precision="fp32", quiet=True,
    log_every=4, sample_every=4,
)  # fmt: skip


@pytest.fixture
def without_reports(monkeypatch):
    """Drawing curves takes longer than such a run."""
    monkeypatch.setattr("img2img.training.journal.write_report", lambda *_: None)


@pytest.fixture
def options(monkeypatch):
    """Whole tiny runs, by method; the warm-up of WGAN ends after two steps and comes again in the sixth."""
    for name, value in {"WARM_STEPS": 2, "WARM_MOVES": 3, "AGAIN": 5}.items():
        monkeypatch.setattr(wgan, name, value)
    data = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)
    return {name: QUICK | RUNS[name] | {"data": data} for name in RUNS}


def stopped_and_resumed(name, stop, config, tmp_path, monkeypatch):
    """The folders of a whole run, and of one that was stopped after so many calls of `step`."""
    whole, parts, step, calls = tmp_path / "whole", tmp_path / "parts", METHODS[name].step, []
    img2img.train(name, out=whole, **config)

    def patched(self, batches):
        scalars = step(self, batches)
        calls.append(1)
        if len(calls) == stop * config.get("accumulate", 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return scalars

    with monkeypatch.context() as patch:
        patch.setattr(METHODS[name], "step", patched)
        with pytest.raises(Interrupted, match=f"Stopped and saved at step {stop}. To resume: .* --resume"):
            img2img.train(name, out=parts, **config)
    assert load_resume(parts / "last.pt")["step"] == stop
    img2img.train(name, out=parts, **config)
    return whole, parts


def log_of(folder):
    timing = ("seconds_per_step", "images_per_s")
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: x for key, x in row.items() if key not in timing} for row in rows]


@pytest.mark.usefixtures("without_reports")
@over(stop=[4, 5], name=RUNS)
def test_eight_steps_are_four_and_a_stop_and_four(name, stop, options, tmp_path, monkeypatch):
    whole, parts = stopped_and_resumed(name, stop, options[name], tmp_path, monkeypatch)
    assert_equal(load_resume(whole / "last.pt"), load_resume(parts / "last.pt"))
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    samples = sorted((whole / "samples").iterdir())
    assert [p.name for p in samples] == [p.name for p in sorted((parts / "samples").iterdir())]
    assert all(sample.read_bytes() == (parts / "samples" / sample.name).read_bytes() for sample in samples)
    if stop == 4:
        assert log_of(whole) == log_of(parts)


@pytest.mark.usefixtures("without_reports")
def test_accumulating_runs_resume_to_the_bit(options, tmp_path, monkeypatch):
    config = options["gan"] | {"accumulate": 2}
    whole, parts = stopped_and_resumed("gan", 4, config, tmp_path, monkeypatch)
    assert_equal(load_resume(whole / "last.pt"), load_resume(parts / "last.pt"))


@pytest.mark.usefixtures("without_reports")
def test_logs_of_an_accumulating_run_are_equal_too(options, tmp_path, monkeypatch):
    config = options["gan"] | {"accumulate": 2}
    whole, parts = stopped_and_resumed("gan", 4, config, tmp_path, monkeypatch)
    assert log_of(whole) == log_of(parts)


@pytest.mark.usefixtures("without_reports")
def test_a_run_takes_as_many_batches_as_it_says(options, tmp_path, monkeypatch):
    calls, move = [], wgan.WGAN.move

    def spy(self, player, loss):
        calls.extend([self.step_number] * (player == "D"))
        move(self, player, loss)

    monkeypatch.setattr(wgan.WGAN, "move", spy)
    img2img.train("wgan", out=tmp_path / "run", **options["wgan"])
    assert [calls.count(step) for step in range(1, 9)] == [3, 3, 5, 5, 5, 3, 5, 5]


@over(name=RUNS)
def test_run_folder(name, options, tmp_path):
    out = tmp_path / "run"
    model = img2img.train(name, out=out, **options[name])
    assert isinstance(model, Sampler) and model.path == out / "model.safetensors"
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("config.json", "log.jsonl", "curves.png", "report.html", "report.json", "model_card.md", "samples", "models"),
        *("last.pt", "model.safetensors"),
    }
    card, record = read_card(out / "model.safetensors"), json.loads((out / "config.json").read_text())
    assert (card.method, card.step, list(card.directions)) == (name, 8, ["sample"])
    assert card.size == record["options"]["size"] == options[name]["size"] and "image_size" not in card.config
    assert [row["step"] for row in log_of(out)] == [4, 8]
    assert {"grad_G", "grad_D", "diversity"} <= set(log_of(out)[0])


@pytest.mark.usefixtures("without_reports")
def test_another_option_on_resume_is_refused(options, tmp_path):
    img2img.train("wgan", out=tmp_path / "run", **options["wgan"])
    text = refused(ConfigError, img2img.train, "wgan", out=tmp_path / "run", **options["wgan"] | {"weight_clip": 0.1})
    assert "other options: weight_clip was 0.01, now 0.1" in text


@pytest.mark.usefixtures("without_reports")
def test_the_model_file_holds_the_average(options, tmp_path):
    out = tmp_path / "run"
    img2img.train("gan", out=out, **options["gan"])
    state, model = load_resume(out / "last.pt"), load_file(out / "model.safetensors")
    own = {k.removeprefix("g."): x for k, x in state["method"].items() if k.startswith("g.")}
    assert {f"sample.{k}" for k in own} == set(model)
    assert any(not torch.equal(x, model[f"sample.{k}"]) for k, x in own.items())


# Learning.


def ring(n, seed):
    """Points of eight Gaussians on a circle, as images of one pixel and two channels in [-1, 1]."""
    rng = np.random.default_rng(seed)
    angles = rng.integers(0, 8, n) * np.pi / 4
    points = 0.7 * np.stack([np.cos(angles), np.sin(angles)], 1) + 0.03 * rng.normal(size=(n, 2))
    return points.reshape(n, 1, 1, 2).astype(np.float32)


def energy_distance(a, b):
    """2 E|a - b| - E|a - a'| - E|b - b'|: 0 for equal distributions (Székely and Rizzo 2013)."""
    a, b = (torch.from_numpy(x.reshape(len(x), 2)).double() for x in (a, b))
    return (2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()).item()


def modes(points):
    """How many of the eight Gaussians have points within four standard deviations."""
    angles = np.arange(8) * np.pi / 4
    distances = np.linalg.norm(points.reshape(-1, 1, 2) - 0.7 * np.stack([np.cos(angles), np.sin(angles)], 1), axis=2)
    return len(set(distances.argmin(1)[distances.min(1) < 0.12]))


@pytest.mark.usefixtures("without_reports")
@pytest.mark.slow
def test_gan_learns_a_ring_of_gaussians(tmp_path):
    unseen, drawn = ring(1000, seed=1), {}
    options = QUICK | dict(
        network="mlp", size=1, latent=4, noise="normal", width=64, d_width=64, batch_size=64, lr=1e-3
    )
    for steps in (1, 1200):
        model = img2img.train("gan", out=tmp_path / str(steps), data=ring(2000, seed=0), **options | {"steps": steps})
        drawn[steps] = model(1000)
    assert energy_distance(ring(1000, seed=2), unseen) < 0.002
    assert energy_distance(drawn[1], unseen) > 0.3 and modes(drawn[1]) < 2
    assert energy_distance(drawn[1200], unseen) < 0.05 and modes(drawn[1200]) == 8
