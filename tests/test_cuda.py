"""What only an NVIDIA GPU runs. On any other machine all of it is skipped, except for what can be told without one.

python -m pytest tests/test_cuda.py -n 8
"""

import json
import os
import signal

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import refused, write_images
from test_contract import QUICK, differences, image_of, options_for

import img2img
from img2img.errors import ConfigError, Interrupted
from img2img.lab.equalizer import BatchEqualizer
from img2img.methods import METHODS
from img2img.model.file import load_resume
from img2img.model.sampling import Sampler
from img2img.networks import layers
from img2img.runtime import averaging
from img2img.runtime.device import Runtime

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="for a machine with an NVIDIA GPU")
CUDA = {"device": "cuda", "deterministic": True}


def test_a_process_without_a_gpu_of_its_own_is_told_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert "--nproc-per-node 1" in refused(ConfigError, Runtime.start, "cuda")


@on_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_resumes_and_is_used(name, precision, tmp_path, monkeypatch):
    """Resumed to the bit, as --deterministic promises, and used as on a CPU."""
    options = options_for(name, tmp_path) | CUDA | {"precision": precision}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    img2img.train(name, out=whole, **options)
    step, calls = METHODS[name].step, []

    def stopping(self, batches):
        calls.append({p.device.type for p in self.parameters()})
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(METHODS[name], "step", stopping)
        with pytest.raises(Interrupted, match="step 2"):
            img2img.train(name, out=parts, **options)
    img2img.train(name, out=parts, resume=True, quiet=True)
    assert calls == [{"cuda"}] * 2
    assert differences(load_resume(whole / "last.pt"), load_resume(parts / "last.pt")) == []

    there, here = (img2img.load(whole, device=device, precision="fp32") for device in ("cuda", "cpu"))
    given = [image_of(3, 16, 16, seed=seed) for seed in range(3)]
    for direction in there.directions:
        label = there.classes[0] if there.spec(direction).labelled else None
        if isinstance(there, Sampler):
            one, other = there(3, label=label), here(3, label=label)
        else:
            one, other = (np.stack(model(given, direction, label=label)) for model in (there, here))
            assert np.array_equal(there(given[1], direction, label=label), one[1])
        assert np.abs(one.astype(int) - other).max() <= 1


@on_gpu
@pytest.mark.parametrize("padding", layers.PADDINGS)
def test_paddings_are_differentiated_deterministically(padding):
    x = torch.randn(2, 3, 9, 9, device="cuda")
    gradients = []
    for enabled in (False, True, True):
        torch.use_deterministic_algorithms(enabled)
        try:
            leaf = x.clone().requires_grad_()
            layers.PADDINGS[padding](3)(leaf).square().sum().backward()
        finally:
            torch.use_deterministic_algorithms(False)
        gradients.append(leaf.grad)
    assert torch.equal(gradients[1], gradients[2])
    torch.testing.assert_close(gradients[0], gradients[1])


@on_gpu
@pytest.mark.slow
@pytest.mark.parametrize("name", ["pix2pix", "cyclegan", "dcgan", "wgan_gp"])
def test_compiled_as_eager(name, tmp_path, capsys):
    options = options_for(name, tmp_path) | {"device": "cuda", "steps": 2, "quiet": False}
    for way in ("on", "off"):
        img2img.train(name, out=tmp_path / way, compile=way, **options)
    one, other = (json.loads((tmp_path / way / "log.jsonl").read_text().splitlines()[-1]) for way in ("on", "off"))
    losses = [name for name in other if name.startswith(("g_", "d_")) or name in ("cycle", "l1")]
    assert losses and {name: one[name] for name in losses} == pytest.approx({n: other[n] for n in losses}, rel=0.05)
    assert "ompiling failed" not in "".join(capsys.readouterr())


@on_gpu
def test_a_full_memory_makes_smaller_batches(tmp_path):
    data = {"ab": write_images(tmp_path / "ab", 4, (128, 64), 0)}
    options = QUICK | CUDA | data | {"generator": "resnet_6", "discriminator": "patch_16", "size": 64, "batch_size": 1}
    img2img.train("pix2pix", out=tmp_path / "run", **options)
    images = [image_of(3, 512, 512, seed=seed) for seed in range(8)]
    model = img2img.load(tmp_path / "run", device="cuda")
    one_by_one = [model(image) for image in images]
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(1e9 / total)
    try:
        model = img2img.load(tmp_path / "run", device="cuda")
        together = model(images)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert all(map(np.array_equal, one_by_one, together))
    assert "Out of memory" in " ".join(model.notes)


@on_gpu
def test_nccl(tmp_path, monkeypatch):
    """With a single process: what is sent comes back, and training is equal to the bit to that without."""
    options = options_for("cyclegan", tmp_path) | CUDA
    img2img.train("cyclegan", out=tmp_path / "alone", **options)
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    sent, send = [], averaging._Bucket.send
    monkeypatch.setattr(averaging._Bucket, "send", lambda bucket: (send(bucket), sent.append(bucket.flat.device.type)))
    monkeypatch.setattr(averaging, "several_processes", lambda: True)
    try:
        img2img.train("cyclegan", out=tmp_path / "nccl", **options)
        assert Runtime(torch.device("cuda"), torch.float32, 0, 2).largest(7) == 7
    finally:
        dist.destroy_process_group()
    assert set(sent) == {"cuda"}
    assert differences(*(load_resume(tmp_path / run / "last.pt")["method"] for run in ("alone", "nccl"))) == []


@on_gpu
@pytest.mark.filterwarnings("ignore::img2img.lab.notes.LabWarning")
@pytest.mark.parametrize("model", ["local", "cyclegan", "stargan"])
def test_the_networks_of_an_equalizer(model):
    draw = np.random.default_rng(0)
    images = [(draw.random((1, 64, 64)) * 4000 * (1 + i % 2) + 200).astype(np.uint16) for i in range(12)]
    batch = ["A", "B"] * 6
    training = {"steps": 2, "width": 4, "patch": 32} | ({"d_width": 4} if model == "stargan" else {})
    equalizer = BatchEqualizer(model, target="A", device="cuda", training=training, min_images=4)
    out = equalizer.fit(images, batch=batch, group=range(12)).transform(images, batch=batch)
    assert all(x.dtype == np.uint16 and x.shape == (1, 64, 64) for x in out)
    assert all(map(np.array_equal, out[::2], images[::2]))
