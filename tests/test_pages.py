"""Files with several pages, such as planes of Z, as the channels of one image: the same in every command."""

import json
from functools import partial

import numpy as np
import pytest
import tifffile
from helpers import over

import img2img
from img2img.data.images import read_image
from img2img.errors import ConfigError, DataError
from img2img.evaluation.evaluate import evaluate
from img2img.runs.folder import RunFolder

SIZE, PLANES = 32, 3
TINY = dict(
    size=SIZE, width=4, d_width=4, discriminator="patch_16", augment="none", steps=2, device="cpu", precision="fp32",
    quiet=True,
)  # fmt: skip
WRITERS = {
    "ZYX": partial(tifffile.imwrite, photometric="minisblack", metadata={"axes": "ZYX"}),
    "TYX": partial(tifffile.imwrite, photometric="minisblack", metadata={"axes": "TYX"}, imagej=True),
    "series": lambda path, stack: [
        tifffile.imwrite(path, plane, append=i > 0, metadata=None) for i, plane in enumerate(stack)
    ],
    "npy": lambda path, stack: np.save(path.with_suffix(".npy"), stack[..., None]),
}


def stacks(folder, count, seed=0, write=WRITERS["ZYX"]):
    folder.mkdir(parents=True)
    for i in range(count):
        values = np.random.default_rng(seed + i).integers(0, 4096, (PLANES, SIZE, SIZE)).astype(np.uint16)
        write(folder / f"{i}.tif", values)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on pairs of Z stacks, with a held-out part."""
    root = tmp_path_factory.mktemp("stacks")
    for k, (part, count) in enumerate((("train", 3), ("val", 4))):
        for j, domain in enumerate("AB"):
            stacks(root / f"{part}{domain}", count, 100 * k + 10 * j)
    options = TINY | dict(data=root, out=root / "run", generator="unet_32", pages="channels", validate_every=1)
    return root, options, img2img.train("pix2pix", **options)


def test_a_run_keeps_what_pages_are(run):
    root, options, model = run
    assert model.spec().in_channels == model.spec().out_channels == PLANES and model.card.pages == "channels"
    assert json.loads(RunFolder(root / "run").config.read_text())["options"]["pages"] == "channels"
    assert img2img.train("pix2pix", out=root / "run", resume=True, quiet=True).card.step == 2
    with pytest.raises(ConfigError, match="pages was 'channels', now 'images'"):
        img2img.train("pix2pix", **options | {"pages": "images"})


def test_everything_after_training_reads_pages_alike(run, tmp_path):
    root, _, model = run
    protocol = evaluate(root / "run").protocol
    assert protocol["images"] == 4 and "channels" not in str(protocol["notes"])
    assert evaluate(root / "run", a=root / "valA", b=root / "valB", metrics="l1").protocol["images"] == 4
    lists = {key: sorted((root / f"val{key.upper()}").iterdir()) for key in "ab"}
    assert evaluate(root / "run", **lists, metrics="l1").protocol["images"] == 4
    with pytest.raises(DataError, match=r"0\.tif has 3 pages, and a single image is needed; use --pages channels"):
        evaluate(root / "run", a=root / "valA", b=root / "valB", pages="images")
    with pytest.raises(ConfigError, match="--size, --paired and --pages apply to images that are named"):
        evaluate(root / "run", pages="channels")
    assert img2img.translate(model, root / "valA", tmp_path / "out").translated == 4
    result, original = (read_image(folder / "0.tif").array for folder in (tmp_path / "out", root / "valA"))
    assert result.shape == original.shape == (PLANES, SIZE, SIZE, 1)  # written as pages again
    np.testing.assert_array_equal(model(root / "valA" / "0.tif"), np.moveaxis(result[..., 0], 0, -1))
    assert json.loads((tmp_path / "out" / ".img2img.json").read_text())["options"]["pages"] == "channels"
    failed = img2img.translate(model, root / "valA", tmp_path / "each", pages="images").failed
    assert len(failed) == 4 and "Each of its 3 pages is taken for an image" in failed[0][1]


@over(kind=list(WRITERS))
def test_folders_of_pages_are_refused_and_read_as_channels(tmp_path, kind):
    folder = stacks(tmp_path / "data", 4, write=WRITERS[kind])
    options = dict(size=SIZE, steps=1, batch_size=2, width=4, d_width=4, device="cpu", quiet=True)
    with pytest.raises(DataError, match=r"4 of the images .* has 3 pages, and a single image is needed; use --pages"):
        img2img.train("dcgan", data=folder, out=tmp_path / "no", **options)
    sampler = img2img.train("dcgan", data=folder, out=tmp_path / "run", pages="channels", **options)
    assert sampler(1).shape == (1, SIZE, SIZE, PLANES)


def test_lists_of_files_follow_the_option_also_when_a_run_is_resumed(tmp_path):
    a, b = (sorted(stacks(tmp_path / name, 2, seed).iterdir()) for name, seed in (("a", 0), ("b", 9)))
    options = TINY | dict(generator="resnet_3", out=tmp_path / "run")
    with pytest.raises(DataError, match="use --pages channels"):
        img2img.train("cyclegan", a=a, b=b, **options)
    img2img.train("cyclegan", a=a, b=b, pages="channels", **options)
    again = img2img.train("cyclegan", a=a, b=b, out=tmp_path / "run", resume=True, steps=2, quiet=True)
    assert again.spec().in_channels == PLANES
