"""LAPGAN: the pyramid in closed form, what each level learns from, and that levels are games of their own."""

import pytest
import torch
from conftest import refused

from img2img.core.needs import Facts
from img2img.errors import ConfigError
from img2img.networks import pyramid
from img2img.networks.pyramid import DetailGenerator, Pyramid, enlarge, generate, laplacian, shrink
from img2img.zoo.lapgan import LAPGAN, LAPGANConfig, sizes


def tiny(**options):
    torch.manual_seed(0)
    config = LAPGANConfig(**{"latent": 3, "width": 2, "d_width": 3, "coarse_width": 4, "depth": 1} | options)
    return LAPGAN(config, Facts(16, {"image": 2})).train()


def batches():
    draw = torch.Generator().manual_seed(1)
    while True:
        yield {"image": torch.rand(4, 2, 16, 16, generator=draw) * 2 - 1}


def test_halves_and_doubles():
    x = torch.tensor([[0.0, 2.0, 4.0, 4.0], [4.0, 6.0, 4.0, 4.0]], dtype=torch.double).view(1, 1, 2, 4)
    assert shrink(x).flatten().tolist() == [3.0, 4.0]
    assert enlarge(torch.tensor([0.0, 4.0], dtype=torch.double).view(1, 1, 1, 2))[0, 0, 0].tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize("change", [lambda x: x, lambda x: x * 0, lambda x: x.square() - 3])
def test_the_pyramid_rebuilds_the_image_whatever_enlarges(change, monkeypatch):
    plain = pyramid.enlarge
    monkeypatch.setattr(pyramid, "enlarge", lambda x: change(plain(x)))
    x = torch.rand(2, 3, 16, 16, dtype=torch.double)
    (coarsest, none), *finer = laplacian(x, 3)
    assert none is None and coarsest.shape == (2, 3, 4, 4)
    torch.testing.assert_close(coarsest, x.unflatten(2, (4, 4)).unflatten(4, (4, 4)).mean((3, 5)))
    built = coarsest
    for image, enlarged in finer:
        torch.testing.assert_close(enlarged, pyramid.enlarge(built))
        built = enlarged + (image - enlarged)  # h_k, with which the level's G would be perfect
        torch.testing.assert_close(built, image)
    torch.testing.assert_close(built, x)


def test_one_noise_vector_runs_through_all_levels():
    g = tiny().g
    assert isinstance(g, Pyramid) and g.lengths == [3, 8 * 8, 16 * 16]
    z = torch.rand(5, sum(g.lengths))
    x = g.levels[0](z[:, :3])
    assert x.shape == (5, 2, 4, 4)
    for level, noise in ((1, z[:, 3:67]), (2, z[:, 67:])):
        x = enlarge(x) + g.levels[level](noise, enlarge(x))
    torch.testing.assert_close(g(z), x)


def test_noise_is_a_channel():
    """Details of a linear generator that copies its noise."""
    g, z = DetailGenerator(2), torch.rand(3, 36)
    g.layers = torch.nn.Identity()
    x = torch.rand(3, 2, 6, 6)
    assert torch.equal(g(z, x), torch.cat([x, z.view(3, 1, 6, 6)], 1))
    assert torch.equal(generate(lambda z, x: x, z, x), 2 * x) and torch.equal(generate(lambda z: z, z, None), z)


def test_every_discriminator_judges_whole_images_of_its_size():
    """D_k's real input is I_k; generated ones start from the real I_{k+1}, not from what the coarser level draws."""
    method, seen, given = tiny(d_dropout=0.0), {}, {}
    for k, d in enumerate(method.d):
        d.register_forward_hook(lambda _m, x, _y, k=k: seen.setdefault(k, []).append(x[0].detach().clone()))
    for k, g in enumerate(method.g.levels[1:], 1):
        g.register_forward_hook(lambda _m, x, y, k=k: given.setdefault(k, []).append((*x, y.detach().clone())))
    batch = next(batches())
    scalars = method.step(iter([batch]))
    real = [shrink(shrink(batch["image"])), shrink(batch["image"]), batch["image"]]
    for k in range(3):
        first, fake, for_g = seen[k]
        assert torch.equal(first, real[k]) and torch.equal(fake, for_g)
        if k:
            _, enlarged, details = given[k][0]
            assert torch.equal(enlarged, enlarge(real[k - 1])) and torch.equal(fake, enlarged + details)
            torch.testing.assert_close(scalars[f"h{k}"], (real[k] - enlarged).square().mean())
            torch.testing.assert_close(scalars[f"h{k}_drawn"], details.square().mean())


def test_a_level_moves_alone():
    method = tiny()
    states, move = [], method.move

    def spy(player, loss):
        before = {name: p.detach().clone() for name, p in method.named_parameters()}
        move(player, loss)
        moved = {name for name, p in method.named_parameters() if not torch.equal(before[name], p)}
        states.append((player, {".".join(name.split(".")[: 3 if name[0] == "g" else 2]) for name in moved}))

    method.move = spy
    method.step(batches())
    assert states == [x for k in range(3) for x in ((f"D{k}", {f"d.{k}"}), (f"G{k}", {f"g.levels.{k}"}))]


def test_watching_draws_no_noise():
    """Training does not depend on how often the log is written."""
    ends = []
    for watch in (True, False):
        method = tiny()
        method.watch = watch
        stream = batches()
        ends.append([method.step(stream) for _ in range(2)][1])
    assert ends[0].pop("diversity") > 0 and ends[0] == ends[1]


def test_sizes():
    assert sizes(LAPGANConfig(), Facts(32)) == [8, 16, 32] and sizes(LAPGANConfig(levels=1), Facts(5)) == [5]
    answer = "--size 36 cannot be halved 3 times; use a multiple of 8."
    assert refused(ConfigError, sizes, LAPGANConfig(levels=4), Facts(36)) == answer


def test_widths_and_dropout_of_the_paper():
    config = LAPGANConfig()
    with torch.device("meta"):
        method = LAPGAN(config, Facts(32, {"image": 3}))
    units = [layer.out_features for layer in method.g.levels[0].modules() if isinstance(layer, torch.nn.Linear)]
    assert units == [1200, 1200, 8 * 8 * 3]
    assert [x.out_features for x in method.d[0].modules() if isinstance(x, torch.nn.Linear)] == [600, 600, 1]
    assert {x.p for x in method.d.modules() if isinstance(x, torch.nn.Dropout)} == {0.5}
    kernels = [x.kernel_size[0] for x in method.g.levels[2].modules() if isinstance(x, torch.nn.Conv2d)]
    assert kernels == [7, 7, 5] and config.noise == "uniform" and config.latent == 100
