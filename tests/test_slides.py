"""Whole slides: regions of them, statistics from a sample, blocks that survive a kill, and what the result keeps."""

import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from conftest import refused
from filelock import FileLock
from helpers import make_model, picture
from hypothesis import given, settings, strategies as st

import img2img
from img2img.data import blocks
from img2img.data.images import read_image, write_image
from img2img.data.levels import Reducer, reduced, whole_factors
from img2img.data.regions import SLIDES, open_regions
from img2img.data.tiff import MAX_TILE
from img2img.data.tissue import BRIGHT, COARSE, GREY, empty_regions, sample_of
from img2img.errors import ConfigError, DataError, InputError, TrainingError
from img2img.model import slides, tiling
from img2img.model.frozen import Frozen
from img2img.networks import GENERATORS
from img2img.networks.layers import init_weights

CPU = torch.device("cpu")
APERIO = "Aperio Image Library v11\n777x503 |AppMag = 20|MPP = 0.4990"


def layouts(image):
    """Each way to store a slide: its name, the array as stored, its axes, and the writer's options."""
    planes = np.ascontiguousarray(np.moveaxis(image, -1, 0))
    return {
        "rgb.ome.tif": (image, "YXS", {"photometric": "rgb", "compression": "deflate", "predictor": True}),
        "planes.ome.tif": (planes, "CYX", {"photometric": "minisblack", "compression": "lzw"}),
        "separate.tif": (planes, "SYX", {"photometric": "rgb", "planarconfig": "separate"}),
        "jpeg.tif": (image, "YXS", {"photometric": "rgb", "compression": "jpeg"}),
        "grey16.tif": (
            image[..., 0].astype(np.uint16) * 257,
            "YX",
            {"photometric": "minisblack", "compression": "zstd"},
        ),
    }


def write_slide(folder, name, image, factors=(2, 4), tile=(64, 48)):
    """Write a pyramid; in SubIFDs if it is OME."""
    stored, axes, options = layouts(image)[name]
    ome, path = name.endswith("ome.tif"), folder / name
    tile = (64, 64) if "jpeg" in name else tile
    about = {"axes": axes, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5} if ome else None
    if axes == "CYX":
        about["Channel"] = {"Name": ["DAPI", "GFP", "RFP"][: len(stored)]}
    at, cut = axes.index("Y"), [slice(None)] * len(axes)
    with tifffile.TiffWriter(path, ome=ome) as writer:
        first = {"subifds": len(factors)} if ome else {"resolution": (20000, 20000), "resolutionunit": 3}
        writer.write(stored, tile=tile, metadata=about, **first, **options)
        for factor in factors:
            cut[at] = cut[at + 1] = slice(None, None, factor)
            small = np.ascontiguousarray(stored[tuple(cut)])
            writer.write(small, tile=tile, subfiletype=1, metadata=None, **options)
    return path


def write_aperio(path, image):
    """Write an Aperio slide: a thumbnail after the image, its levels, a label and a macro picture."""
    options = {"photometric": "rgb", "compression": "jpeg", "metadata": None, "software": False}
    with tifffile.TiffWriter(path) as writer:
        writer.write(image, tile=(240, 240), description=APERIO, **options)
        writer.write(image[::8, ::8].copy(), **options)
        writer.write(image[::4, ::4][: len(image) // 4, : image.shape[1] // 4].copy(), tile=(240, 240), **options)
        writer.write(image[:100, :120].copy(), subfiletype=1, **options)
        writer.write(image[:90, :220].copy(), subfiletype=9, **options)
    return path


def stored_levels(path):
    """The levels of a file as arrays (H, W, C), read whole by tifffile."""
    found = []
    with tifffile.TiffFile(path) as tiff:
        series = max(tiff.series, key=lambda s: s.size)
        for level in series.levels:
            array = level.asarray().squeeze()
            first = "C" in series.axes or series.axes.startswith("SY")
            found.append(np.moveaxis(array, 0, -1) if first else array[..., None] if array.ndim == 2 else array)
    return found


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "model.safetensors")


def translate(model, source, out, tiles=8, **options):
    options = {"device": "cpu", "precision": "fp32", "statistics": tiles, "tile": "128"} | options
    return img2img.translate(model, source, out, **options)


# Regions


@pytest.mark.parametrize("name", layouts(picture(8, 8)))
def test_regions_are_those_of_the_whole(tmp_path, name):
    path = write_slide(tmp_path, name, picture(203, 177))
    whole = stored_levels(path)

    @settings(max_examples=25, deadline=None)
    @given(st.data())
    def regions(data):
        level = data.draw(st.integers(0, 2))
        spans = []
        for size in whole[level].shape[:2]:
            first = data.draw(st.integers(0, size - 1))
            spans.append((first, data.draw(st.integers(first + 1, size))))
        rows, columns = spans
        expected = whole[level][slice(*rows), slice(*columns)]
        assert np.array_equal(image.read(rows, columns, level), expected)

    with open_regions(path) as image:
        assert (image.height, image.width, image.channels) == whole[0].shape and image.dtype == whole[0].dtype
        assert [(level.height, level.width) for level in image.levels] == [x.shape[:2] for x in whole]
        assert image.stated.pixel_size == pytest.approx((0.5, 0.5))
        assert image.stated.channels == (("DAPI", "GFP", "RFP") if name == "planes.ome.tif" else ())
        regions()


def test_a_slide_of_aperio_is_its_largest_picture(tmp_path):
    path = write_aperio(tmp_path / "a.svs", picture(503, 777))
    with open_regions(path) as image:
        assert (image.height, image.width) == (503, 777) and image.stated.pixel_size == (0.499, 0.499)
        assert [round(level.downsample, 1) for level in image.levels] == [1.0, 4.0]
        assert image.stated.lost == ("the pictures beside the slide (label, macro)",)


def test_openslide_reads_what_tifffile_reads(tmp_path):
    pytest.importorskip("openslide")
    from img2img.data.slide_other import open_slide

    path = write_slide(tmp_path, "jpeg.tif", picture(203, 177))
    with open_slide(path) as other, open_regions(path) as ours:
        region = (3, 198), (7, 175)
        difference = other.read(*region).astype(int) - ours.read(*region)
        assert np.abs(difference).max() <= 3  # decoders of JPEG round differently
        assert [(x.height, x.width) for x in other.levels] == [(x.height, x.width) for x in ours.levels]
        assert other.read((3, 40), (7, 30), 2).shape == (37, 23, 3)
        assert other.stated.pixel_size == pytest.approx((0.5, 0.5))


def test_without_openslide_the_sentence_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.mrxs").write_bytes(b"\xff\xd8\xff not a slide")
    monkeypatch.setitem(sys.modules, "openslide", None)
    assert "pip install 'img2img-gan[slides]'" in unread(tmp_path / "a.mrxs")


def unread(path):
    """The sentence in which a file is refused."""
    return refused(DataError, open_regions(path).__enter__)


def damaged(path, change):
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def test_what_cannot_be_read_by_region_is_said(tmp_path):
    """Each with its own sentence, and never more than one line."""
    image = picture(203, 177)
    cases = {}
    cases["several images"] = tmp_path / "two.ome.tif"
    with tifffile.TiffWriter(cases["several images"], ome=True) as writer:
        for _ in range(2):
            writer.write(image, photometric="rgb", tile=(64, 64))
    cases["single images"] = tmp_path / "stack.ome.tif"
    stack = np.stack([image[..., 0]] * 4)
    tifffile.imwrite(cases["single images"], stack, photometric="minisblack", metadata={"axes": "ZYX"})
    cases["PALETTE"] = tmp_path / "palette.tif"
    table = np.zeros((3, 256), np.uint16)
    tifffile.imwrite(cases["PALETTE"], image[..., 0], photometric="palette", colormap=table, tile=(64, 64))
    cases["with alpha"] = tmp_path / "alpha.tif"
    rgba = np.dstack([image, image[..., :1]])
    tifffile.imwrite(cases["with alpha"], rgba, photometric="rgb", extrasamples=[2], tile=(64, 64))
    cases["too large to read a region of"] = tmp_path / "strip.tif"
    tifffile.imwrite(
        cases["too large to read a region of"],
        np.zeros((4100, 4100), np.uint8),
        compression="deflate",
        rowsperstrip=4100,
    )
    cases["upright"] = tmp_path / "turned.tif"
    tifffile.imwrite(cases["upright"], image, photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    cases["is truncated"] = write_slide(tmp_path, "separate.tif", image)
    damaged(cases["is truncated"], lambda content: content.__delitem__(slice(len(content) // 2, None)))
    cases["neither a TIFF nor a slide"] = tmp_path / "a.png"
    cases["neither a TIFF nor a slide"].write_bytes(b"\x89PNG\r\n\x1a\n")
    cases["There is no file"] = tmp_path / "none.tif"
    cases["not a slide that OpenSlide reads"] = tmp_path / "b.mrxs"
    cases["not a slide that OpenSlide reads"].write_bytes(b"nothing")
    sentences = {words: unread(path) for words, path in cases.items()}
    assert not {words: sentence for words, sentence in sentences.items() if words not in sentence}


def test_a_region_outside_or_empty_is_refused(tmp_path):
    with open_regions(write_slide(tmp_path, "jpeg.tif", picture(203, 177))) as image:
        assert "level 1" in refused(InputError, image.read, (0, 150), (0, 10), 1)
        assert "rows 5 to 5" in refused(InputError, image.read, (5, 5), (0, 10))
        assert "levels 0 to 2" in refused(InputError, image.read, (0, 1), (0, 1), 3)


def test_a_damaged_tile_in_the_middle_is_found_when_it_is_read(tmp_path):
    path = write_slide(tmp_path, "rgb.ome.tif", picture(203, 177))
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[5], tiff.pages[0].databytecounts[5]
    damaged(path, lambda content: content.__setitem__(slice(offset, offset + count), bytes(count)))
    with open_regions(path) as image:
        assert image.read((0, 60), (0, 40)).shape == (60, 40, 3)
        assert "damaged" in refused(DataError, image.read, (70, 80), (50, 60))


# Levels


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(2, 5), st.booleans(), st.data())
def test_reduction_is_the_mean_however_the_strips_are_cut(height, width, factor, up, data):
    size = tuple(-(-n // factor) if up else max(n // factor, 1) for n in (height, width))
    image = np.random.default_rng(0).integers(0, 256, (height, width, 2), np.uint8)
    expected = np.zeros((*size, 2))
    for y, x in np.ndindex(*size):
        block = image[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
        expected[y, x] = np.rint(block.reshape(-1, 2).mean(0))
    assert np.array_equal(reduced(image, factor, size), expected)
    reducer, parts, top = Reducer(factor, size), [], 0
    while top < height:
        step = data.draw(st.integers(1, 40))
        parts += reducer.feed(image[top : top + step])
        top += step
    assert np.array_equal(np.concatenate([*parts, *reducer.end()]), expected)


def test_levels_of_odd_shapes():
    for down in (lambda n, k: n // k, lambda n, k: -(-n // k)):
        sizes = [tuple(down(n, k) for n in (1003, 777)) for k in (1, 2, 4, 8)]
        assert whole_factors(sizes) == [(size, 2) for size in sizes[1:]]
    assert whole_factors([(1000, 1000), (400, 400), (250, 250)]) == [((250, 250), 4)]  # 2.5 is not a whole number
    assert whole_factors([(1000, 1000), (500, 250)]) == []


# Statistics of a sample


def frozen_of(network, x):
    def read(rows, columns):
        return x[:, :, slice(*rows), slice(*columns)]

    return Frozen(network, tuple(x.shape), CPU), read


def tiles_of(height, width, edge):
    spans = [[(i, min(i + edge, n)) for i in range(0, n, edge)] for n in (height, width)]
    return [(rows, columns) for rows in spans[0] for columns in spans[1]]


NETWORKS = {
    "resnet": ("resnet_3", {}),
    "resnet, zero, batch": ("resnet_3", {"padding": "zero", "norm": "batch"}),
    "resnet, replicate, resize": ("resnet_3", {"padding": "replicate", "upsample": "resize"}),
    "unet": ("unet_32", {}),
    "unet, instance, resize": ("unet_16", {"norm": "instance", "upsample": "resize"}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_are_the_whole_with_the_same_statistics(name):
    """To the rounding of kernels; and with the statistics of all tiles, they are the whole as it is translated."""
    generator, choices = NETWORKS[name]
    torch.manual_seed(0)
    network = init_weights(GENERATORS[generator](2, 3, width=8, **choices), std=0.1).eval()
    x = torch.rand(1, 2, 128, 192, generator=torch.Generator().manual_seed(0)) * 0.2 - 1
    x[..., 96:] = (x[..., 96:] * 5 + 5).clamp(-1, 1)
    with torch.inference_mode():
        frozen, read = frozen_of(network, x)
        everything, exactly = ((0, 128), (0, 192)), network(x)
        for sample in (tiles_of(128, 192, 32)[::5], tiles_of(128, 192, 32)):
            frozen.learn(sample, read)
            whole, blocks = frozen.compute(everything, read), torch.empty(1, 3, 128, 192)
            for rows, columns in tiles_of(128, 192, 50):
                blocks[:, :, slice(*rows), slice(*columns)] = frozen.compute((rows, columns), read)
            assert float((blocks - whole).abs().max()) < 2e-5
        assert float((whole - exactly).abs().max()) < 2e-5
        frozen.learn(tiles_of(128, 192, 32)[:1], read)
        assert float((frozen.compute(everything, read) - exactly).abs().max()) > 0.05  # so the sample does matter


def test_a_block_asks_for_no_more_than_it_depends_on():
    """Beyond the region that `needs` names, the image may be anything; at its edge it may not."""
    network = init_weights(GENERATORS["resnet_3"](1, 1, width=4), std=0.1).eval()
    x = torch.rand(1, 1, 160, 160)
    with torch.inference_mode():
        frozen, read = frozen_of(network, x)
        frozen.learn(tiles_of(160, 160, 80), read)
        block = (64, 96), (64, 96)
        rows, columns = frozen.needs(block)
        before = frozen.compute(block, read)
        assert rows[0] > 0 and rows[1] < 160
        inside = x[:, :, slice(*rows), slice(*columns)].clone()
        x.fill_(7)
        x[:, :, slice(*rows), slice(*columns)] = inside
        assert torch.equal(frozen.compute(block, read), before)


def test_memory_of_a_sample_is_foreseen():
    network = GENERATORS["unet_32"](1, 1, width=8).eval()
    x = torch.rand(1, 1, 128, 128)
    with torch.inference_mode():
        frozen, read = frozen_of(network, x)
        held, step = [], frozen._step

        def counted(number, course, values, read):
            step(number, course, values, read)
            kept[id(values)] = sum(v.numel() * 4 for v in values.values())
            held.append(sum(kept.values()))

        kept, frozen._step = {}, counted
        sample = tiles_of(128, 128, 64)
        frozen.learn(sample, read)
    assert frozen.bytes_of(sample) <= max(held) < 1.6 * frozen.bytes_of(sample)


# Glass and tissue


def test_sample_is_spread_over_the_tissue(tmp_path):
    path = write_slide(tmp_path, "rgb.ome.tif", picture(512, 640))
    with open_regions(path) as slide:
        is_empty = empty_regions(slide)
        assert is_empty((0, 64), (0, 64)) and not is_empty((240, 250), (300, 320))
        for count in (1, 5, 12):
            sample = sample_of(slide, count, 64)
            assert len(set(sample)) == count == len(sample)
            assert not any(is_empty(*region) for region in sample)
        centres = np.array([[rows[0], columns[0]] for rows, columns in sample])
        assert (centres.max(0) - centres.min(0) > (180, 250)).all()
        assert sample_of(slide, 12, 64) == sample
        assert len(sample_of(slide, 1000, 64)) < 80


# Images that are held whole


@pytest.mark.parametrize("name", layouts(picture(8, 8)))
def test_levels_of_a_small_pyramid_are_made_again(tmp_path, name):
    path = write_slide(tmp_path, name, picture(203, 177))
    channels, dtype = (1, "uint16") if "grey" in name else (3, "uint8")
    model = make_model(tmp_path / "m.safetensors", channels, dtype)
    assert img2img.translate(model, path, tmp_path / "out", device="cpu", precision="fp32").translated == 1
    before, after = stored_levels(path), stored_levels(tmp_path / "out" / name)
    assert [x.shape for x in after] == [x.shape for x in before] and after[0].dtype == before[0].dtype
    for larger, smaller in itertools.pairwise(after):
        assert np.array_equal(reduced(larger, 2, smaller.shape[:2]), smaller)
    with tifffile.TiffFile(path) as old, tifffile.TiffFile(tmp_path / "out" / name) as new:
        assert (old.pages[0].subifds is None) == (new.pages[0].subifds is None)
        assert old.pages[0].description == new.pages[0].description and len(old.pages) == len(new.pages)


def test_a_stack_and_a_changed_size_and_their_levels(tmp_path):
    """The planes of a stack have levels each; a picture of another size has none."""
    stack = np.random.default_rng(0).integers(0, 255, (3, 2, 64, 48), np.uint8)
    path = tmp_path / "stack.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(stack, subifds=1, tile=(16, 16), photometric="minisblack", metadata={"axes": "ZCYX"})
        writer.write(stack[..., ::2, ::2].copy(), subfiletype=1, tile=(16, 16), photometric="minisblack")
    known = read_image(path)
    write_image(tmp_path / "again.ome.tif", known)
    with tifffile.TiffFile(tmp_path / "again.ome.tif") as tiff:
        assert [level.shape for level in tiff.series[0].levels] == [(3, 2, 64, 48), (3, 2, 32, 24)]
        expected = np.rint(stack.reshape(3, 2, 32, 2, 24, 2).mean((3, 5)))
        assert np.array_equal(tiff.series[0].levels[1].asarray(), expected)
    write_image(tmp_path / "cut.ome.tif", replace(known, array=known.array[:, :20]))
    with tifffile.TiffFile(tmp_path / "cut.ome.tif") as tiff:
        assert len(tiff.series[0].levels) == 1


# Jobs


@pytest.mark.parametrize("name", layouts(picture(8, 8)))
def test_a_result_is_stored_like_its_slide(tmp_path, name):
    path = write_slide(tmp_path, name, picture(203, 177))
    channels, dtype = (1, "uint16") if "grey" in name else (3, "uint8")
    model = make_model(tmp_path / "m.safetensors", channels, dtype)
    summary = translate(model, path, tmp_path / "out")
    assert summary.translated == 1 and not summary.failed
    result = tmp_path / "out" / name
    before, after = stored_levels(path), stored_levels(result)
    assert [x.shape for x in after] == [x.shape for x in before] and after[0].dtype == before[0].dtype
    assert np.abs(after[0].astype(float) - before[0]).mean() > 5
    tolerance = 12 if "jpeg" in name else 0  # noise, on which JPEG loses much
    for larger, smaller in itertools.pairwise(after):
        assert np.abs(reduced(larger, 2, smaller.shape[:2]).astype(float) - smaller).mean() <= tolerance
    with (
        open_regions(path) as old,
        open_regions(result) as new,
        tifffile.TiffFile(path) as a,
        tifffile.TiffFile(result) as b,
    ):
        assert (old.tile, old.compression, old.stated) == (new.tile, new.compression, new.stated)
        assert old.layout.axes == new.layout.axes and old.layout.subifds == new.layout.subifds
        assert a.pages[0].description == b.pages[0].description
        assert a.pages[0].tags.keys() == b.pages[0].tags.keys()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [".img2img.json", name]


def test_a_result_of_a_file_by_tifffile_states_the_shape_of_its_levels(tmp_path, model, caplog):
    image = picture(128, 96)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(image, subifds=1, tile=(32, 32), photometric="rgb")
        writer.write(image[::2, ::2], subfiletype=1, tile=(32, 32), photometric="rgb")
    translate(model, tmp_path / "a.tif", tmp_path / "blocks")
    translate(model, tmp_path / "a.tif", tmp_path / "whole", statistics=0)
    write_image(tmp_path / "float.tif", replace(known := read_image(tmp_path / "a.tif"), array=known.array / 255))
    for path in (tmp_path / "blocks" / "a.tif", tmp_path / "whole" / "a.tif", tmp_path / "float.tif"):
        with tifffile.TiffFile(path) as tiff:
            assert [level.shape for level in tiff.series[0].levels] == [(128, 96, 3), (64, 48, 3)], path
    assert [record.message for record in caplog.records if record.name == "tifffile"] == []


def test_a_result_of_an_aperio_slide_is_one(tmp_path, model, command_line):
    path = write_aperio(tmp_path / "a.svs", picture(503, 777))
    code, _, err = command_line(
        "translate", model, path, "--out", tmp_path / "out", "--statistics", 8, "--device", "cpu", "--tile", 240
    )
    assert code == 0 and "the pictures beside the slide (label, macro)" in err
    with open_regions(tmp_path / "out" / "a.svs") as slide:
        assert [(x.height, x.width) for x in slide.levels] == [(503, 777), (125, 194)]
        assert slide.stated.pixel_size == (0.499, 0.499) and slide.compression == "JPEG"
    openslide = pytest.importorskip("openslide")
    with openslide.OpenSlide(tmp_path / "out" / "a.svs") as slide:
        assert slide.properties["openslide.vendor"] == "aperio" and slide.level_count == 2
        assert list(slide.associated_images) == ["thumbnail"]


def test_result_with_all_tiles_is_that_of_the_whole(tmp_path, model):
    """The sample is the whole image, so that nothing but rounding is left."""
    rgb = picture(512, 512)
    rgb[:] = rgb[200:300, 200:300].repeat(6, 0).repeat(6, 1)[:512, :512]
    tissue_only = write_slide(tmp_path, "rgb.ome.tif", rgb)
    translate(model, tissue_only, tmp_path / "tissue", tiles=100)
    whole = img2img.load(model, device="cpu", precision="fp32")(rgb)
    assert np.abs(stored_levels(tmp_path / "tissue" / "rgb.ome.tif")[0].astype(int) - whole).max() <= 1


@pytest.mark.parametrize("tile", ["64", "192"])
def test_blocks_of_any_size_give_the_same_picture(tmp_path, model, tile):
    path = write_slide(tmp_path, "rgb.ome.tif", picture(203, 277))
    translate(model, path, tmp_path / "one", tile="1024")
    translate(model, path, tmp_path / "many", tile=tile)
    one, many = (stored_levels(tmp_path / name / "rgb.ome.tif")[0].astype(int) for name in ("one", "many"))
    assert np.abs(one - many).max() <= 1 and (one != many).mean() < 0.001


def test_empty_blocks_are_copied(tmp_path, model):
    path = write_slide(tmp_path, "rgb.ome.tif", picture(512, 512))
    translate(model, path, tmp_path / "out", skip_empty=True, tile="64")
    before, after = stored_levels(path)[0], stored_levels(tmp_path / "out" / "rgb.ome.tif")[0]
    assert np.array_equal(before[:64], after[:64])
    inside = np.s_[200:300, 200:300]
    assert np.abs(before[inside].astype(int) - after[inside]).mean() > 5


@pytest.mark.slow
def test_a_killed_job_continues_and_gives_the_same_bytes(tmp_path, model, monkeypatch):
    path = write_slide(tmp_path, "jpeg.tif", picture(256, 256))
    translate(model, path, tmp_path / "once", tile="64")
    script = (
        "import os, signal, sys; import img2img; from img2img.data import blocks\n"
        "write, count = blocks.write_block, [0]\n"
        "def counted(*a):\n"
        "    write(*a); count[0] += 1\n"
        "    if count[0] == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "blocks.write_block = counted\n"
        "img2img.translate(*sys.argv[1:], device='cpu', precision='fp32', statistics=8, tile='64')\n"
    )
    words = [sys.executable, "-c", script, str(model), str(path), str(tmp_path / "twice")]
    assert subprocess.run(words, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode == -signal.SIGKILL
    work = tmp_path / "twice" / ".jpeg.tif.img2img-blocks"
    finished = {p.name: p.stat().st_mtime_ns for p in work.glob("*-*.tif")}
    assert len(finished) == 5 and not (tmp_path / "twice" / "jpeg.tif").exists()
    written = []
    write = blocks.write_block
    monkeypatch.setattr(blocks, "write_block", lambda path, *rest: (written.append(path.name), write(path, *rest)))
    translate(model, path, tmp_path / "twice", tile="64")
    assert len(written) == 16 - 5 and not set(written) & set(finished)
    assert (tmp_path / "twice" / "jpeg.tif").read_bytes() == (tmp_path / "once" / "jpeg.tif").read_bytes()
    assert not work.exists()
    assert translate(model, path, tmp_path / "twice", tile="64").skipped == 1


def stopped(monkeypatch, after, function, *args, **options):
    """Run until a number of blocks is written, and stop there."""
    write, count = blocks.write_block, []

    def counted(*given):
        if len(count) == after:
            raise KeyboardInterrupt
        count.append(write(*given))

    monkeypatch.setattr(blocks, "write_block", counted)
    with pytest.raises(KeyboardInterrupt):
        function(*args, **options)
    monkeypatch.setattr(blocks, "write_block", write)


def test_blocks_of_another_slide_are_not_mixed_in(tmp_path, model, monkeypatch):
    path = write_slide(tmp_path, "rgb.ome.tif", picture(203, 177))
    stopped(monkeypatch, 2, translate, model, path, tmp_path / "out", tile="64")
    write_slide(tmp_path, "rgb.ome.tif", picture(203, 177, seed=1))
    translator = img2img.load(model, device="cpu", precision="fp32")
    img2img.translate(translator, path, tmp_path / "out", statistics=8, tile="64")
    assert any("another content of the slide" in note for note in translator.notes)
    translate(model, path, tmp_path / "again", tile="64")
    names = [tmp_path / name / "rgb.ome.tif" for name in ("out", "again")]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_a_damaged_block_is_named(tmp_path, model, monkeypatch):
    """As after a power cut; without it, the job continues."""
    path = write_slide(tmp_path, "rgb.ome.tif", picture(203, 177))
    for content in (b"", b"II*\0" + bytes(500)):
        stopped(monkeypatch, 2, translate, model, path, tmp_path / "out", tile="64")
        block = tmp_path / "out" / ".rgb.ome.tif.img2img-blocks" / "0-1.tif"
        block.write_bytes(content)
        ((_, reason),) = translate(model, path, tmp_path / "out", tile="64").failed
        assert "0-1.tif is damaged; delete it" in reason
        block.unlink()
        assert translate(model, path, tmp_path / "out", tile="64").translated == 1
        (tmp_path / "out" / "rgb.ome.tif").unlink()


def test_a_slide_that_another_process_translates_is_reported(tmp_path, model):
    path = write_slide(tmp_path, "rgb.ome.tif", picture(203, 177))
    work = tmp_path / "out" / ".rgb.ome.tif.img2img-blocks"
    work.mkdir(parents=True)
    with FileLock(work / "lock"):
        ((_, reason),) = translate(model, path, tmp_path / "out").failed
    assert "is being worked on by another process" in reason
    assert translate(model, path, tmp_path / "out").translated == 1


def test_a_full_disk_ends_the_job_and_keeps_the_blocks(tmp_path, model, monkeypatch):
    path = write_slide(tmp_path, "separate.tif", picture(203, 177))
    write, count = blocks.write_block, []

    def full(*given):
        if len(count) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        count.append(write(*given))

    monkeypatch.setattr(blocks, "write_block", full)
    assert "The disk is full" in refused(TrainingError, translate, model, path, tmp_path / "out", tile="64")
    monkeypatch.setattr(blocks, "write_block", write)
    work = tmp_path / "out" / ".separate.tif.img2img-blocks"
    assert len(list(work.glob("*-*.tif"))) == 3
    assert translate(model, path, tmp_path / "out", tile="64").translated == 1
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "0.0 GB are free" in translate(model, path, tmp_path / "more", tile="64").failed[0][1]


def test_values_that_are_no_numbers_are_reported_with_their_place(tmp_path):
    image = np.random.default_rng(0).random((203, 177)).astype(np.float32)
    image[150, 100] = np.nan
    tifffile.imwrite(tmp_path / "x.tif", image, tile=(64, 64), photometric="minisblack")
    model = make_model(tmp_path / "m.safetensors", 1, "float32", high=1)
    ((_, reason),) = translate(model, tmp_path / "x.tif", tmp_path / "out").failed
    assert "x.tif, rows 0 to 202, columns 0 to 176: It has" in reason and "NaN" in reason


def test_a_model_that_has_no_form_in_tiles_is_refused(tmp_path, model, monkeypatch):
    path = write_slide(tmp_path, "rgb.ome.tif", picture(203, 177))
    monkeypatch.setattr(tiling.Lazy, "operations", {})
    assert "--statistics cannot be used: the network" in failure(model, path, tmp_path / "out")


def test_blocks_of_another_model_or_options_are_refused(tmp_path, model, monkeypatch):
    path = write_slide(tmp_path, "rgb.ome.tif", picture(203, 177))
    stopped(monkeypatch, 2, translate, model, path, tmp_path / "out", tile="64")
    sentence = refused(ConfigError, translate, model, path, tmp_path / "out", tiles=9, tile="64")
    assert "statistics was 8, now 9" in sentence and "--overwrite" in sentence


def test_options_that_need_the_whole_image_are_refused(tmp_path, model):
    path = write_slide(tmp_path, "rgb.ome.tif", picture(203, 177))
    for name, options in {
        "--ensemble": {"ensemble": True},
        "--tile off": {"tile": "off"},
        "--channels": {"channels": "convert"},
        "--nan": {"nan": "mask"},
        "--format": {"format": "png"},
    }.items():
        assert name in refused(ConfigError, translate, model, path, tmp_path / "out", **options)
    sentence = refused(ConfigError, translate, model, path, tmp_path / "out", tiles=0, skip_empty=True)
    assert "--skip-empty applies to blocks of --statistics" in sentence


def failure(model, path, out, **options):
    summary = translate(model, path, out, **options)
    ((_, reason),) = summary.failed
    assert not [p for p in out.rglob("*") if p.name != ".img2img.json"]
    return reason


def test_a_slide_that_does_not_fit_is_reported_and_leaves_nothing(tmp_path, model):
    grey = write_slide(tmp_path, "grey16.tif", picture(203, 177))
    assert "uint16" in failure(model, grey, tmp_path / "type")
    model16 = make_model(tmp_path / "16.safetensors", 1, "uint16")
    assert "recognises glass by its colour" in failure(model16, grey, tmp_path / "glass", skip_empty=True)
    rgb = write_slide(tmp_path, "rgb.ome.tif", picture(203, 177))
    one = make_model(tmp_path / "one.safetensors", 3, out=1, generator="unet_16")
    assert "images of another kind" in failure(one, rgb, tmp_path / "kind", skip_empty=True)
    assert "--tile-memory allows" in failure(model, rgb, tmp_path / "memory", tile_memory=0.0001)
    (tmp_path / "plain.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert "neither a TIFF nor a slide" in failure(model, tmp_path / "plain.png", tmp_path / "png")


def test_a_damaged_tile_ends_the_slide_and_the_others_go_on(tmp_path, model):
    folder = tmp_path / "in"
    folder.mkdir()
    path = write_slide(folder, "rgb.ome.tif", picture(512, 512))
    write_slide(folder, "jpeg.tif", picture(203, 177))
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[50], tiff.pages[0].databytecounts[50]
    damaged(path, lambda content: content.__setitem__(slice(offset, offset + count), bytes(count)))
    summary = translate(model, folder, tmp_path / "out", tile="64")
    assert summary.translated == 1 and "damaged" in summary.failed[0][1]
    assert not (tmp_path / "out" / "rgb.ome.tif").exists()


def test_a_model_that_changes_the_number_of_channels(tmp_path):
    path = write_slide(tmp_path, "rgb.ome.tif", picture(203, 177))
    model = make_model(tmp_path / "m.safetensors", 3, out=1, generator="unet_16")
    assert not translate(model, path, tmp_path / "out").failed
    with open_regions(tmp_path / "out" / "rgb.ome.tif") as slide:
        assert (slide.channels, slide.dtype) == (1, "uint8") and len(slide.levels) == 3
        assert slide.stated.pixel_size == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("out", [3, 2])
def test_a_slide_of_ome_with_an_overview_gets_a_description_of_its_own(tmp_path, out):
    """The description of two images would be wrong for one, so it is made again, with the size of a pixel."""
    path, image = tmp_path / "x.ome.tif", np.ascontiguousarray(np.moveaxis(picture(203, 177), -1, 0))
    about = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25, "Channel": {"Name": ["A", "B", "C"]}}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(image, tile=(64, 64), photometric="minisblack", subifds=1, metadata=about)
        writer.write(image[:, ::2, ::2].copy(), tile=(64, 64), photometric="minisblack", subfiletype=1)
        writer.write(image[:, :50, :60].copy(), photometric="minisblack", metadata={"axes": "CYX", "Name": "Label"})
    model = make_model(tmp_path / "m.safetensors", 3, out=out, generator="unet_16")
    translator = img2img.load(model, device="cpu", precision="fp32")
    assert img2img.translate(translator, path, tmp_path / "out", statistics=8).translated == 1
    assert any("the pictures beside the slide (label)" in note for note in translator.notes)
    with open_regions(tmp_path / "out" / "x.ome.tif") as slide:
        assert (slide.channels, len(slide.levels)) == (out, 2)
        assert slide.stated.pixel_size == pytest.approx((0.5, 0.25))
        assert slide.stated.channels == (("A", "B", "C") if out == 3 else ()) and not slide.stated.lost


def test_slides_are_found_and_named_by_option(tmp_path, model, command_line):
    """Without the option, a slide is not passed over in silence; and a TIFF over the limit is told of it."""
    folder = tmp_path / "in"
    folder.mkdir()
    write_aperio(folder / "a.svs", picture(503, 777))
    write_slide(folder, "jpeg.tif", picture(203, 177))
    code, out, err = command_line("translate", model, folder, "--out", tmp_path / "out", "--max-megapixels", 0.03)
    assert code == 1 and "2 failed" in out
    assert err.count("With --statistics 64, it is translated in blocks") == 2 and "GB of memory" in err


def test_a_result_of_another_suffix_clashes_with_no_other(tmp_path, model):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(write_slide(tmp_path, "jpeg.tif", picture(203, 177)), folder / "a.bif")
    assert translate(model, folder, tmp_path / "one").translated == 1
    with open_regions(tmp_path / "one" / "a.tif") as slide:
        assert (slide.height, slide.width) == (203, 177)
    shutil.copy(folder / "a.bif", folder / "a.tif")
    summary = translate(model, folder, tmp_path / "two")
    assert summary.translated == 1 and "would have the same path" in summary.failed[0][1]


def test_the_page_names_every_suffix_and_number():
    page = (Path(__file__).parents[1] / "docs" / "slides.md").read_text(encoding="utf-8")
    assert not [suffix for suffix in SLIDES if f"`{suffix}`" not in page]
    assert (
        f"at least {BRIGHT} of 255 and differ by at most {GREY}" in page and f"at most {COARSE} times smaller" in page
    )
    assert f"about {slides.BLOCK} pixels" in page and f"tiles of {slides.SAMPLED} pixels" in page
    assert f"{MAX_TILE / 2**20:.0f} megapixels" in page
