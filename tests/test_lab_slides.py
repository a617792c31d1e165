"""Slides and other images too large to be held, equalized by region: the same pixels and the same fit as whole ones."""

import os
import re
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tifffile
from conftest import refused
from helpers import over
from scipy import ndimage

from img2img import BatchEqualizer
from img2img.data import blocks
from img2img.data.images import read_image
from img2img.data.levels import reduced
from img2img.data.regions import open_regions
from img2img.errors import ConfigError, DataError
from img2img.lab import evaluating, large, pieces
from img2img.lab.tables import blockwise
from img2img.lab.tables.manifest import Manifest

pytestmark = pytest.mark.filterwarnings("ignore::img2img.lab.notes.LabWarning")

HEIGHT, WIDTH, SLIDES = 203, 177, 4  # of each batch
TINY = 1e-3  # megapixels, so that every image is read by region
STAINS = np.array([[0.65, 0.70, 0.29], [0.10, 0.95, 0.30]])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch, few_probes):
    monkeypatch.setattr(large, "EDGE", 64)
    monkeypatch.setattr(blockwise, "EDGE", 64)


def cells(rng, gain, channels=2):
    """(H, W, C) uint16: bright spots on a dark background."""
    planes = []
    for c in range(channels):
        spots = ndimage.gaussian_filter((rng.random((HEIGHT, WIDTH)) < 0.004).astype(float), 3)
        planes.append(400 + 60 * c + gain * (300 + 90000 * spots) + rng.normal(0, 15, (HEIGHT, WIDTH)))
    return np.stack(planes, -1).clip(0, 65535).round().astype(np.uint16)


def tissue(rng, gain):
    """(H, W, 3) uint8: two stains on white."""
    spots = ndimage.gaussian_filter((rng.random((HEIGHT, WIDTH)) < 0.01).astype(float), 2)
    inside = (np.arange(WIDTH) < 0.8 * WIDTH) * (0.3 + ndimage.gaussian_filter(rng.random((HEIGHT, WIDTH)), 1.5))
    density = np.einsum("shw,sc->hwc", np.stack([gain * 40 * spots, inside / gain]), STAINS)
    return (240 * np.exp(-density) + rng.normal(0, 1, density.shape)).clip(0, 255).round().astype(np.uint8)


def write_ome(path, image):
    """Write planes as an OME-TIFF with two levels in SubIFDs."""
    stored = np.ascontiguousarray(np.moveaxis(image, -1, 0))
    about = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "Channel": {"Name": ["DAPI", "GFP"]}}
    options = {"photometric": "minisblack", "compression": "lzw", "tile": (64, 48)}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(stored, subifds=1, metadata=about, **options)
        writer.write(np.ascontiguousarray(stored[:, ::2, ::2]), subfiletype=1, metadata=None, **options)


def write_rgb(path, image):
    options = {"photometric": "rgb", "compression": "deflate", "predictor": True, "tile": (48, 64)}
    with tifffile.TiffWriter(path) as writer:
        writer.write(image, subifds=1, resolution=(20000, 20000), resolutionunit=3, metadata=None, **options)
        writer.write(np.ascontiguousarray(image[::2, ::2]), subfiletype=1, metadata=None, **options)


KINDS = {"tone": (cells, write_ome, ".ome.tif"), "stain": (tissue, write_rgb, ".tif")}
KINDS["tone+field"] = KINDS["tone"]


def slides(folder, model, change=lambda image: image, suffix=None):
    """Write two batches of slides into a folder with a subfolder for each."""
    draw, write, usual = KINDS[model]
    for b, gain in (("A", 1.0), ("B", 1.6)):
        (folder / b).mkdir(parents=True)
        for i in range(SLIDES):
            image = change(draw(np.random.default_rng([ord(b), i]), gain))
            if model == "tone+field" and b == "B":
                light = 1 + 0.3 * np.linspace(-1, 1, WIDTH)[None, :, None]
                image = (400 + (image.astype(float) - 400) * light).clip(0, 65535).round().astype(image.dtype)
            write(folder / b / f"{i}{suffix or usual}", image)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def fits(request, tmp_path_factory):
    """The model, the folder of slides, and the equalizers fitted to them whole and by region."""
    folder = slides(tmp_path_factory.mktemp("slides") / "in", request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "EDGE", 64)
        return (
            request.param,
            folder,
            *(
                BatchEqualizer(request.param, target="A", min_images=2).fit_table(folder, **options)
                for options in ({}, {"max_megapixels": TINY})
            ),
        )


def arrays_of(correction):
    return {name: value for name, value in vars(correction).items() if isinstance(value, np.ndarray)}


def test_a_fit_by_region_is_that_of_the_images_held_whole(fits):
    """To the bit, but for illumination and moments, which are sums of floats."""
    model, _, whole, regions = fits
    first, second = arrays_of(whole.correction_), arrays_of(regions.correction_)
    assert first.keys() == second.keys()
    for name, value in first.items():
        if model == "tone+field":
            np.testing.assert_allclose(value, second[name], rtol=1e-9, atol=1e-12, err_msg=name)
        else:
            assert np.array_equal(value, second[name]), name
    assert np.array_equal(whole.scale_, regions.scale_)
    assert np.array_equal(whole.statistics_.quantiles, regions.statistics_.quantiles)
    np.testing.assert_allclose(whole.statistics_.sd, regions.statistics_.sd, rtol=1e-12)
    assert whole.sham_ == pytest.approx(regions.sham_, rel=1e-6) and whole.notes_ == regions.notes_
    one, two = whole.fitted_.familiarity, regions.fitted_.familiarity
    np.testing.assert_allclose(one.centres, two.centres, rtol=1e-4, atol=1e-5)


def test_results_by_region_are_those_of_the_images_held_whole(fits, tmp_path):
    _, folder, equalizer, _ = fits
    whole = equalizer.transform_table(folder, None, tmp_path / "whole")
    regions = equalizer.transform_table(folder, None, tmp_path / "regions", max_megapixels=TINY)
    assert set(whole["status"]) == set(regions["status"]) == {"done"}
    changed = 0
    for path in sorted(folder.rglob("*.tif")):
        name = path.relative_to(folder)
        before, one, two = (read_image(f / name).array for f in (folder, tmp_path / "whole", tmp_path / "regions"))
        assert one.dtype == two.dtype and np.array_equal(one, two), name
        changed += not np.array_equal(before, two)
        with open_regions(path) as old, open_regions(tmp_path / "regions" / name) as new:
            assert (old.tile, old.compression, old.stated) == (new.tile, new.compression, new.stated)
            assert [(x.height, x.width) for x in old.levels] == [(x.height, x.width) for x in new.levels]
            everything = (0, HEIGHT), (0, WIDTH)
            level = new.levels[1]
            small = new.read((0, level.height), (0, level.width), 1)
            assert np.array_equal(reduced(new.read(*everything), 2, small.shape[:2]), small)
    assert changed == SLIDES
    columns = ["clipped", "saturated", "unfamiliar", "change"]
    np.testing.assert_allclose(whole[columns], regions[columns], rtol=1e-3, atol=1e-6)
    assert list(whole["flags"]) == list(regions["flags"])
    hidden = [p.name for p in (tmp_path / "regions").rglob(".*.img2img-blocks")]
    assert hidden == []


# Rows of other kinds


def small_fit(folder, model="tone", **options):
    return BatchEqualizer(model, target="A", min_images=2, **options).fit_table(folder)


def test_the_files_of_a_row_are_channels_with_tiles_of_their_own(tmp_path):
    """Each channel is a file, with its own tiles; a channel with few tiles does not change the others."""
    rows = []
    for b, gain in (("A", 1.0), ("B", 1.6)):
        for i in range(SLIDES):
            image, row = cells(np.random.default_rng([ord(b), i]), gain), {"Metadata_Batch": b}
            for c, (name, tile) in enumerate((("DNA", (64, 48)), ("ER", (32, 32)))):
                row[f"FileName_{name}"] = f"{b}{i}_{name}.tif"
                tifffile.imwrite(tmp_path / row[f"FileName_{name}"], image[..., c], tile=tile, compression="zstd")
            rows.append(row)
    table = pd.DataFrame(rows)
    equalizer = BatchEqualizer(target="A", min_images=2).fit_table(table, tmp_path, max_megapixels=TINY)
    equalizer.transform_table(table, tmp_path, tmp_path / "whole")
    equalizer.transform_table(table, tmp_path, tmp_path / "regions", max_megapixels=TINY)
    for row in rows:
        for name, tile in (("DNA", (64, 48)), ("ER", (32, 32))):
            one, two = (tmp_path / out / row[f"FileName_{name}"] for out in ("whole", "regions"))
            assert np.array_equal(read_image(one).array, read_image(two).array)
            with open_regions(two) as image:
                assert (image.tile, image.compression) == (tile, "ZSTD")


def test_a_slide_of_a_scanner_is_read_by_region_and_loses_nothing_to_jpeg(tmp_path):
    folder = slides(tmp_path / "in", "stain")
    equalizer = small_fit(folder, "stain")
    described = {"photometric": "rgb", "metadata": None, "software": False}
    image = read_image(folder / "B" / "0.tif").array
    with tifffile.TiffWriter(tmp_path / "b.svs") as writer:
        about = "Aperio Image Library v11\n177x203 |AppMag = 20|MPP = 0.4990"
        writer.write(image, tile=(64, 64), description=about, compression="jpeg", **described)
        writer.write(image[::4, ::4].copy(), compression="jpeg", **described)
        writer.write(image[:90, :120].copy(), subfiletype=9, compression="jpeg", **described)
    table = pd.DataFrame({"FileName_Image": ["b.svs"], "Metadata_Batch": ["B"]})
    result = equalizer.transform_table(table, tmp_path, tmp_path / "out")
    assert list(result["status"]) == ["done"], result["error"][0]
    assert "macro" in result["not_kept"][0] and "JPEG compression, which becomes deflate" in result["not_kept"][0]
    with open_regions(tmp_path / "b.svs") as old, open_regions(tmp_path / "out" / "b.svs") as new:
        before, after = (one.read((0, HEIGHT), (0, WIDTH)).transpose(2, 0, 1) for one in (old, new))
        assert np.array_equal(equalizer.transform([before], batch="B")[0], after)
        assert new.stated.pixel_size == old.stated.pixel_size == (0.499, 0.499)
    assert list(Manifest.open(tmp_path / "in").batch) == ["A"] * SLIDES + ["B"] * SLIDES


def test_a_large_image_of_ome_zarr_stays_one(tmp_path):
    zarr = pytest.importorskip("zarr")
    folder = slides(tmp_path / "in", "tone")
    equalizer = small_fit(folder)
    planes = read_image(folder / "B" / "0.ome.tif").array.transpose(2, 0, 1)
    group = zarr.open_group(tmp_path / "b.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=planes, chunks=(1, 64, 64))
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
    scale = [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    group.attrs["omero"] = {"channels": [{"label": "DAPI"}, {"label": "GFP"}]}
    table = pd.DataFrame({"FileName_Image": ["b.zarr"], "Metadata_Batch": ["B"]})
    for out, options in (("whole", {}), ("regions", {"max_megapixels": TINY})):
        result = equalizer.transform_table(table, tmp_path, tmp_path / out, **options)
        assert list(result["status"]) == ["done"], result["error"][0]
    one, two = (read_image(tmp_path / out / "b.zarr", pages="channels") for out in ("whole", "regions"))
    assert np.array_equal(one.array, two.array) and not np.array_equal(two.array, planes.transpose(1, 2, 0))
    assert two.source.stated.channels == one.source.stated.channels == ("DAPI", "GFP")
    assert two.source.stated.pixel_size == one.source.stated.pixel_size == (0.5, 0.5)


@over(dtype=["float32", "float64"], nan=["error", "mask"])
def test_floats_and_their_holes(tmp_path, dtype, nan):
    def broken(image):
        return image.astype(dtype)

    folder = slides(tmp_path / "in", "tone", broken)
    equalizer = small_fit(folder)
    regions = BatchEqualizer(target="A", min_images=2).fit_table(folder, max_megapixels=TINY)
    np.testing.assert_allclose(equalizer.correction_.curves, regions.correction_.curves, rtol=1e-9)
    image = read_image(folder / "B" / "1.ome.tif", pages="channels").array.copy()
    image[150, 120, 1] = np.nan
    write_ome(folder / "B" / "1.ome.tif", image)
    for out, options in (("whole", {}), ("regions", {"max_megapixels": TINY})):
        result = equalizer.transform_table(folder, None, tmp_path / out, nan=nan, **options)
        assert list(result["status"]).count("failed") == (nan == "error")
        assert nan == "mask" or "NaN in channel GFP, row 150, column 120" in " ".join(result["error"])
    for path in (tmp_path / "whole").rglob("*.tif"):
        other = tmp_path / "regions" / path.relative_to(tmp_path / "whole")
        one, two = (read_image(x, pages="channels").array for x in (path, other))
        assert one.dtype == two.dtype == dtype
        np.testing.assert_array_equal(one, two)


# Stops and faults


@pytest.mark.slow
def test_a_killed_transform_continues_and_gives_the_same_bytes(tmp_path, monkeypatch):
    folder = slides(tmp_path / "in", "tone")
    equalizer = small_fit(folder)
    equalizer.save(tmp_path / "eq")
    equalizer.transform_table(folder, None, tmp_path / "once", max_megapixels=TINY)
    script = (
        "import os, signal, sys; from img2img import BatchEqualizer; from img2img.data import blocks\n"
        "from img2img.lab.tables import blockwise\n"
        "write, count, blockwise.EDGE = blocks.write_block, [0], 64\n"
        "def counted(*a):\n"
        "    write(*a); count[0] += 1\n"
        "    if count[0] == 21: os.kill(os.getpid(), signal.SIGKILL)\n"
        "blocks.write_block = counted\n"
        "BatchEqualizer.load(sys.argv[1]).transform_table(sys.argv[2], None, sys.argv[3], max_megapixels=1e-3)\n"
    )
    words = [sys.executable, "-c", script, str(tmp_path / "eq"), str(folder), str(tmp_path / "twice")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    assert subprocess.run(words, env=environment).returncode == -signal.SIGKILL
    (work,) = (tmp_path / "twice").rglob(".*.img2img-blocks")
    finished = {path.name for path in work.glob("*-*.tif")}
    assert 0 < len(finished) < 16
    written, write = [], blocks.write_block
    monkeypatch.setattr(blocks, "write_block", lambda path, *rest: (written.append(path), write(path, *rest)))
    result = equalizer.transform_table(folder, None, tmp_path / "twice", max_megapixels=TINY)
    assert set(result["status"]) <= {"done", "kept"}
    assert not {path.name for path in written if path.parent == work} & finished
    for path in (tmp_path / "once").rglob("*.tif"):
        other = tmp_path / "twice" / path.relative_to(tmp_path / "once")
        assert path.read_bytes() == other.read_bytes(), path
    assert not list((tmp_path / "twice").rglob(".*.img2img-blocks"))


@over(n_jobs=[1, 2])
def test_a_stop_ends_all_slides_between_two_blocks(tmp_path, monkeypatch, n_jobs):
    folder = slides(tmp_path / "in", "tone")
    equalizer = small_fit(folder, n_jobs=n_jobs)
    written, write = [], blocks.write_block

    def until(path, *rest):
        if len(written) >= 5:
            raise KeyboardInterrupt
        written.append(write(path, *rest))

    monkeypatch.setattr(blocks, "write_block", until)
    with pytest.raises(KeyboardInterrupt):
        equalizer.transform_table(folder, None, tmp_path / "out", max_megapixels=TINY, quality=False)
    finished = len(list((tmp_path / "out").rglob("[0-9]-*.tif")))
    assert 5 <= finished < 5 + n_jobs and not list((tmp_path / "out").rglob("*.ome.tif"))
    monkeypatch.setattr(blocks, "write_block", write)
    result = equalizer.transform_table(folder, None, tmp_path / "out", max_megapixels=TINY, quality=False)
    assert set(result["status"]) == {"done"} and not list((tmp_path / "out").rglob(".*.img2img-blocks"))


def test_what_cannot_be_done_is_said_of_the_file_alone(tmp_path, command_line):
    folder = slides(tmp_path / "in", "tone")
    small_fit(folder).save(tmp_path / "eq")
    with tifffile.TiffFile(folder / "B" / "2.ome.tif") as tiff:
        offset, count = tiff.pages[0].dataoffsets[5], tiff.pages[0].databytecounts[5]
    content = bytearray((folder / "B" / "2.ome.tif").read_bytes())
    content[offset : offset + count] = bytes([255]) * count
    (folder / "B" / "2.ome.tif").write_bytes(content)
    image = cells(np.random.default_rng(0), 1)
    np.save(folder / "A" / "array.npy", image)
    words = ("equalize", "transform", tmp_path / "eq", folder, "--out", tmp_path / "out", "--max-megapixels", TINY)
    code, out, err = command_line(*words)
    assert code == 1 and "2 failed" in out, (out, err)
    failed = [line for line in (out + err).splitlines() if line.startswith("failed")]
    assert any("2.ome.tif" in line and "damaged" in line for line in failed)
    assert any("array.npy" in line and "Save it as a TIFF" in line for line in failed)
    assert len(list((tmp_path / "out").rglob("*.tif"))) == 2 * SLIDES - 1
    assert command_line(*words)[0] == 1  # and once more, with the finished ones kept


def test_networks_take_whole_images(tmp_path):
    folder = slides(tmp_path / "in", "tone")
    local = BatchEqualizer("local", target="A", min_images=2)
    assert "local trains a network" in refused(ConfigError, local.fit_table, folder, max_megapixels=TINY)


# Checks and judgements


@pytest.fixture(scope="module")
def judged(fits, tmp_path_factory):
    """The model, slides that the equalizers were not fitted to, and these."""
    model, _, *equalizers = fits
    return (
        model,
        slides(tmp_path_factory.mktemp("judged") / "in", model, lambda image: np.roll(image, 7, 1)),
        equalizers,
    )


def test_slides_of_one_region_are_checked_and_judged_as_whole_images(judged):
    model, folder, (whole, regions) = judged
    held, manifest = Manifest.open(folder), Manifest.open(folder, max_megapixels=TINY)
    one, two = whole.check(held), regions.check(manifest)
    differences = [d for d in one.differences if not d.what.startswith("illumination")]
    assert differences == two.differences and (one.told, one.wells) == (two.told, two.wells)
    assert two.route == ("stain" if model == "stain" else "tone")  # nothing is said of the light of a region
    if model == "stain":  # for the others, the test below says it
        assert whole.evaluate(held).to_dict() == whole.evaluate(manifest).to_dict()


def test_slides_are_judged_by_regions_that_are_fields_of_them(judged, monkeypatch):
    _, folder, (equalizer, _) = judged
    monkeypatch.setattr(pieces, "COUNT", 3)
    monkeypatch.setattr(pieces, "EDGE", 64)
    seen = {}

    def spied(outputs, case, **options):
        seen.update(outputs=outputs[equalizer.model], case=case)

    monkeypatch.setattr(evaluating, "evaluate", spied)
    manifest = Manifest.open(folder, max_megapixels=TINY)
    equalizer.evaluate(manifest)
    case = seen["case"]
    images = [read_image(row[0], pages="channels").array.transpose(2, 0, 1) for row in manifest.files]
    whole = equalizer.transform(images, batch=manifest.batch)
    sides = {64, WIDTH % 64}  # and no strips of HEIGHT % 64, which is less than half
    assert {side for image in case.before for side in image.shape[1:]} == sides
    assert 2 * len(images) <= len(case.names) <= 3 * len(images) and len(set(case.group)) == len(images)
    for name, before, after in zip(case.names, case.before, seen["outputs"], strict=True):
        file, top, bottom, left, right = re.fullmatch(
            r"(.+), rows (\d+) to (\d+), columns (\d+) to (\d+)", name
        ).groups()
        (i,) = (i for i, row in enumerate(manifest.files) if row[0] == folder / file)
        region = ..., slice(int(top), int(bottom) + 1), slice(int(left), int(right) + 1)
        assert np.array_equal(images[i][region], before) and np.array_equal(whole[i][region], after), name
    assert equalizer.check(manifest).wells == {"A": SLIDES, "B": SLIDES}


def test_slides_of_the_fit_are_not_judged(fits, tmp_path):
    model, _, _, equalizer = fits
    copies = Manifest.open(slides(tmp_path / "copies", model), max_megapixels=TINY)
    assert f"{2 * SLIDES} of the images were part of the fit" in refused(DataError, equalizer.evaluate, copies)


def test_the_commands_take_slides(tmp_path, command_line):
    folder = slides(tmp_path / "in", "stain")
    small_fit(folder, "stain").save(tmp_path / "eq")
    others = slides(tmp_path / "others", "stain", lambda image: np.roll(image, 5, 0))
    limit = "--max-megapixels", TINY
    code, out, err = command_line("equalize", "check", folder, *limit)
    assert code == 0 and "Recommended: " in out, err
    code, out, err = command_line("equalize", "report", tmp_path / "eq", others, "--out", tmp_path / "r.html", *limit)
    assert code == 0, err
    shown = re.findall(
        r"[AB]/\d[\w.]+, rows (\d+) to (\d+), columns (\d+) to (\d+)", (tmp_path / "r.html").read_text("utf-8")
    )
    assert set(shown) == {("0", str(HEIGHT - 1), "0", str(WIDTH - 1))}
