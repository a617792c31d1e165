"""CycleGAN in one file, without the library: Zhu, Park, Isola, Efros, ICCV 2017, arXiv:1703.10593.

    python examples/cyclegan_from_scratch.py A_DIR B_DIR --out DIR

Read it from top to bottom. It has the paper's networks, losses and constants, and none of what a long run needs: no
resuming, no checks of the data, no mixed precision.
"""

import argparse
import itertools
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.utils import save_image

LAMBDA_CYCLE = 10.0  # section 4
LAMBDA_IDENTITY = 0.5  # as a fraction of LAMBDA_CYCLE; section 5.2
POOL_SIZE = 50  # section 4
LEARNING_RATE, BETAS = 2e-4, (0.5, 0.999)


# Networks: appendix 7.2


class Residual(nn.Module):
    """x + F(x), where F is two 3x3 convolutions with reflection padding."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.f = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), nn.InstanceNorm2d(c), nn.ReLU(),
            nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), nn.InstanceNorm2d(c),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


def generator(w: int, blocks: int) -> nn.Module:
    """Build c7s1-w, d2w, d4w, R4w x blocks, u2w, uw, c7s1-3. Maps (N, 3, H, W) to the same shape, in [-1, 1]."""
    return nn.Sequential(
        nn.ReflectionPad2d(3), nn.Conv2d(3, w, 7), nn.InstanceNorm2d(w), nn.ReLU(),
        nn.Conv2d(w, 2 * w, 3, stride=2, padding=1), nn.InstanceNorm2d(2 * w), nn.ReLU(),
        nn.Conv2d(2 * w, 4 * w, 3, stride=2, padding=1), nn.InstanceNorm2d(4 * w), nn.ReLU(),
        *(Residual(4 * w) for _ in range(blocks)),
        nn.ConvTranspose2d(4 * w, 2 * w, 3, 2, padding=1, output_padding=1), nn.InstanceNorm2d(2 * w), nn.ReLU(),
        nn.ConvTranspose2d(2 * w, w, 3, 2, padding=1, output_padding=1), nn.InstanceNorm2d(w), nn.ReLU(),
        nn.ReflectionPad2d(3), nn.Conv2d(w, 3, 7), nn.Tanh(),
    )  # fmt: skip


def discriminator(w: int) -> nn.Module:
    """Build Cw-C2w-C4w-C8w: one logit per patch of 70x70 pixels. The first layer has no norm."""
    return nn.Sequential(
        nn.Conv2d(3, w, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
        nn.Conv2d(w, 2 * w, 4, stride=2, padding=1), nn.InstanceNorm2d(2 * w), nn.LeakyReLU(0.2),
        nn.Conv2d(2 * w, 4 * w, 4, stride=2, padding=1), nn.InstanceNorm2d(4 * w), nn.LeakyReLU(0.2),
        nn.Conv2d(4 * w, 8 * w, 4, stride=1, padding=1), nn.InstanceNorm2d(8 * w), nn.LeakyReLU(0.2),
        nn.Conv2d(8 * w, 1, 4, stride=1, padding=1),
    )  # fmt: skip


def init(module: nn.Module) -> None:
    """Draw weights from N(0, 0.02^2); appendix 7.1."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        nn.init.zeros_(module.bias)


# Data: two folders, sampled independently


class Folder:
    """Random crops of the images of one domain, (1, 3, size, size) in [-1, 1]."""

    def __init__(self, folder: Path, size: int) -> None:
        self.paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
        if not self.paths:
            raise SystemExit(f"{folder} holds no PNG or JPEG")
        load = round(size * 286 / 256)
        self.transform = v2.Compose([
            v2.Resize((load, load), v2.InterpolationMode.BICUBIC),
            v2.RandomCrop(size),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ])  # fmt: skip

    def draw(self) -> Tensor:
        with Image.open(random.choice(self.paths)) as image:
            return self.transform(image.convert("RGB"))[None]


class Pool:
    """A buffer of old fakes, so that the discriminator does not forget them: Shrivastava et al. 2017, section 2.3."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []

    def __call__(self, fake: Tensor) -> Tensor:
        fake = fake.detach()
        if len(self.images) < POOL_SIZE:
            self.images.append(fake)
            return fake
        if random.random() < 0.5:
            return fake
        i = random.randrange(POOL_SIZE)
        old, self.images[i] = self.images[i], fake
        return old


# The objective


def d_loss(d: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Return eq. 1 with least squares instead of logarithms (section 4), halved to slow D relative to G."""
    return ((d(real) - 1).square().mean() + d(fake).square().mean()) / 2


def train(a_dir: Path, b_dir: Path, out: Path, size: int, steps: int, width: int, device: str) -> None:
    images_a, images_b = Folder(a_dir, size), Folder(b_dir, size)
    blocks = 9 if size >= 256 else 6
    g_ab, g_ba = generator(width, blocks), generator(width, blocks)  # the paper's G and F
    d_a, d_b = discriminator(width), discriminator(width)  # d_b judges images of domain B
    for network in (g_ab, g_ba, d_a, d_b):
        network.apply(init).to(device)
    pool_a, pool_b = Pool(), Pool()
    g_adam = torch.optim.Adam(itertools.chain(g_ab.parameters(), g_ba.parameters()), LEARNING_RATE, BETAS)
    d_adam = torch.optim.Adam(itertools.chain(d_a.parameters(), d_b.parameters()), LEARNING_RATE, BETAS)
    d_parameters = [*d_a.parameters(), *d_b.parameters()]
    out.mkdir(parents=True, exist_ok=True)

    for step in range(1, steps + 1):
        # Constant for the first half, then linear towards 0 (appendix 7.1), which the last step does not reach
        decaying = max(0, step - (steps - steps // 2))
        for group in (*g_adam.param_groups, *d_adam.param_groups):
            group["lr"] = LEARNING_RATE * (1 - decaying / (steps // 2 + 1))

        a, b = images_a.draw().to(device), images_b.draw().to(device)
        fake_b, fake_a = g_ab(a), g_ba(b)

        # Generators: eq. 3 is the sum of these; the identity terms are from section 5.2
        adversarial = (d_b(fake_b) - 1).square().mean() + (d_a(fake_a) - 1).square().mean()
        cycle = F.l1_loss(g_ba(fake_b), a) + F.l1_loss(g_ab(fake_a), b)  # eq. 2
        identity = F.l1_loss(g_ba(a), a) + F.l1_loss(g_ab(b), b)
        loss = adversarial + LAMBDA_CYCLE * (cycle + LAMBDA_IDENTITY * identity)
        g_adam.zero_grad()
        for p in d_parameters:
            p.requires_grad_(False)  # the discriminators take no part in the generators' loss
        loss.backward()
        for p in d_parameters:
            p.requires_grad_(True)
        g_adam.step()

        # Discriminators, on current and past fakes
        judged = d_loss(d_a, a, pool_a(fake_a)) + d_loss(d_b, b, pool_b(fake_b))
        d_adam.zero_grad()
        judged.backward()
        d_adam.step()

        if step % 100 == 0 or step == steps:
            print(f"step {step}: G {adversarial:.3f}, cycle {cycle:.3f}, identity {identity:.3f}, D {judged:.3f}")
            save_image(torch.cat([a, fake_b, b, fake_a]).detach() / 2 + 0.5, out / "last.png", nrow=2)

    torch.save({"g_ab": g_ab.state_dict(), "g_ba": g_ba.state_dict()}, out / "generators.pt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="CycleGAN in one file")
    parser.add_argument("a", type=Path, help="folder of domain A")
    parser.add_argument("b", type=Path, help="folder of domain B")
    parser.add_argument("--out", type=Path, default=Path("checkpoints/from_scratch"))
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    train(options.a, options.b, options.out, options.size, options.steps, options.width, options.device)
