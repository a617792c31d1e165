"""The moving average of networks that share modules."""

import torch
from torch import nn

from img2img.training.ema import Ema


def test_networks_that_share_an_encoder_are_averaged_once():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    networks = [nn.Sequential(encoder, nn.Conv2d(4, 3, 3)) for _ in range(2)]
    tensors = list({id(x): x for n in networks for x in n.state_dict(keep_vars=True).values()}.values())
    floating = [x for x in tensors if x.is_floating_point()]
    ema, averages = Ema(networks, 0.5), [x.detach().clone() for x in floating]
    assert len(ema.average) == len(floating) == 4 + 2 + 2 + 2
    for step in range(1, 5):
        with torch.no_grad():
            for x in floating:
                x.add_(torch.randn_like(x))
        ema.update()
        decay = min(0.5, step / (step + 10))
        averages = [torch.lerp(a, x.detach(), 1 - decay) for a, x in zip(averages, floating, strict=True)]
    before = [x.detach().clone() for x in tensors]
    for _ in range(2):
        with ema.applied():
            for x, average in zip(floating, averages, strict=True):
                torch.testing.assert_close(x.detach(), average)
        assert all(torch.equal(x, y) for x, y in zip(tensors, before, strict=True))
