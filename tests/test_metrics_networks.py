"""The networks behind metrics, with files of random weights made here; nothing is downloaded, no pickle is run."""

import pickle
import warnings

import lpips as lpips_package
import numpy as np
import onnx
import pytest
import torch
import torchvision
from conftest import refused
from helpers import save_torchscript, seeded, smooth, spoiled
from onnx import TensorProto, helper
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from img2img.errors import ConfigError, DataError, ModelFileError
from img2img.metrics.options import MetricOptions
from img2img.metrics.perceptual import BACKBONES, lpips, open_lpips
from img2img.metrics.scorer import Scorer
from img2img.runtime.weights import read_weights


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """No weights on this machine, and an error for whoever asks the network for some."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))

    def refuse(*args, **kwargs):
        raise AssertionError("a download")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    return tmp_path / "cache" / "hub" / "checkpoints"


@pytest.fixture(scope="module")
def pair():
    return smooth(4, 40), spoiled(smooth(4, 40), 0.3)


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


@pytest.fixture
def evil(tmp_path):
    """A file of weights that runs code when it is unpickled."""
    path = tmp_path / "evil.pth"
    torch.save({"fc.weight": torch.zeros(1), "more": Evil()}, path)
    with pytest.raises(SystemExit, match="executed"):
        torch.load(path, weights_only=False)
    return path


# Weights


def test_weights_are_the_same_from_both_formats(tmp_path):
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    torch.save(tensors, tmp_path / "w.pth")
    save_file(tensors, tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        assert {key: x.tolist() for key, x in read_weights(tmp_path / name).items()} == {
            key: x.tolist() for key, x in tensors.items()
        }


def test_files_that_are_no_weights(tmp_path, evil):
    assert "There is no weights file" in refused(ModelFileError, read_weights, tmp_path / "none.pth")
    assert "could run code and is not loaded" in refused(ModelFileError, read_weights, evil)
    for name in ("x.pth", "x.safetensors"):
        (tmp_path / name).write_bytes(b"nonsense")
        assert "damaged" in refused(ModelFileError, read_weights, tmp_path / name)
    with (tmp_path / "plain.pth").open("wb") as file:
        pickle.dump({"x": Evil()}, file)
    assert "damaged" in refused(ModelFileError, read_weights, tmp_path / "plain.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    assert "holds no named tensors" in refused(ModelFileError, read_weights, tmp_path / "list.pth")


# LPIPS


def random_backbone(name):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return torchvision.models.get_model(name, weights=None).eval()


@pytest.mark.parametrize("net", ["alex", "squeeze"])
def test_lpips_equals_the_package_with_that_backbone(net, tmp_path, pair):
    backbone = random_backbone(BACKBONES[net])
    torch.save(backbone.state_dict(), tmp_path / "backbone.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = lpips_package.LPIPS(net=net, pnet_rand=True, verbose=False)
    for part in (expected.net.get_submodule(f"slice{i}") for i in range(1, expected.net.N_slices + 1)):
        for number, layer in part.named_children():
            layer.load_state_dict(backbone.features[int(number)].state_dict())
    before = torch.get_rng_state()
    scorer = Scorer(["lpips"], MetricOptions(lpips_net=net, lpips_weights=str(tmp_path / "backbone.pth")))
    assert torch.equal(before, torch.get_rng_state())
    row = scorer.row()
    row.add(real=pair[0][:3], fake=pair[1][:3])
    row.add(real=pair[0][3:], fake=pair[1][3:])
    with torch.no_grad():
        values = expected(*pair).flatten()
    assert row.per_image[f"lpips[{net}]"] == pytest.approx(values.tolist(), rel=1e-5)
    assert row.scores()[f"lpips[{net}]"].value == pytest.approx(float(values.mean()), rel=1e-5)


def test_lpips_direction_and_small_images(empty_cache, pair):
    empty_cache.mkdir(parents=True)
    file = torchvision.models.AlexNet_Weights.DEFAULT.url.rpartition("/")[2]
    torch.save(random_backbone("alexnet").state_dict(), empty_cache / file)  # where torch keeps it
    network = open_lpips(MetricOptions(), 3)
    scores = [float(lpips(pair[0], spoiled(pair[0], k), network).mean()) for k in (0, 0.1, 0.5)]
    assert scores[0] == 0 and scores == sorted(scores) and scores[1] > 0
    assert float(lpips(pair[0][..., :32, :32], pair[1][..., :32, :32], network).mean()) > 0
    assert "at least 32×32 px, not 31×40" in refused(DataError, lpips, pair[0][..., :31], pair[1][..., :31], network)


def test_lpips_mistakes(tmp_path, evil):
    text = refused(ModelFileError, Scorer, ["lpips"])
    assert "https://download.pytorch.org/models/alexnet" in text and "--lpips-weights" in text and "cache" in text
    assert "defined for RGB, and the images have 1 channels" in refused(ConfigError, Scorer, ["lpips"], None, 1)
    assert "Did you mean 'vgg'?" in refused(ConfigError, MetricOptions, lpips_net="vgg16")
    assert "not loaded" in refused(ModelFileError, Scorer, ["lpips"], MetricOptions(lpips_weights=str(evil)))
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "w.pth")
    options = MetricOptions(lpips_weights=str(tmp_path / "w.pth"))
    assert "does not hold the weights of torchvision's alexnet" in refused(ModelFileError, Scorer, ["lpips"], options)


# Classifiers


@pytest.mark.parametrize(
    ("name", "last"), [("resnet18", "avgpool"), ("squeezenet1_1", "features"), ("mobilenet_v3_small", None)]
)
def test_features_of_a_classifier_are_what_its_last_layer_sees(name, last, tmp_path, pair):
    model = random_backbone(name)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    scorer = Scorer(["kid"], MetricOptions(features=name, features_weights=str(tmp_path / "w.pth")))
    features, logits = scorer.features(pair[0])
    small = nn.functional.interpolate((pair[0] + 1) / 2, (224, 224), mode="bilinear", antialias=True)
    x = torchvision.transforms.functional.normalize(small, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        assert torch.allclose(logits, model(x), atol=1e-5)
        if last is None:
            expected = model.classifier[:-1](model.avgpool(model.features(x)).flatten(1))
        else:
            model.get_submodule(last).register_forward_hook(lambda _, __, out: maps.append(out))
            maps = []
            model(x)
            expected = maps[0].mean((2, 3))
    assert torch.allclose(features, expected, atol=1e-5)
    assert scorer.network.suffix == f"[{name}]"


def test_classifier_mistakes(tmp_path):
    def options(features, weights=None):
        return MetricOptions(features=features, features_weights=weights)

    text = refused(ModelFileError, Scorer, ["fid"], options("resnet50"))
    assert "resnet50 needs weights" in text and "--features-weights" in text and "--features encoder" in text
    assert "Did you mean 'resnet50'?" in refused(ConfigError, Scorer, ["fid"], options("resnet5"))
    assert "takes RGB" in refused(ConfigError, Scorer, ["fid"], options("resnet18"), 4)
    torch.save(random_backbone("squeezenet1_1").state_dict(), tmp_path / "w.pth")
    text = refused(ModelFileError, Scorer, ["fid"], options("resnet18", str(tmp_path / "w.pth")))
    assert "does not hold the weights of torchvision's resnet18" in text
    Scorer(["l1"], options("resnet50"))  # nothing is opened that is not needed


# Inception


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """The file of a random Inception, and the network itself, of torch-fidelity."""
    library = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    states = []
    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(4)
        patch.setattr(library, "load_state_dict_from_url", lambda *args, **kwargs: states[0])
        patch.setattr(
            library.FeatureExtractorInceptionV3, "load_state_dict", lambda self, _: states.append(self.state_dict())
        )
        states.append(None)
        network = library.FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"])
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)  # with the default, nothing arrives at the end
    path = tmp_path_factory.mktemp("inception") / "w.safetensors"
    save_file(network.state_dict(), path)
    return path, network


def test_inception_is_that_of_torch_fidelity(inception, pair):
    path, network = inception
    scorer = Scorer(["fid", "inception_score"], MetricOptions(features="inception", features_weights=str(path)))
    features, logits = scorer.features(pair[0])
    pixels = ((pair[0] + 1) / 2 * 255).round().to(torch.uint8)
    with torch.no_grad():
        expected = network(pixels)
    assert features.shape == (4, 2048) and features.std() > 1e-3 and logits.shape == (4, 1008)
    assert torch.equal(features, expected[0]) and torch.equal(logits, expected[1])
    assert torch.allclose(scorer.features(pair[0][:1])[0], features[:1], rtol=1e-3)  # batches of another size
    assert scorer.network.suffix == ""


def by_pil(images):
    """Images (N, 3, H, W) in [-1, 1] as clean-fid resizes them: each channel as floats, bicubic, cut to 0 to 255."""
    pixels = ((images + 1) / 2 * 255).round().numpy()
    planes = [[Image.fromarray(x).resize((299, 299), Image.Resampling.BICUBIC) for x in image] for image in pixels]
    return torch.from_numpy(np.stack([[np.asarray(x).clip(0, 255) for x in image] for image in planes]))


def by_tensorflow(images):
    """The same as clean-fid's legacy_tensorflow: the mean of the four pixels around each corner point, weighted."""
    pixels = ((images + 1) / 2 * 255).round().numpy()
    (y, dy), (x, dx) = (np.divmod(np.arange(299) * (side / 299), 1) for side in pixels.shape[2:])
    y, x = y.astype(int), x.astype(int)
    below, right = np.minimum(y + 1, pixels.shape[2] - 1), np.minimum(x + 1, pixels.shape[3] - 1)
    rows = [pixels[:, :, i][..., x] * (1 - dx) + pixels[:, :, i][..., right] * dx for i in (y, below)]
    return torch.from_numpy(rows[0] * (1 - dy)[:, None] + rows[1] * dy[:, None]).float()


@pytest.mark.parametrize(("name", "resized"), [("inception", by_tensorflow), ("inception_clean", by_pil)])
def test_each_inception_resizes_like_its_program(inception, name, resized):
    path, network = inception
    options = MetricOptions(features=name, features_weights=str(path))
    scorer = Scorer(["fid"], options)
    rng = np.random.default_rng(0)
    # mosaics: what antialiasing takes out of a large image, and the other way leaves in
    mosaic = torch.from_numpy(rng.integers(0, 2, (2, 3, 450, 380)) * 2.0 - 1).float()
    for images in (mosaic, smooth(2, 64)):
        first = (resized(images) - 128) / 128
        hook = network.Conv2d_1a_3x3.register_forward_pre_hook(lambda *_, first=first: (first,))
        with torch.no_grad():
            expected, _ = network(torch.zeros(2, 3, 299, 299, dtype=torch.uint8))
        hook.remove()
        found, logits = scorer.features(images)
        assert first.shape == (2, 3, 299, 299) and logits.shape == (2, 1008)
        assert torch.allclose(found, expected, rtol=2e-3, atol=2e-3 * float(expected.std()))
    assert (by_pil(mosaic) - by_tensorflow(mosaic)).abs().mean() > 20  # so the one is not the other


def test_the_antialiased_inception_has_a_name_of_its_own(inception):
    found = {}
    for name in ("inception", "inception_clean"):
        scorer = Scorer(["kid"], MetricOptions(features=name, features_weights=str(inception[0])))
        images = smooth(4, 40)
        scorer.prepare(lambda images=images: [images])
        row = scorer.row()
        row.add(fake=spoiled(images, 0.3))
        found |= {key: score.value for key, score in row.scores().items()}
        note = next(note for note in scorer.notes if note.startswith(f"{name}: "))
        assert ("clean-fid's legacy_tensorflow" in note) == (name == "inception") and "299 px" in note
    assert list(found) == ["kid", "kid[inception_clean]"]
    assert found["kid"] != pytest.approx(found["kid[inception_clean]"], rel=1e-3)


@pytest.mark.slow
def test_scores_of_inception_have_the_plain_names(inception):
    names = ["fid", "kid", "inception_score"]
    scorer = Scorer(names, MetricOptions(features="inception", features_weights=str(inception[0])))
    images = smooth(20, 32)
    scorer.prepare(lambda: images.split(10))
    row = scorer.row()
    row.add(fake=images.flip(0))
    scores = row.scores()
    assert list(scores) == names and abs(scores["fid"].value) < 1e-2 and scores["kid"].value < 0
    assert "20 images are fewer than the 2048 features" in " ".join(scorer.notes)


def test_inception_mistakes(tmp_path, evil, monkeypatch):
    inception = MetricOptions(features="inception")
    text = refused(ModelFileError, Scorer, ["fid"], inception)
    assert "weights-inception-2015-12-05-6726825d.pth" in text
    assert "--features-weights" in text and "--features encoder" in text
    assert "takes RGB images, and these have 2 channels" in refused(ConfigError, Scorer, ["kid"], inception, 2)
    options = MetricOptions(features="inception", features_weights=str(evil))
    assert "could run code and is not loaded" in refused(ModelFileError, Scorer, ["fid"], options)
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "w.pth")
    options = MetricOptions(features="inception", features_weights=str(tmp_path / "w.pth"))
    assert "does not hold the weights of torch-fidelity" in refused(ModelFileError, Scorer, ["fid"], options)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'img2img-gan[metrics]'" in refused(ConfigError, Scorer, ["fid"], inception)
    lonely = MetricOptions(features_weights=str(tmp_path / "w.pth"))
    assert "name it, e.g. --features inception" in refused(ConfigError, Scorer, ["fid"], lonely)


# Programs


class Tiny(nn.Module):
    """Features (N, 4), or their map."""

    def __init__(self, as_map=False):
        super().__init__()
        self.conv, self.as_map = nn.Conv2d(3, 4, 3, padding=1), as_map

    def forward(self, x):
        y = self.conv(x)
        return y if self.as_map else y.mean((2, 3))


def tiny(as_map=False):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Tiny(as_map).eval()


@pytest.mark.parametrize("suffix", [".pt", ".pt2", ".onnx"])
def test_programs_give_features(suffix, tmp_path, pair):
    path, network = tmp_path / f"mine{suffix}", tiny(as_map=True)
    example = pair[0][:1]
    if suffix == ".pt":
        save_torchscript(network, example, path)
    elif suffix == ".pt2":
        torch.export.save(torch.export.export(network, (example,)), path)
    else:
        save_onnx(network.conv, path)
    scorer = Scorer(["kid"], MetricOptions(features=str(path)))
    with torch.no_grad():
        assert torch.allclose(scorer.features(pair[0])[0], network(pair[0]).mean((2, 3)), atol=1e-5)
    assert scorer.network.suffix == "[mine]"


def save_onnx(conv, path):
    """One convolution."""
    tensors = [
        helper.make_tensor(name, TensorProto.FLOAT, x.shape, x.detach().flatten().tolist())
        for name, x in (("w", conv.weight), ("b", conv.bias))
    ]
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1] * 4)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, c, None, None]) for name, c in (("x", 3), ("y", 4))
    ]
    graph = helper.make_graph([node], "tiny", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_program_mistakes(tmp_path, pair):
    def options(name):
        return MetricOptions(features=str(tmp_path / name))

    assert "There is no file" in refused(ModelFileError, Scorer, ["kid"], options("none.pt"))
    for name in ("x.pt", "x.pt2", "x.onnx"):
        (tmp_path / name).write_bytes(b"nonsense")
        assert f"{name} is damaged" in refused(ModelFileError, Scorer, ["kid"], options(name))
    torch.save(tiny().state_dict(), tmp_path / "state.pt")
    assert "does not match its suffix" in refused(ModelFileError, Scorer, ["kid"], options("state.pt"))
    save_torchscript(nn.Flatten(0), pair[0][:1], tmp_path / "flat.pt")
    text = refused(DataError, Scorer(["kid"], options("flat.pt")).row().add, fake=pair[0])
    assert "returns 4800 for an image of 1×3×40×40; it must return features, 1×D or 1×D×h×w." in text
    save_torchscript(tiny(), pair[0][:1], tmp_path / "rgb.pt")
    assert "fails on an image of 1×1×40×40" in refused(
        DataError, Scorer(["kid"], options("rgb.pt"), 1).row().add, fake=pair[0][:, :1]
    )


# The encoder


def stripes(n, period, seed, side=32, channels=2):
    """Images of slanted stripes at random phases and brightness."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    phase, tone = torch.rand(2, n, channels, 1, 1, generator=seeded(seed))
    return 0.6 * torch.sin(6.28 * ((x + y / 2) / period + phase)) + 0.4 * tone


@pytest.fixture(scope="module")
def encoder():
    scorer = Scorer(["kid", "fid", "coverage"], MetricOptions(features="encoder"), channels=2)
    scorer.prepare(lambda: stripes(60, 8, seed=0).split(16))
    return scorer


def scores_of(scorer, images):
    row = scorer.row()
    for batch in images.split(16):
        row.add(fake=batch)
    return {key: score.value for key, score in row.scores().items()}


def test_the_encoder_ranks_corruptions(encoder):
    clean = stripes(60, 8, seed=1)
    blurred = nn.functional.avg_pool2d(clean, 3, 1, 1)
    for key in ("kid[encoder]", "fid[encoder]"):
        none, mild, strong = (scores_of(encoder, spoiled(clean, k))[key] for k in (0, 0.2, 0.6))
        assert none < mild < strong and strong > 10 * abs(none)
        assert scores_of(encoder, blurred)[key] > none


def test_the_encoder_tells_textures_apart(encoder):
    alike, other = scores_of(encoder, stripes(60, 8, seed=2)), scores_of(encoder, stripes(60, 5, seed=2))
    assert abs(alike["kid[encoder]"]) < 0.1 and other["kid[encoder]"] > 1
    assert alike["coverage[encoder]"] > 0.8 and other["coverage[encoder]"] < 0.2


def test_the_encoder_depends_on_the_images_alone(encoder):
    state, fake = torch.get_rng_state(), stripes(40, 7, seed=3)
    torch.manual_seed(77)
    drawn = torch.get_rng_state()
    again = Scorer(["kid", "fid", "coverage"], MetricOptions(features="encoder"), channels=2)
    again.prepare(lambda: stripes(60, 8, seed=0).flip(0).split(1))
    first, second = scores_of(encoder, fake), scores_of(again, fake.flip(0))
    assert torch.equal(drawn, torch.get_rng_state())
    torch.set_rng_state(state)
    assert first == pytest.approx(second, rel=1e-4)


def test_the_encoder_takes_images_of_any_size():
    scorer = Scorer(["kid"], MetricOptions(features="encoder"), channels=1)
    sizes = [(16, 16), (300, 40), (33, 51)]
    images = [torch.rand(2, 1, *size, generator=seeded(i)) for i, size in enumerate(sizes)]
    scorer.prepare(lambda: images)
    row = scorer.row()
    for x in images:
        row.add(fake=x)
    assert row.scores()["kid[encoder]"].value < 1e-6
