"""Translation: whose turn it is, what each discriminator sees, the papers' losses, and that they learn. What holds for
every method is in test_contract.py.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import over

from img2img.core.needs import Facts
from img2img.core.objectives import OBJECTIVES
from img2img.errors import ConfigError
from img2img.methods import METHODS
from img2img.translation.pix2pix import Pix2Pix, Pix2PixConfig
from img2img.translation.pool import ImagePool

TRANSLATION = [name for name, method in METHODS.items() if method.Config.needs.domains == ("a", "b")]
GENERATOR = {"cyclegan": "resnet_3", "cut": "resnet_3", "fastcut": "resnet_3"}  # of others: unet_16
BOTH = {"G": {"g_ab", "g_ba"}, "D": {"d_a", "d_b"}}
ONE_WAY = {"G": {"g", "h"}, "D": {"d"}}
PLAYERS = {"cyclegan": BOTH, "discogan": BOTH, "dualgan": BOTH, "cut": ONE_WAY, "fastcut": ONE_WAY}
PLAYERS |= {"pix2pix": {"G": {"g"}, "D": {"d"}}, "bicyclegan": {"G": {"g", "e"}, "D": {"d_code", "d_noise"}}}
GD = ["G", "D"]
ORDER = {"cyclegan": GD, "discogan": GD, "bicyclegan": GD, "dualgan": ["D", "D", "G"]}  # of others: ["D", "G"]
EQUAL = ("cut", "fastcut")  # need domains of equal channels


def tiny(name, a=3, b=3, seed=0, **options):
    """A method with networks of a few channels."""
    torch.manual_seed(seed)
    config = dict(generator=GENERATOR.get(name, "unet_16"), discriminator="patch_16", width=4, d_width=4) | options
    return METHODS[name](METHODS[name].Config(**config), Facts(16, {"a": a, "b": b}))


def batch_of(n=1, a=3, b=3, size=16, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {
        "a": torch.rand(n, a, size, size, generator=draw) * 2 - 1,
        "b": torch.rand(n, b, size, size, generator=draw) * 2 - 1,
    }


def batches_of(count, **options):
    return iter([batch_of(seed=seed, **options) for seed in range(count)])


def snapshot(method):
    return {name: p.detach().clone() for name, p in method.named_parameters()}


def changed(before, after):
    """The networks whose parameters differ."""
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


@over(name=TRANSLATION)
def test_players_have_their_networks_and_move_in_the_papers_order(name, monkeypatch):
    method, turns = tiny(name), []
    for player, networks in PLAYERS[name].items():
        owned = {id(p) for network in networks for p in getattr(method, network).parameters()}
        assert {id(p) for p in method.parameters_of(player)} == owned
    move = method.move
    monkeypatch.setattr(method, "move", lambda player, loss: turns.append(player) or move(player, loss))
    method.step(batches_of(method.draws))
    assert turns == ORDER.get(name, ["D", "G"])


@over(name=TRANSLATION)
def test_every_objective_trains(name):
    wrong = []
    for objective in OBJECTIVES:
        method = tiny(name, objective=objective, norm="instance")
        batches = batches_of(2 * method.draws, n=2)
        for _ in range(2):
            scalars = method.step(batches)
        kinds = {kind for key, kind in method.kinds.items() if key in scalars}
        if not all(torch.isfinite(x) for x in scalars.values()):
            wrong.append((objective, scalars))
        if kinds != ({"distance"} if objective == "wasserstein" else {"share"}):
            wrong.append((objective, kinds))
        wrong += [
            (objective, key) for key, x in scalars.items() if method.kinds.get(key) == "share" and not 0 <= x <= 1
        ]
    assert wrong == []


TRICKS = {
    "penalty": {"penalty": "r1", "lambda_gp": 1.0},
    "spectral": {"spectral": True},
    "smooth": {"objective": "nonsaturating", "smooth": 0.1},
    "noise": {"instance_noise": 0.1},
    "diffaugment": {"diffaugment": "color,translation,cutout"},
    "two time scales": {"d_lr": 4e-4},
}


@over(name=TRANSLATION)
def test_every_trick_trains_and_matters(name):
    def after_two_steps(**options):
        method = tiny(name, norm="instance", dropout=0.0, **{"objective": "nonsaturating"} | options)
        batches = batches_of(2 * method.draws, n=2)
        for step in (1, 2):
            method.proceed(step, 10)
            scalars = method.step(batches)
        assert all(torch.isfinite(x) for x in scalars.values()), options
        return next(x for key, x in scalars.items() if key.startswith("d") and x.shape == ())

    plain = after_two_steps()
    assert [trick for trick, options in TRICKS.items() if after_two_steps(**options) == plain] == []


@over(name=TRANSLATION)
def test_two_time_scales(name):
    rates = {p: o.param_groups[0]["lr"] for p, o in tiny(name, lr=1e-4, d_lr=4e-4).optimizers.items()}
    assert rates == {"G": 1e-4, "D": 4e-4}
    assert {o.param_groups[0]["lr"] for o in tiny(name, lr=1e-4).optimizers.values()} == {1e-4}


@over(
    "name size generator",
    [
        ("cyclegan", 128, "resnet_6"),
        ("cyclegan", 256, "resnet_9"),
        ("pix2pix", 256, "unet_256"),
        ("pix2pix", 512, "unet_256"),
        ("pix2pix", 128, "unet_128"),
        ("pix2pix", 96, "unet_32"),
        ("pix2pix", 20, "resnet_9"),
        ("discogan", 64, "unet_64"),
        ("dualgan", 128, "unet_128"),
        ("bicyclegan", 32, "unet_32"),
        ("cut", 256, "resnet_9"),
        ("fastcut", 64, "resnet_6"),
    ],
)
def test_auto_generator(name, size, generator):
    config = METHODS[name].Config()
    assert METHODS[name].resolve(config, Facts(size)) == replace(config, generator=generator)
    chosen = replace(config, generator="unet_64")
    assert METHODS[name].resolve(chosen, Facts(size)) == chosen


@over(name=TRANSLATION)
def test_different_channels(name):
    if name in EQUAL:
        with pytest.raises(ConfigError, match=r"A has 1 channels and B has 4\. Use cyclegan\."):
            tiny(name, a=1, b=4)
        return
    options = {"lambda_identity": 0.0} if name == "cyclegan" else {}
    method = tiny(name, a=1, b=4, **options)
    scalars = method.step(batches_of(method.draws, a=1, b=4))
    assert all(torch.isfinite(x) for x in scalars.values())


def test_identity_needs_equal_channels():
    with pytest.raises(ConfigError, match=r"A has 1 channels and B has 3\. Switch it off with --lambda-identity 0"):
        tiny("cyclegan", a=1, b=3)


# CycleGAN.


@over(pool=[0, 2, 50])
def test_a_discriminator_sees_its_own_domain_alone(pool):
    """All that d_b ever sees is a real b or what g_ab made of a real a; d_a likewise."""
    method = tiny("cyclegan", pool=pool)
    given = [{"a": -torch.rand(1, 3, 16, 16), "b": torch.rand(1, 3, 16, 16)} for _ in range(6)]
    seen = {"d_a": [], "d_b": []}
    made = {"g_ab": [], "g_ba": []}
    for name in seen:
        getattr(method, name).register_forward_hook(lambda _m, x, _y, name=name: seen[name].append(x[0].detach()))
    for name in made:
        getattr(method, name).register_forward_hook(
            lambda _m, x, y, name=name: made[name].append((x[0].detach().clone(), y.detach().clone()))
        )
    batches = iter(given)
    for _ in given:
        method.step(batches)

    def is_one_of(x, images):
        return any(torch.equal(x, image) for image in images)

    for own, other, judge, maker in (("b", "a", "d_b", "g_ab"), ("a", "b", "d_a", "g_ba")):
        real = [batch[own] for batch in given]
        sources = [batch[other] for batch in given]
        pairs = [pair for x, y in made[maker] for pair in zip(x.split(1), y.split(1), strict=True)]
        fakes = [y for x, y in pairs if is_one_of(x, sources)]
        assert len(seen[judge]) == 3 * len(given)
        assert all(is_one_of(x, real) or is_one_of(x, fakes) for x in seen[judge])
        assert sum(is_one_of(x, real) for x in seen[judge]) == len(given)


@over(name=TRANSLATION)
def test_uses_lead_where_they_say(name):
    channels = {"a": 1, "b": 1 if name in EQUAL else 4}
    method = tiny(name, **channels, **({"lambda_identity": 0.0} if name == "cyclegan" else {}))
    for title, use in method.uses.items():
        assert title == f"{use.source}2{use.output}"
        noise = [x.draw(1) for x in use.inputs[1:]]
        assert use.network(torch.zeros(1, channels[use.source], 16, 16), *noise).shape[1] == channels[use.output]


def as_the_identity(method):
    """A method whose generators return their input."""
    for network in (method.g_ab, method.g_ba):
        network.forward = lambda x: x + 0 * sum(p.sum() for p in method.parameters_of("G"))
    return method


def test_losses_at_the_identity():
    scalars = as_the_identity(tiny("cyclegan")).step(batches_of(1))
    assert scalars["cycle"] == scalars["identity"] == 0
    scalars = as_the_identity(tiny("discogan")).step(batches_of(1))
    assert scalars["cycle"] == 0 and "identity" not in scalars


@over("name distance", [("cyclegan", lambda e: e.abs().mean()), ("discogan", lambda e: e.square().mean())])
def test_the_cycle_is_compared_by_the_distance_of_the_paper(name, distance):
    """What g_ba(g_ab(a)) and g_ab(g_ba(b)) are off by, with generators that add 0.5 and take 0.2 away."""
    method, batch = tiny(name), batch_of(2)
    zero = 0 * sum(p.sum() for p in method.parameters_of("G"))
    method.g_ab.forward, method.g_ba.forward = lambda x: x + 0.5 + zero, lambda x: x * 0.2 + zero
    expected = distance((batch["a"] + 0.5) * 0.2 - batch["a"]) + distance(batch["b"] * 0.2 + 0.5 - batch["b"])
    assert method.distance(batch["a"], batch["b"]) == distance(batch["a"] - batch["b"])
    torch.testing.assert_close(method.step(iter([batch]))["cycle"], expected)


def test_discogan_trains_on_its_newest_fakes_with_the_whole_loss():
    """No pool and no factor of 1/2, both of which are CycleGAN's."""
    method, seen = tiny("discogan"), []
    method.d_b.register_forward_hook(lambda _m, x, _y: seen.append(x[0].detach()))
    for seed in range(3):
        batch = batch_of(seed=seed)
        seen.clear()
        method.step(iter([batch]))
        for_g, real, fake = seen
        assert torch.equal(real, batch["b"]) and torch.equal(for_g, fake)
    assert method.referee.weight == 1 and tiny("cyclegan").referee.weight == 0.5


def test_cyclegan_preview():
    batch = batch_of(2)
    method = tiny("cyclegan").eval()
    columns = method.preview(batch)
    assert list(columns) == ["a", "a → b", "a → b → a", "a → a", "b", "b → a", "b → a → b", "b → b"]
    with torch.no_grad():
        expected = {
            "a": batch["a"],
            "a → b": method.g_ab(batch["a"]),
            "a → b → a": method.g_ba(method.g_ab(batch["a"])),
            "a → a": method.g_ba(batch["a"]),
            "b": batch["b"],
            "b → a": method.g_ba(batch["b"]),
            "b → a → b": method.g_ab(method.g_ba(batch["b"])),
            "b → b": method.g_ab(batch["b"]),
        }
    torch.testing.assert_close(columns, expected)
    without = tiny("cyclegan", lambda_identity=0.0).eval().preview(batch)
    assert list(without) == ["a", "a → b", "a → b → a", "b", "b → a", "b → a → b"]


def test_pix2pix_preview():
    batch, method = batch_of(2), tiny("pix2pix").eval()
    columns = method.preview(batch)
    with torch.no_grad():
        torch.testing.assert_close(columns, {"a": batch["a"], "a → b": method.g(batch["a"]), "b": batch["b"]})


def test_pix2pix_discriminator_sees_the_condition():
    method, seen = tiny("pix2pix"), []
    method.d.register_forward_hook(lambda _m, x, _y: seen.append(x[0].detach()))
    batch = batch_of()
    method.step(iter([batch]))
    real, fake_for_d, fake_for_g = seen
    assert torch.equal(real, torch.cat([batch["a"], batch["b"]], 1))
    assert torch.equal(fake_for_d, fake_for_g)
    assert torch.equal(fake_for_d[:, :3], batch["a"])
    assert not torch.equal(fake_for_d[:, 3:], batch["b"])


@over("name pool", [("cyclegan", {"pool": 0}), ("pix2pix", {"dropout": 0.0})])
def test_accumulating_equals_a_larger_batch(name, pool):
    """Two batches of one, accumulated, move every player as one batch of two does."""
    pair = batch_of(2)
    moved = []
    for accumulate in (1, 2):
        method = tiny(name, norm="instance", **pool)
        method.accumulate = accumulate
        for player in method.optimizers:  # plain descent: the move is the gradient, not its sign
            method.optimizers[player] = torch.optim.SGD(method.parameters_of(player), lr=0.01)
        before = snapshot(method)
        batches = iter([{k: x[i : i + 2 // accumulate] for k, x in pair.items()} for i in range(accumulate)])
        for i in range(accumulate):
            assert not changed(before, snapshot(method)), f"moved after {i} of {accumulate} batches"
            method.step(batches)
        moved.append(snapshot(method))
    assert changed(before, moved[0]) == set(method.networks())
    if name == "cyclegan":
        torch.testing.assert_close(moved[0], moved[1], atol=1e-5, rtol=0)
    else:  # D moves before G, so G's loss is seen by another D: only D's own move is the same
        d = [{k: x for k, x in state.items() if k.startswith("d.")} for state in moved]
        torch.testing.assert_close(*d, atol=1e-5, rtol=0)


def test_clip_bounds_the_gradient():
    method = tiny("pix2pix")
    method.clip = 1e-3
    norms = {}
    for player, optimizer in method.optimizers.items():
        optimizer.register_step_pre_hook(
            lambda *_, player=player: norms.update(
                {player: torch.stack([p.grad.norm() for p in method.parameters_of(player)]).norm().item()}
            )
        )
    method.step(batches_of(1))
    assert norms == {"G": pytest.approx(1e-3, rel=1e-3), "D": pytest.approx(1e-3, rel=1e-3)}


# Wasserstein.


@over("name key", [("cyclegan", "d_b"), ("pix2pix", "d")])
def test_wasserstein_applies_the_penalty(name, key):
    def loss(objective, lambda_gp):
        options = {"dropout": 0.0} if name == "pix2pix" else {}
        method = tiny(name, objective=objective, norm="instance", lambda_gp=lambda_gp, **options)
        torch.manual_seed(1)
        return method.step(batches_of(1))[key].item()

    none, ten, twenty = (loss("wasserstein", x) for x in (0.0, 10.0, 20.0))
    assert ten - none > 1e-3
    assert twenty - none == pytest.approx(2 * (ten - none), rel=1e-4)
    assert loss("lsgan", 0.0) == loss("lsgan", 10.0)


@over(name=TRANSLATION)
def test_wasserstein_refuses_batch_norm(name):
    with pytest.raises(ConfigError, match=r"--norm batch mixes the images of a batch\. Use --norm instance"):
        tiny(name, objective="wasserstein", penalty="auto", norm="batch")


@over(option=["generator", "discriminator", "objective", "norm", "penalty"], name=TRANSLATION)
def test_unknown_names_are_refused(name, option):
    with pytest.raises(ConfigError, match=f"Unknown --{option} 'lsgaan'"):
        tiny(name, **{option: "lsgaan"})


# The pool.


def numbered(*values):
    return torch.stack([torch.full((1, 2, 2), float(v)) for v in values])


def shown(images):
    return [int(image.mean()) for image in images]


def test_pool_of_nothing_passes_everything_on():
    pool, images = ImagePool(0), numbered(1, 2).requires_grad_()
    assert torch.equal(pool(images), images)
    assert not pool(images).requires_grad
    assert pool.images == []


def test_pool_fills_first():
    pool = ImagePool(3)
    assert shown(pool(numbered(1, 2))) == [1, 2]
    assert shown(pool(numbered(3))) == [3]
    assert shown(pool.images) == [1, 2, 3]


def test_full_pool_swaps_half_of_the_time():
    torch.manual_seed(0)
    pool, swaps, drawn, n = ImagePool(5), 0, set(), 1000
    pool(numbered(*range(5)))
    for i in range(5, 5 + n):
        stored = shown(pool.images)
        (out,) = shown(pool(numbered(i)))
        if out == i:
            assert shown(pool.images) == stored  # passed on, not stored
        else:
            swaps += 1
            place = stored.index(out)
            drawn.add(place)
            stored[place] = i
            assert shown(pool.images) == stored
    assert abs(swaps - n / 2) < 5 * (n / 4) ** 0.5
    assert drawn == set(range(5))


def test_pool_keeps_copies_without_gradient():
    pool, images = ImagePool(2), numbered(1, 2).requires_grad_()
    out = pool(images)
    with torch.no_grad():
        images.zero_()
    assert not out.requires_grad
    assert shown(pool.images) == [1, 2]


@over(filled=[0, 2, 4])
def test_pool_state_round_trip(filled):
    old, new = ImagePool(4), ImagePool(4)
    if filled:
        old(numbered(*range(1, filled + 1)))
    new.load_state_dict(old.state_dict())
    assert shown(new.images) == shown(old.images) == list(range(1, filled + 1))
    histories = []
    for pool in (old, new):
        torch.manual_seed(3)
        histories.append([shown(pool(numbered(i, i + 1))) for i in range(10, 30)])
    assert histories[0] == histories[1]
    assert shown(new.images) == shown(old.images)


def test_the_pools_travel_in_the_state_of_cyclegan():
    old, new = tiny("cyclegan", pool=3), tiny("cyclegan", pool=3, seed=1)
    old.step(batches_of(1, n=2))
    new.load_state_dict(old.state_dict())
    for pool in ("pool_a", "pool_b"):
        assert len(getattr(new, pool).images) == 2
        assert torch.equal(torch.stack(getattr(new, pool).images), torch.stack(getattr(old, pool).images))


# Learning.


def blobs(n, channels=3, size=16):
    """Smooth random images in [-1, 1]."""
    return F.interpolate(torch.rand(n, channels, 4, 4) * 2 - 1, size=(size, size), mode="bicubic").clamp(-1, 1)


@pytest.mark.slow
def test_pix2pix_learns_to_invert():
    torch.manual_seed(0)
    config = Pix2PixConfig(generator="unet_16", discriminator="patch_16", width=16, d_width=8, lr=2e-3)
    method = Pix2Pix(config, Facts(16, {"a": 3, "b": 3}))
    unseen = blobs(16)

    def error():
        method.eval()
        with torch.no_grad():
            l1 = F.l1_loss(method.g(unseen), -unseen).item()
        method.train()
        return l1

    def batches():
        while True:
            a = blobs(4)
            yield {"a": a, "b": -a}

    assert error() > 0.35
    source = batches()
    for _ in range(300):
        method.step(source)
    assert error() < 0.1
