"""The referee: losses of both sides, accuracies, and the tricks of the literature."""

from math import e, log1p

import pytest
import torch
from conftest import refused
from helpers import over
from torch import nn

from img2img.core.diffaugment import TRANSFORMS, color, cutout, policy, translation
from img2img.core.needs import Facts
from img2img.core.objectives import OBJECTIVES
from img2img.core.penalties import PENALTIES
from img2img.core.referee import Adversarial, Referee, learning_rates, regularised
from img2img.errors import ConfigError
from img2img.methods import METHODS


class Mean(nn.Module):
    """The logit of an image is its mean; what was looked at is kept."""

    def __init__(self):
        super().__init__()
        self.gain, self.seen = nn.Parameter(torch.ones(())), []

    def forward(self, x):
        self.seen.append(x.detach())
        return self.gain * x.flatten(1).mean(1)[:, None]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def images(*values, channels=1, size=2):
    """Images of one value each."""
    return torch.stack([torch.full((channels, size, size), float(v)) for v in values])


def referee(*, norm="none", weight=1.0, **options):
    return Referee(Adversarial(**options), norm, weight)


# Losses and accuracies.


@over(name=OBJECTIVES)
def test_judge_and_fool_are_the_objective(name):
    judging, d = referee(objective=name, penalty="none"), Mean()
    real, fake = torch.randn(4, 1, 2, 2), torch.randn(4, 1, 2, 2, requires_grad=True)
    objective, logits = OBJECTIVES[name], (d(real), d(fake))
    loss, _ = judging.judge(d, real, fake)
    torch.testing.assert_close(loss, objective.d(*logits))
    loss.backward()
    assert fake.grad is None
    fooled = judging.fool(d, fake, real)
    torch.testing.assert_close(
        fooled, objective.g(logits[1], logits[0]) if objective.relative else objective.g(logits[1])
    )
    fooled.backward()
    assert fake.grad.abs().max() > 0


def test_accuracies():
    real, fake = images(1, -1, 2, 3), images(-1, 0.5, 1, 2)
    _, says = referee(objective="nonsaturating").judge(Mean(), real, fake)
    assert {name: x.item() for name, x in says.items()} == {"real": 0.75, "fake": 0.25}
    _, says = referee(objective="lsgan").judge(Mean(), real, fake)  # "real" is above 1/2
    assert {name: x.item() for name, x in says.items()} == {"real": 0.75, "fake": 0.5}


def test_relativistic_accuracies_are_from_the_mean_of_the_others():
    real, fake = images(11, 12, 14, 15), images(10, 11, 12, 19)  # means 13 and 13
    _, says = referee(objective="relativistic").judge(Mean(), real, fake)
    assert {name: x.item() for name, x in says.items()} == {"real": 0.5, "fake": 0.75}


def test_a_critic_tells_the_distance():
    loss, says = referee(objective="wasserstein", penalty="none").judge(Mean(), images(1, 4), images(-1, 0))
    assert list(says) == ["distance"] and says["distance"].item() == pytest.approx(3.0)
    assert loss.item() == pytest.approx(-3.0) and not says["distance"].requires_grad


def test_the_weight_is_of_the_objective_and_not_of_the_penalty():
    real, fake = images(1, 2), images(0, 1)
    plain, half = (
        referee(penalty="r1", lambda_gp=0.0, weight=weight).judge(Mean(), real, fake)[0] for weight in (1.0, 0.5)
    )
    assert half.item() == pytest.approx(plain.item() / 2)
    with_penalty, _ = referee(penalty="r1", lambda_gp=8.0, weight=0.5).judge(Mean(), real, fake)
    slope = 1 / 2  # of the mean of 4 pixels
    assert with_penalty.item() - half.item() == pytest.approx(8 * slope**2 / 2)


@over(penalty=PENALTIES)
def test_points_are_judged_as_images_are(penalty):
    d = nn.Linear(2, 1)
    loss, says = referee(penalty=penalty).judge(d, torch.randn(5, 2), torch.randn(5, 2))
    loss.backward()
    assert torch.isfinite(d.weight.grad).all() and set(says) == {"real", "fake"}


# Names.


@over(objective=OBJECTIVES)
def test_an_automatic_penalty_is_that_of_the_objective(objective):
    expected = PENALTIES["gp"] if objective == "wasserstein" else None
    assert referee(objective=objective).penalty is expected


@over(penalty=PENALTIES)
def test_a_chosen_penalty_is_used(penalty):
    assert referee(penalty=penalty).penalty is PENALTIES[penalty]
    assert referee(objective="wasserstein", penalty="none").penalty is None


@over(
    "options, answer",
    [
        ({"objective": "lsgaan"}, "Unknown --objective 'lsgaan'. Did you mean 'lsgan'?"),
        ({"objective": "vanilla"}, "Unknown --objective 'vanilla'."),
        ({"penalty": "gpp"}, "Unknown --penalty 'gpp'. Did you mean 'gp'?"),
        ({"diffaugment": "colour"}, "Unknown --diffaugment 'colour'. Did you mean 'color'?"),
        ({"diffaugment": "color,cutuot"}, "Unknown --diffaugment 'cutuot'. Did you mean 'cutout'?"),
        ({"diffaugment": ""}, "Unknown --diffaugment ''. Choose from: color, translation, cutout."),
    ],
)
def test_unknown_names(options, answer):
    assert refused(ConfigError, referee, **options).startswith(answer)


@over(penalty=PENALTIES)
def test_a_penalty_refuses_batch_norm(penalty):
    text = refused(ConfigError, referee, penalty=penalty, norm="batch")
    assert f"--penalty {penalty} needs a gradient penalty per image" in text
    assert "--norm instance" in text
    referee(penalty=penalty, norm="instance")


def test_an_objective_that_needs_a_penalty_refuses_batch_norm():
    assert "--objective wasserstein needs" in refused(ConfigError, referee, objective="wasserstein", norm="batch")
    referee(objective="wasserstein", penalty="none", norm="batch")
    referee(norm="batch")


# Label smoothing.


@over(objective=["nonsaturating", "minimax"])
def test_smoothed_labels(objective):
    real, fake, share = 2.0, -0.5, 0.1
    loss, says = referee(objective=objective, smooth=share).judge(Mean(), images(real), images(fake))
    expected = (1 - share) * log1p(e**-real) + share * log1p(e**real) + log1p(e**fake)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert says["real"] == says["fake"] == 1
    plain, smooth = (
        referee(objective=objective, smooth=s).fool(Mean(), images(fake), images(real)) for s in (0, share)
    )
    assert plain == smooth


@over(options=[{"smooth": 0.1, "objective": "hinge"}, {"smooth": 0.1, "objective": "f_gan"}])
def test_smoothing_that_makes_no_labels_is_refused(options):
    text = refused(ConfigError, referee, **options)
    assert text == "--smooth is for objectives with labels: nonsaturating, minimax."


# Noise on images.


@over(progress=[0.0, 0.5, 0.9])
def test_noise_is_on_both_sides_and_falls(progress):
    judging, d = referee(instance_noise=0.4), Mean()
    judging.progress = progress
    x = torch.zeros(500, 1, 4, 4)
    judging.judge(d, x, x)
    judging.fool(d, x, x)
    assert len(d.seen) == 3
    assert [seen.std().item() for seen in d.seen] == pytest.approx([0.4 * (1 - progress)] * 3, rel=0.05)
    assert not torch.equal(d.seen[0], d.seen[1])


@over(options=[{"instance_noise": 0.4}, {}])
def test_noise_is_gone_at_the_end(options):
    judging, d, real, fake = referee(**options), Mean(), torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
    judging.progress = 1.0
    judging.judge(d, real, fake)
    judging.fool(d, fake, real)
    assert [torch.equal(a, b) for a, b in zip(d.seen, (real, fake, fake), strict=True)] == [True] * 3


def test_noise_is_also_on_points():
    assert 0.3 < referee(instance_noise=0.4).seen(torch.zeros(500, 2)).std() < 0.5


def test_a_run_moves_the_progress():
    config = METHODS["gan"].Config(width=2, d_width=2, latent=2, instance_noise=0.4)
    method, progress = METHODS["gan"](config, Facts(1, {"image": 2})), []
    for step in range(1, 5):
        method.proceed(step, 4)
        progress.append(method.referee.progress)
    assert progress == [0, 0.25, 0.5, 0.75]


# Spectral norm.


def largest_singular_values(network):
    weights = [m.weight.detach().flatten(1) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return [torch.linalg.matrix_norm(w, 2).item() for w in weights]


@over(name=["mlp", "dcgan"])
def test_spectral_norm_bounds_the_largest_singular_value(name):
    config = METHODS["gan"].Config(network=name, width=4, d_width=4, latent=2, spectral=True)
    d = METHODS["gan"](config, Facts(16, {"image": 1})).d
    with torch.no_grad():
        for p in d.parameters():
            p.mul_(30)
    for _ in range(60):
        d(torch.randn(2, 1, 16, 16))
    values = largest_singular_values(d)
    assert len(values) == 3 and values == pytest.approx([1.0] * 3, abs=0.02)


def test_without_spectral_norm_nothing_changes():
    d = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    before = {name: p.clone() for name, p in d.named_parameters()}
    assert regularised(d, False) is d
    assert {name: p for name, p in d.named_parameters()}.keys() == before.keys()
    assert max(largest_singular_values(regularised(d, True))) < 1.5


# Two time scales.


def test_two_time_scales():
    config = METHODS["gan"].Config(width=2, d_width=2, latent=2, lr=1e-4)
    assert learning_rates(config) == (1e-4, 1e-4)
    for name in ("gan", "wgan"):
        config = METHODS[name].Config(network="mlp", width=2, d_width=2, latent=2, lr=1e-4, d_lr=4e-4)
        method = METHODS[name](config, Facts(1, {"image": 2}))
        rates = {player: o.param_groups[0]["lr"] for player, o in method.optimizers.items()}
        assert rates == {"G": 1e-4, "D": 4e-4}


# DiffAugment.

EVERY = "color,translation,cutout"


@over(text=[*TRANSFORMS, EVERY, "cutout, color"], shape=[(3, 1, 16, 16), (2, 3, 8, 12), (1, 5, 1, 1), (2, 2, 3, 3)])
def test_transforms_keep_the_shape_and_pass_gradients(text, shape):
    judging = referee(diffaugment=text)
    x = torch.randn(shape, requires_grad=True)
    out = judging.seen(x)
    assert out.shape == x.shape and torch.isfinite(out).all()
    if min(shape[2:]) > 3:  # smaller images can be cut out as a whole
        out.sum().backward()
        assert torch.isfinite(x.grad).all() and x.grad.abs().max() > 0


def test_none_is_nothing():
    assert list(policy("none")) == [] and list(policy("cutout,color")) == [cutout, color]
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(referee().seen(x), x)


@over(text=[*TRANSFORMS, EVERY])
def test_real_and_generated_images_are_transformed_alike(text):
    judging, d = referee(diffaugment=text), Mean()
    x = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8).repeat(3000, 1, 1, 1)
    judging.judge(d, x, x)
    judging.fool(d, x, x)
    means, spreads = ([f(seen) for seen in d.seen] for f in (lambda s: s.mean(0), lambda s: s.std(0)))
    for i in (1, 2):
        assert not torch.equal(d.seen[0], d.seen[i])
        error = 5 * (spreads[0] ** 2 + spreads[i] ** 2).div(3000).sqrt() + 1e-6
        assert ((means[0] - means[i]).abs() <= error).all()
        torch.testing.assert_close(spreads[0], spreads[i], rtol=0.15, atol=0.02)


def test_every_image_has_its_own_draw():
    x = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8).repeat(50, 1, 1, 1)
    for transform in TRANSFORMS.values():
        assert len({tuple(image.flatten().tolist()) for image in transform(x)}) > 1


def test_color_shifts_and_scales():
    x = torch.randn(400, 3, 8, 8)
    out = color(x)
    shift = (out - x).mean((1, 2, 3))
    assert -0.5 <= shift.min() < -0.4 and 0.4 < shift.max() <= 0.5
    contrast = out.mean(1).flatten(1).std(1) / x.mean(1).flatten(1).std(1)  # saturation leaves the mean of channels
    assert 0.5 <= contrast.min() < 0.6 and 1.4 < contrast.max() <= 1.5001
    saturation = (out - out.mean(1, keepdim=True)).flatten(1).std(1) / (x - x.mean(1, keepdim=True)).flatten(1).std(1)
    assert 0 <= (saturation / contrast).min() < 0.1 and 1.9 < (saturation / contrast).max() <= 2.0001


def test_translation_moves_by_up_to_an_eighth_and_fills_with_zero():
    x = torch.rand(300, 2, 16, 16) + 1
    out, moves = translation(x), set()
    for image, moved in zip(x, out, strict=True):
        padded = nn.functional.pad(image, (2, 2, 2, 2))
        found = [(i, j) for i in range(5) for j in range(5) if torch.equal(padded[:, i : i + 16, j : j + 16], moved)]
        assert len(found) == 1
        moves.update(found)
    assert len(moves) == 25


def test_cutout_is_a_square_of_half_the_side():
    x = torch.rand(300, 2, 16, 16) + 1
    out = cutout(x)
    hole = out == 0
    assert torch.equal(out[~hole], x[~hole]) and torch.equal(hole[:, 0], hole[:, 1])
    rows, columns = hole[:, 0].any(2).sum(1), hole[:, 0].any(1).sum(1)
    assert torch.equal(hole[:, 0].sum((1, 2)), rows * columns)
    assert rows.max() == columns.max() == 8 and rows.min() >= 1
