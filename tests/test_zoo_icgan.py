"""IcGAN: two parts of a run, what D rejects, encoders that invert the generator, and edits by class."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import write_images

import img2img
from img2img.core.needs import Facts
from img2img.translation.icgan import Editor, IcGAN, IcGANConfig

CLASSES = ("x", "y", "z")
SMALL = dict(latent=3, width=4, d_width=4, e_width=4)


def tiny(progress=0.0, **options):
    torch.manual_seed(0)
    method = IcGAN(IcGANConfig(**SMALL | options), Facts(16, {"image": 2}, CLASSES)).train()
    method.progress = progress
    return method


def batches(n=6):
    draw = torch.Generator().manual_seed(1)
    while True:
        yield {"image": torch.rand(n, 2, 16, 16, generator=draw) * 2 - 1, "label": torch.arange(n) % 3}


def state(method):
    """Everything that changes, by network: parameters and running averages."""
    return {name: x.clone() for name, x in method.state_dict().items()}


def changed(before, after):
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_the_encoders_learn_in_the_last_part_alone_and_the_generator_stays():
    for progress, players in ((0.0, {"g", "d"}), (0.62, {"g", "d"}), (0.63, {"e_z", "e_y"}), (0.99, {"e_z", "e_y"})):
        method = tiny(progress)
        before = state(method)
        method.step(batches())
        assert changed(before, state(method)) == players, progress  # buffers as well
        assert method.g.training


def test_discriminator_rejects_generated_images_and_wrong_classes_by_half_each(monkeypatch):
    """With logits 3 for real, 1 for generated, -2 for a wrong class: softplus of each by hand."""
    method, seen, losses, batch = tiny(), [], [], next(batches())
    zero = 0 * sum(p.sum() for p in method.d.parameters())

    def judge(x, label):
        seen.append((x, label))
        real = torch.equal(x, batch["image"])
        own = torch.equal(label, batch["label"])
        return (zero + (3.0 if own else -2.0) if real else zero + 1.0).expand(len(x), 1)

    monkeypatch.setattr(method.d, "forward", judge)
    monkeypatch.setattr(method, "move", lambda player, x: losses.append(x.item()))
    scalars = method.step(iter([batch]))
    values = [F.softplus(torch.tensor(v)).item() for v in (-3.0, 1.0, -2.0, -1.0)]
    assert losses[0] == pytest.approx(values[0] + (values[1] + values[2]) / 2)
    assert losses[1] == pytest.approx(values[3])
    assert (scalars["d_real"], scalars["d_fake"]) == (1, 0.5)
    (_, real), (fake, given), (x, wrong), (_, for_g) = seen
    assert torch.equal(given, real) and torch.equal(for_g, real) and torch.equal(x, batch["image"])
    assert not torch.equal(fake, x) and (wrong != real).all()


def test_every_wrong_class_is_drawn_and_never_the_right_one():
    method, seen = tiny(), set()
    weigh = method.d.forward
    method.d.forward = lambda x, y: seen.update(zip(batch["label"].tolist(), y.tolist(), strict=True)) or weigh(x, y)
    for _, batch in zip(range(10), batches(), strict=False):
        method.step(iter([batch]))
    assert seen == {(right, y) for right in range(3) for y in range(3)}  # the right ones are those of real and fake


def test_encoders_invert_a_generator_that_can_be_inverted():
    """E_z finds the noise of a linear generator, and E_y the classes of images that show them."""
    method = tiny(0.7, e_lr=3e-3, e_width=8)
    draw = torch.Generator().manual_seed(2)
    images = F.interpolate(torch.randn(6, 2, 4, 4, generator=draw), (16, 16), mode="bilinear").flatten(1)
    method.g.forward = lambda z, y: torch.cat([z, F.one_hot(y, 3)], 1).matmul(images).view(-1, 2, 16, 16) / 2
    label = torch.arange(48) % 3
    for _ in range(150):
        x = method.g(method.noise.draw(48), label)
        scalars = method.step(iter([{"image": x, "label": label}]))
    assert scalars["z_error"] < 0.1 and scalars["y_accuracy"] > 0.95
    method.eval()
    z, edited = method.noise.draw(48), (label + 1) % 3
    with torch.no_grad():
        edit = method.uses["edit"].network(method.g(z, label), edited)
    wanted, kept = method.g(z, edited), method.g(z, label)
    assert F.mse_loss(edit, wanted) < 0.2 * F.mse_loss(kept, wanted)


def test_reconstructions_are_in_the_loss_of_the_encoders_as_asked(monkeypatch):
    losses = []
    for weight in (0.0, 2.0):
        method = tiny(0.7, lambda_rec=weight)
        before = state(method)
        monkeypatch.setattr(method, "move", lambda player, x: losses.append((player, x.item())))
        torch.manual_seed(1)
        s = method.step(batches())
        expected = s["z_error"] + s["y_loss"] + weight * s["rec"]
        assert losses[-1] == ("E", pytest.approx(expected.item())) and s["rec"] > 0
        method = tiny(0.7, lambda_rec=weight)
        method.step(batches())
        assert changed(before, state(method)) == {"e_z", "e_y"}


def test_an_edit_is_drawn_at_the_training_size():
    method = tiny().eval()
    editor, x, label = method.uses["edit"].network, torch.rand(2, 2, 16, 16), torch.tensor([0, 2])
    with torch.no_grad():
        assert torch.equal(editor(x, label), method.g(method.e_z(x), label))
        large = editor(F.interpolate(x, (40, 24)), label)
    assert isinstance(editor, Editor) and large.shape == (2, 2, 40, 24)


def test_each_class_is_edited_to_by_one_model_in_any_precision(tmp_path):
    """Networks are converted to bf16 in place, which must not reach the same model towards another class."""
    for seed, name in enumerate(CLASSES):
        write_images(tmp_path / "data" / name, 4, (16, 16), seed)
    quick = dict(size=16, steps=8, batch_size=6, augment="none", device="cpu", quiet=True, val_fraction=0, lr=0.05)
    img2img.train("icgan", data=tmp_path / "data", out=tmp_path / "run", **SMALL, **quick)
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    exact, rounded = (img2img.load(tmp_path / "run", device="cpu", precision=p) for p in ("fp32", "bf16"))
    results = [exact(image, label=name) for name in CLASSES]
    for name, result in zip(CLASSES, results, strict=True):
        assert np.abs(rounded(image, label=name).astype(int) - result).mean() < 8, name
        assert np.array_equal(exact(image, label=name), result)
    assert len({x.tobytes() for x in results}) == 3
