"""How models with conditions are used: mixed classes, walks and grids by class, vectors in place of classes, tables."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from conftest import refused, write_images
from PIL import Image

import img2img
from img2img.core.method import Label, Vector
from img2img.core.needs import Facts, Needs
from img2img.data.finding import find_domains
from img2img.data.labels import Table
from img2img.data.options import ConditionedConfig
from img2img.data.samples import open_samples
from img2img.errors import ConfigError, DataError
from img2img.interchange.export import export_model
from img2img.interchange.info import model_info
from img2img.methods import METHODS
from img2img.model.classifying import HEAD
from img2img.networks.conditional import ClassTable, LabelledDiscriminator, rows_of
from img2img.networks.stacked import Augmentation
from img2img.zoo.stackgan import another

CLASSES = ("x", "y", "z")
NEEDS = Needs(labels=True, vectors=True)
TINY = dict(size=16, width=2, d_width=2, latent=6, batch_size=4, steps=2, device="cpu", precision="fp32", quiet=True)
VECTORS = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)


def built(name, facts, **options):
    torch.manual_seed(0)
    config = METHODS[name].Config(**dict(latent=6, width=2, d_width=2) | options)
    return METHODS[name](config, facts)


def images_in(folder):
    """Write nine images whose red is their number; return the folder."""
    folder.mkdir(parents=True)
    for i in range(9):
        Image.new("RGB", (16, 16), (i, 0, 0)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr("img2img.training.journal.write_report", lambda *_: None)


def varied(model):
    """Return a model whose images differ: two steps of training leave all grey."""
    for p in model._network.parameters():
        torch.nn.init.normal_(p, 0, 0.5)
    return model


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    """A model with three classes."""
    root = tmp_path_factory.mktemp("conditional")
    for seed, name in enumerate(CLASSES):
        write_images(root / "data" / name, 3, (16, 16), seed)
    return varied(img2img.train("cgan", data=root / "data", out=root / "run", **TINY))


@pytest.fixture(scope="module")
def under_vectors(tmp_path_factory):
    """A model trained under vectors of five numbers, on images in a folder."""
    root = tmp_path_factory.mktemp("vectors")
    np.save(root / "vectors.npy", VECTORS)
    options = TINY | dict(code=3, blocks=1, val_fraction=0.3, validate_every=1, metrics="drift", sample_every=1)
    data = images_in(root / "data")
    return varied(img2img.train("stackgan", data=data, vectors=root / "vectors.npy", out=root / "run", **options))


# Mixed classes.


@pytest.mark.parametrize("name", ["cgan", "acgan", "infogan", "sagan", "biggan", "stackgan"])
def test_weights_of_one_class_are_that_class_for_every_generator(name):
    needs = METHODS[name].Config.needs
    method = built(name, Facts(16, {"image": 2}, CLASSES * needs.labels)).eval()
    use = method.uses["sample"]
    noise, label = use.inputs
    assert isinstance(label, Label)
    z, y = noise.draw(3), torch.tensor([2, 0, 1])
    for module in method.modules():
        if isinstance(module, ClassTable):  # classes that differ
            torch.nn.init.normal_(module.weight)
    with torch.no_grad():
        plain, mixed = use.network(z, y), use.network(z, rows_of(y, label.classes).float())
        torch.testing.assert_close(mixed, plain)
        half = use.network(z[:1], torch.full((1, label.classes), 1 / label.classes))
        assert torch.isfinite(half).all() and not torch.equal(half, plain[:1])


def test_mixtures_add_the_vectors_of_their_classes():
    table, weights = ClassTable(3, 4), torch.tensor([[0.25, 0.75, 0.0]])
    expected = 0.25 * table.weight[0] + 0.75 * table.weight[1]
    torch.testing.assert_close(table(weights)[0], expected)
    assert torch.equal(table(torch.tensor([1]))[0], table.weight[1])


def test_a_walk_between_classes_keeps_the_noise_and_ends_at_both(conditional):
    way = conditional.walk(4, 4, 5, seed=2, between=("x", "z"))
    ends = [conditional(1, seed=2, start=4, label=name)[0] for name in ("x", "z")]
    for image, end in zip((way[0], way[-1]), ends, strict=True):
        assert np.abs(image.astype(int) - end).max() <= 1
    assert len(way) == 5 and len({image.tobytes() for image in way}) == 5
    text = refused(ConfigError, conditional.walk, 0, 0, 3, between=("x", "q"))
    assert text == "Unknown --label 'q'. Choose from: x, y, z."


def tiles(path, columns, head):
    """The images of a sheet by row and column."""
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)
    step = (pixels.shape[1] - 4) // columns
    return [
        [pixels[top : top + 16, (x := 4 + c * step + (step - 20) // 2) : x + 16] for c in range(columns)]
        for top in range(head, pixels.shape[0] - 15, 20)
    ]


def alike(a, b):
    return np.abs(a.astype(int) - b).max() <= 1


def test_the_grid_has_a_column_for_each_class_and_one_noise_in_each_row(conditional, tmp_path):
    img2img.sample(conditional, 5, out=tmp_path, seed=3, grid=True, interpolate=4)
    grid = tiles(tmp_path / "grid.png", 3, 22)
    assert len(grid) == 5
    for c, name in enumerate(CLASSES):
        images = conditional(5, seed=3, label=name)
        assert all(alike(row[c], image) for row, image in zip(grid, images, strict=True)), name
    walks = tiles(tmp_path / "walk.png", 4, 4)
    assert len(walks) == 8
    for i, row in enumerate(walks):
        for tile, name in ((row[0], CLASSES[i % 3]), (row[-1], CLASSES[(i + 1) % 3])):
            assert alike(tile, conditional(1, seed=3, start=i, label=name)[0]), i


def test_with_a_class_the_sheets_show_that_class_alone(conditional, tmp_path):
    img2img.sample(conditional, 4, out=tmp_path, label="y", grid=True, interpolate=3)
    images = conditional(17, label="y")
    grid = [tile for row in tiles(tmp_path / "grid.png", 2, 4) for tile in row]
    assert all(map(alike, grid, images[:4]))
    for i, row in enumerate(tiles(tmp_path / "walk.png", 3, 4)):
        assert alike(row[0], images[2 * i]) and alike(row[-1], images[2 * i + 1])


def test_truncation_and_class_hold_for_arrays_too(conditional, monkeypatch):
    drawn = img2img.sample(conditional, 3, label="z", seed=5)
    assert np.array_equal(drawn, conditional(3, seed=5, label="z"))
    assert "uniform noise" in refused(ConfigError, img2img.sample, conditional, 3, truncation=0.5)


def test_sample_grids_of_training_have_a_column_for_each_class():
    method = built("cgan", Facts(16, {"image": 2}, CLASSES)).eval()
    columns = method.preview({})
    assert list(columns) == list(CLASSES)
    with torch.no_grad():
        expected = method.g(method.fixed_noise[:8], torch.ones(8, dtype=torch.int64))
    assert torch.equal(columns["y"], expected)
    assert len(built("cgan", Facts(16, {"image": 1}, tuple(map(str, range(99))))).eval().preview({})) == 32


# Vectors in place of classes.


def numbers(samples):
    """The red of each sample's image, which is its number, and its vector."""
    return {round((sample["image"][0, 0, 0].item() + 1) * 127.5): sample["label"] for sample in samples}


@pytest.mark.parametrize("kind", ["npy", "csv", "array"])
def test_every_image_keeps_its_own_vector(kind, tmp_path):
    data, order = images_in(tmp_path / "data"), np.random.default_rng(1).permutation(9)
    np.save(tmp_path / "v.npy", VECTORS.astype(np.float64))
    rows = [f"{i}.png,{','.join(map(str, VECTORS[i]))}" for i in order]
    (tmp_path / "v.csv").write_text("\n".join(["file,a,b,c,d,e", *rows]) + "\n")
    given = {"vectors": VECTORS} if kind == "array" else {}
    file = None if given else str(tmp_path / f"v.{kind}")
    config = ConditionedConfig(data=str(data), vectors=file, size=16, val_fraction=0.3)
    opened = open_samples(NEEDS, config, **given)
    assert opened.train.facts == Facts(16, {"image": 3}, (), 5)
    assert opened.images.counts == "6 images under vectors of 5"
    train, heldout = (
        numbers(map(opened.train.__getitem__, range(12))),
        numbers(opened.heldout[i] for i in range(len(opened.heldout))),
    )
    assert sorted([*train, *heldout]) == list(range(9)) and len(heldout) == 3
    for i, vector in (train | heldout).items():
        assert vector.dtype == torch.float32 and np.allclose(vector, VECTORS[i])
    batch = opened.train.fetch([0, 1, 2])
    assert batch["label"].shape == (3, 5)


def test_the_rows_of_a_divided_folder_are_those_of_its_training_part_first(tmp_path):
    for part in ("train", "val"):
        images_in(tmp_path / "data" / part)
    vectors = np.arange(36, dtype=np.int64).reshape(18, 2)
    split = find_domains(NEEDS, ConditionedConfig(data=str(tmp_path / "data"), size=16), vectors=vectors)
    assert np.array_equal(split.train["image"].vectors, vectors[:9])
    assert np.array_equal(split.heldout["image"].vectors, vectors[9:])


def test_other_vectors_are_other_data():
    config = ConditionedConfig(size=16)
    data = np.zeros((9, 16, 16), np.uint8)
    one, same, other = (
        find_domains(NEEDS, config, data=data, vectors=v).train["image"].identity()
        for v in (VECTORS, VECTORS.copy(), VECTORS + 1)
    )
    assert one == same != other


BAD = np.where(np.arange(45).reshape(9, 5) == 11, np.nan, VECTORS)


@pytest.mark.parametrize(
    "vectors, answer",
    [
        (VECTORS[:7], "There are 7 vectors and 9 images; there has to be one for each image."),
        (VECTORS[0], "vectors holds float32 of shape (5,); vectors are numbers, (images, length)."),
        (BAD, "Row 3 of vectors has numbers that are infinite or none."),
        (np.array([["a"]] * 9), "vectors holds <U1 of shape (9, 1); vectors are numbers, (images, length)."),
        (np.zeros((9, 0)), "vectors holds float64 of shape (9, 0); vectors are numbers, (images, length)."),
        ("gone.npy", "There is no file of vectors gone.npy."),
        ("v.csv", "A CSV of vectors names files in a folder; for other images give an .npy."),
    ],
)
def test_vectors_that_do_not_fit_are_refused(vectors, answer):
    config, data = ConditionedConfig(size=16), np.zeros((9, 16, 16), np.uint8)
    assert refused((ConfigError, DataError), find_domains, NEEDS, config, data=data, vectors=vectors) == answer


def test_labels_and_vectors_exclude_each_other():
    config, data = ConditionedConfig(size=16), np.zeros((9, 16, 16), np.uint8)
    text = refused(ConfigError, find_domains, NEEDS, config, data=data, labels=[*"aabbccdda"], vectors=VECTORS)
    assert text == "Give labels or vectors, not both."


def test_files_of_vectors_that_are_wrong_are_refused(tmp_path):
    data, file = images_in(tmp_path / "data"), tmp_path / "v.csv"
    config = ConditionedConfig(data=str(data), size=16)
    texts = {
        "file,a\n0.png,1\n0.png,2\n": f"{file} has to name another file in every row, in a column called file.",
        "a\n1\n2\n": f"{file} has to name another file in every row, in a column called file.",
        "file,a\n0.png,one\n": f"{file} cannot be read as an .npy or a CSV of vectors: "
        "could not convert string to float: 'one'.",
        "file,a\n0.png,1,2\n": f"{file} cannot be read as an .npy or a CSV of vectors: rows are of different lengths.",
        "file,a\n0.png,1\n": "8 images have no row in ",
        "": f"{file} cannot be read as an .npy or a CSV of vectors: ",
    }
    for text, answer in texts.items():
        file.write_text(text)
        assert refused(DataError, find_domains, NEEDS, config, vectors=str(file)).startswith(answer), text
    np.save(data / "v.npy", VECTORS)
    text = refused(ConfigError, find_domains, NEEDS, config, vectors=str(data / "v.npy"))
    assert text == f"{data / 'v.npy'} lies in the folder of images and would be read as one; move it."
    (data / "v.npy").unlink()
    np.save(tmp_path / "pickled.npy", np.array([{}]), allow_pickle=True)
    np.savez(tmp_path / "several.npy", a=VECTORS)
    (tmp_path / "short.npy").write_bytes((data / "0.png").read_bytes())
    for name in ("pickled.npy", "several.npy.npz", "short.npy"):
        refused(DataError, find_domains, NEEDS, config, vectors=str(tmp_path / name))


def test_a_code_of_a_vector_is_linear_in_it():
    code, y, e = Augmentation(5, 2, vectors=True), torch.randn(3, 5), torch.randn(3, 2)
    mu, log_variance = (y @ code.table.weight.T + code.table.bias).chunk(2, 1)
    torch.testing.assert_close(code(y, e), mu + log_variance.exp().sqrt() * e)
    d = LabelledDiscriminator(torch.nn.Identity(), 5, 2)
    planes = d(torch.zeros(3, 1, 4, 4), y)[:, 1:]
    torch.testing.assert_close(planes, d.code(y)[:, :, None, None].expand(-1, -1, 4, 4))


def test_a_wrong_vector_is_one_of_another_image_that_differs():
    torch.manual_seed(0)
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    seen = [another(vectors, 0) for _ in range(50)]
    assert not any((wrong == vectors).all(1).any() for wrong in seen)
    assert {tuple(row.tolist()) for wrong in seen for row in wrong[:1]} == {(0.0, 2.0), (3.0, 3.0)}
    assert torch.equal(another(vectors[:1].repeat(3, 1), 0), vectors[:1].repeat(3, 1))  # there is no other


def test_a_step_under_vectors_moves_the_players_of_its_stage():
    method = built("stackgan", Facts(16, {"image": 2}, (), 5), code=3, blocks=1, first_stage=0.5)
    assert method.uses["sample"].inputs[1] == Vector(5)
    batch = {"image": torch.rand(4, 2, 16, 16), "label": torch.randn(4, 5)}
    for step, moved in ((1, {"g.first", "d_small"}), (2, {"g.second", "d"})):
        before = {name: p.detach().clone() for name, p in method.named_parameters()}
        method.proceed(step, 2)
        scalars = method.step(iter([batch]))
        changed = {name for name, p in method.named_parameters() if not torch.equal(p, before[name])}
        expected = {name for name in before if any(name.startswith(f"{part}.") for part in moved)}
        assert changed == expected and all(torch.isfinite(x) for x in scalars.values())


def test_images_are_drawn_under_vectors_in_turn(under_vectors, tmp_path):
    assert (under_vectors.card.vector, under_vectors.classes) == (5, ())
    assert repr(under_vectors) == "Sampler(stackgan, uint8 x3, vectors of 5, 16 px, step 2, cpu)"
    model = under_vectors.under(VECTORS[:2])
    images, second = model(5, seed=1), under_vectors.under(VECTORS[1:2])(5, seed=1)
    assert np.array_equal(images[1::2], second[1::2]) and not np.array_equal(images[0], second[0])
    text = refused(ConfigError, under_vectors, 2)
    assert text == "This model draws under vectors of 5 numbers; give some: --vectors FILE, or model.under(vectors)."
    text = refused(DataError, under_vectors.under, VECTORS[:, :4])
    assert text == "vectors holds vectors of 4 numbers; this model takes 5."
    np.save(tmp_path / "v.npy", VECTORS[:2])
    (tmp_path / "v.csv").write_text("\n".join(["a,b,c,d,e", *(",".join(map(str, x)) for x in VECTORS[:2])]))
    for name in ("npy", "csv"):
        drawn = img2img.sample(under_vectors, 5, seed=1, vectors=str(tmp_path / f"v.{name}"))
        assert np.array_equal(drawn, images)


def test_walks_and_grids_go_by_vector(under_vectors, tmp_path):
    np.save(tmp_path / "v.npy", VECTORS[:3])
    out = tmp_path / "out"
    img2img.sample(under_vectors, 4, out=out, vectors=tmp_path / "v.npy", grid=True, interpolate=3)
    grid, walks = tiles(out / "grid.png", 3, 22), tiles(out / "walk.png", 3, 4)
    assert len(grid) == 4 and len(walks) == 8
    for c in range(3):
        images = under_vectors.under(VECTORS[c : c + 1])(8)
        assert all(alike(row[c], image) for row, image in zip(grid, images, strict=False))
        assert (alike(walks[c][0], images[c]) and alike(walks[c - 1][-1], images[(c - 1) % 8 if c else 2])) or c == 0
    assert len(json.loads((out / "samples.json").read_text())["vectors"]) == 64
    np.save(tmp_path / "w.npy", VECTORS[3:])
    text = refused(ConfigError, img2img.sample, under_vectors, 4, out=out, vectors=tmp_path / "w.npy")
    assert "another model, seed, class, truncation or vectors" in text


def test_a_model_file_says_what_vectors_it_takes(under_vectors, conditional, tmp_path):
    assert model_info(under_vectors.path)["vector"] == 5 and model_info(conditional.path)["vector"] == 0
    text = refused(ConfigError, conditional.under, VECTORS)
    assert text == "This cgan model takes no vectors; leave them out."
    exported = export_model(under_vectors.path, tmp_path / "model.pt")
    assert exported.difference < 1e-4


def test_vectors_by_command(under_vectors, command_line, tmp_path):
    np.save(tmp_path / "v.npy", VECTORS)
    words = ("sample", under_vectors.path, "--out", tmp_path / "out", "--n", 2, "--device", "cpu")
    code, _, err = command_line(*words)
    assert (code, "give some: --vectors FILE" in err) == (2, True) and not (tmp_path / "out" / "000000.png").exists()
    assert command_line(*words, "--vectors", tmp_path / "v.npy")[0] == 0


# Tables of classes.


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    root = tmp_path_factory.mktemp("semigan")
    for seed, name in enumerate(CLASSES):
        write_images(root / "data" / name, 4, (16, 16), seed)
    img2img.train("semigan", data=root / "data", out=root / "run", **TINY)
    return root


def test_a_folder_is_classified_into_a_table_that_labels_reads(classifier, command_line, tmp_path):
    write_images(tmp_path / "in" / "deeper", 3, (20, 24), 0)
    (tmp_path / "in" / "bad.png").write_bytes(b"")
    Image.new("L", (16, 16)).save(tmp_path / "in" / "grey.png")
    out = tmp_path / "classes.csv"
    code, told, err = command_line("classify", classifier / "run", tmp_path / "in", "--out", out, "--device", "cpu")
    assert (code, told) == (1, f"4 images classified into {out}, 1 failed\n") and "bad.png" in err
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert list(rows[0]) == [*HEAD.split(","), "p(x)", "p(y)", "p(z)"]
    result = img2img.classify(classifier / "run", tmp_path / "in", device="cpu")
    assert [row["file"] for row in rows] == [path.as_posix() for path in result.files]
    assert [row["label"] for row in rows] == result.labels and [path.name for path, _ in result.failed] == ["bad.png"]
    assert np.allclose(result.confidences.sum(1), 1) and result.confidences.shape == (4, 3)
    for row, p in zip(rows, result.confidences, strict=True):
        assert float(row["confidence"]) == pytest.approx(p.max(), abs=1e-6)
        assert row["label"] == CLASSES[p.argmax()]
    assert Table(out).labels == dict(zip([row["file"] for row in rows], result.labels, strict=True))


def test_confidences_are_those_of_the_classifier(classifier):
    model = img2img.load(classifier / "run", device="cpu")
    images = np.random.default_rng(0).integers(0, 256, (70, 16, 16, 3), dtype=np.uint8)
    p, use = model.confidences(images), model.classifier()
    with torch.no_grad():
        logits = use.network(model.card.scales["image"].encode_all(images))[0].double()
    np.testing.assert_allclose(p, logits.softmax(1).numpy(), atol=1e-6)
    assert model.classify(images) == [CLASSES[k] for k in p.argmax(1)]
    assert model.confidences(images[:0]).shape == (0, 3)


def test_what_cannot_be_classified_is_refused(classifier, conditional, tmp_path):
    write_images(tmp_path / "in", 2, (16, 16), 0)
    text = refused(ConfigError, img2img.classify, conditional, tmp_path / "in")
    assert text == "A cgan model does not classify images; semigan's do."
    (tmp_path / "mine.csv").write_text("a,b\n")
    text = refused(ConfigError, img2img.classify, classifier / "run", tmp_path / "in", tmp_path / "mine.csv")
    assert "was not written by this command" in text
    model = img2img.load(classifier / "run", device="cpu")
    assert "fixed when the model is loaded" in refused(ConfigError, img2img.classify, model, tmp_path, device="cpu")
    Image.new("I;16", (16, 16)).save(tmp_path / "in" / "deep.png")
    result = img2img.classify(model, tmp_path / "in", tmp_path / "out.csv")
    path = tmp_path / "in" / "deep.png"
    assert result.failed == [(path, f"{path} has 1 channels of uint16, and the model classifies 3 of uint8.")]
    assert repr(img2img.classify(model, tmp_path / "in" / "001.png")) == "Classified(1 images, 0 failed)"
