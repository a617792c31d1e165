"""Training on squares of large images: where they are, that they are the pixels, and that nothing depends on chance."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from conftest import refused
from helpers import assert_equal, at_step, over, terminate
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from stores import put, write_array, write_store
from torch.utils.data import DataLoader

import img2img
from img2img.core.needs import Needs
from img2img.data import patches
from img2img.data.finding import find_domains
from img2img.data.options import DataConfig, ImagesConfig, LabelledConfig
from img2img.data.regions import open_regions
from img2img.data.samples import open_samples
from img2img.data.zarr_regions import open_zarr_regions
from img2img.errors import ConfigError, DataError, InputError, Interrupted

PAIRS, ONE = Needs(("a", "b"), paired=True), Needs(("image",))
UNPAIRED, LABELS = Needs(("a", "b")), Needs(("image",), labels=True)


def slide(height=150, width=210, seed=0):
    """Noise in the upper left half, glass beside it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    tissue = rng.integers(0, 180, (height, width, 3))
    return np.where((y / height + x / width < 1)[..., None], tissue, 245).astype(np.uint8)


def write_tiff(path, array, levels=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"photometric": "rgb" if array.ndim == 3 else "minisblack", "tile": (32, 48), "compression": "deflate"}
    with tifffile.TiffWriter(path) as writer:
        for i in range(levels):
            writer.write(array[:: 2**i, :: 2**i].copy(), subfiletype=int(i > 0), metadata=None, **options)
    return path


def write_zarr(folder, array, version="0.4", **options):
    axes = ["c", "y", "x"]
    values = np.ascontiguousarray(np.moveaxis(np.atleast_3d(array), -1, 0))
    datasets = [{"path": "0"}, {"path": "1"}]
    put(folder, version, multiscales=[{"axes": axes, "datasets": datasets}])
    for i in range(2):
        write_array(folder / str(i), values[:, :: 2**i, :: 2**i], version, chunks=(1, 32, 48), **options)
    return folder


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Folders a and b of two slides each, of the same names and sizes: TIFF with levels, and OME-Zarr."""
    root = tmp_path_factory.mktemp("slides")
    for k, name in enumerate("ab"):
        write_tiff(root / name / "1.tif", slide(seed=k))
        write_zarr(root / name / "2.zarr", slide(180, 140, seed=10 + k))
    return root


def config(slides, region=48, size=32, **options):
    return DataConfig(
        a=str(slides / "a"), b=str(slides / "b"), size=size, region_size=region, augment="dihedral", **options
    )


def test_the_squares_are_those_with_tissue_and_their_pixels(slides):
    domains = find_domains(PAIRS, config(slides)).train
    assert len(domains["a"]) == len(domains["b"]) > 12
    for key, k in (("a", 0), ("b", 1)):
        whole = {"1.tif": slide(seed=k), "2.zarr": slide(180, 140, seed=10 + k)}
        for i, patch in enumerate(domains[key].sources):
            full = whole[patch.path.name]
            expected = full[patch.top : patch.top + 48, patch.left : patch.left + 48]
            np.testing.assert_array_equal(domains[key].load(i), expected, strict=True)
            assert domains[key].size(i) == (48, 48)
            other = domains["b" if key == "a" else "a"].sources[i]
            assert (patch.path.name, patch.top, patch.left) == (other.path.name, other.top, other.left)
    found = {(p.path.name, p.top, p.left) for p in domains["a"].sources}
    for name, (height, width) in {"1.tif": (150, 210), "2.zarr": (180, 140)}.items():
        rows, columns = ([*range(0, n - 48, 48), n - 48] for n in (height, width))
        squares = {(name, top, left) for top in rows for left in columns}
        shown = {s for s in squares if s[1] / height + s[2] / width < 0.9}  # the corner next to the tissue is inside
        assert shown <= found and not {s for s in found if s[0] == name} - squares
    assert ("1.tif", 102, 162) not in found and domains["a"].name(3).endswith(" at row 0, column 144")


def test_other_types_count_as_tissue_everywhere(tmp_path):
    for name in ("1.tif", "2.tif"):
        write_tiff(tmp_path / name, np.zeros((64, 96), np.uint16) + 7)
    train = open_samples(ONE, ImagesConfig(data=str(tmp_path), size=32, region_size=32)).train
    assert len(train) == 12 and train.channels == {"image": 1}


def test_samples_depend_on_seed_and_number_alone(slides):
    one, two = (open_samples(PAIRS, config(slides), seed=3).train for _ in range(2))
    numbers = list(range(2 * len(one)))
    first = [one[n] for n in numbers]
    for n in reversed(numbers):
        assert all(torch.equal(two[n][key], first[n][key]) for key in "ab")
    uncached = open_samples(PAIRS, config(slides, cache_mb=0), seed=3).train
    with ThreadPoolExecutor(4) as pool:
        assert all(
            torch.equal(x["a"], y["a"]) for x, y in zip(pool.map(uncached.__getitem__, numbers), first, strict=True)
        )
    again = pickle.loads(pickle.dumps(uncached))
    assert torch.equal(again[5]["b"], first[5]["b"])
    other = open_samples(PAIRS, config(slides), seed=4).train
    assert not all(torch.equal(other[n]["a"], first[n]["a"]) for n in numbers)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_read_the_same(slides):
    samples = open_samples(PAIRS, config(slides, cache_mb=0), seed=3).train
    here = [samples[n]["a"] for n in range(16)]  # files are open here when workers are forked
    loader = DataLoader(samples, batch_size=None, sampler=range(16), num_workers=2)
    assert all(torch.equal(x["a"], y) for x, y in zip(loader, here, strict=True))


def test_few_files_of_a_thread_stay_open(slides, tmp_path, monkeypatch):
    monkeypatch.setattr(patches, "MAX_OPEN", 2)
    for i in range(5):
        write_tiff(tmp_path / f"{i}.tif", slide(64, 64, seed=i))
    domain = find_domains(ONE, ImagesConfig(data=str(tmp_path), size=32, region_size=32)).train["image"]
    here = Path("/proc/self/fd")
    before = len(list(here.iterdir())) if here.is_dir() else 0
    for i in (*range(len(domain)), *range(len(domain))):
        domain.load(i)
    assert not before or len(list(here.iterdir())) <= before + 2
    with ThreadPoolExecutor(1) as pool:
        patches._kept.process = None  # as after a fork
        assert pool.submit(domain.load, 0).result().shape == (32, 32, 3)


def test_held_out_slides_are_whole(tmp_path):
    for name in "ab":
        for i in range(4):
            write_tiff(tmp_path / name / f"{i}.tif", slide(100, 100, seed=i))
    found = find_domains(PAIRS, config(tmp_path, val_fraction=0.25))
    for key in "ab":
        train, held = ({s.path.name for s in part[key].sources} for part in (found.train, found.heldout))
        assert len(held) == 1 and len(train) == 3 and not train & held
    assert [s.path.name for s in found.heldout["a"].sources] == [s.path.name for s in found.heldout["b"].sources]
    says = refused(ConfigError, find_domains, PAIRS, config(tmp_path, val_fraction=0.01))
    assert "0.01 of the 4 images of domain A, which are held out whole, leaves too few" in says


def test_classes_of_slides(tmp_path):
    for name in ("healthy", "ill"):
        write_tiff(tmp_path / name / "1.tif", slide(100, 100))
    options = {"data": str(tmp_path), "size": 32, "region_size": 50, "augment": "none"}
    domain = find_domains(LABELS, LabelledConfig(**options)).train["image"]
    assert [domain.labels[i] == (s.path.parent.name == "ill") for i, s in enumerate(domain.sources)] == [True] * 6
    (tmp_path / "t.csv").write_text("file,label\nhealthy/1.tif,x\nill/1.tif,y\nill/2.tif,y\n")
    found = find_domains(LABELS, LabelledConfig(**options, labels=str(tmp_path / "t.csv")))
    assert found.classes == ("x", "y") and any("1 row of" in note for note in found.notes)


@over(version=["0.4", "0.5"], shard=[False, True])
def test_regions_of_zarr(tmp_path, version, shard):
    if shard and version == "0.4":
        pytest.skip("Zarr 2 has no shards")
    array = slide(90, 120)
    folder = write_zarr(tmp_path / "x.zarr", array, version, shard=shard)
    with open_zarr_regions(folder) as image:
        assert [(level.height, level.width, level.downsample) for level in image.levels] == [(90, 120, 1), (45, 60, 2)]
        for level, step in ((0, 1), (1, 2)):
            small = array[::step, ::step]
            for rows, columns in (((0, 1), (0, 1)), ((31, 33), (3, 59)), ((0, len(small)), (0, small.shape[1]))):
                np.testing.assert_array_equal(image.read(rows, columns, level), small[slice(*rows), slice(*columns)])
        assert "is not inside" in refused(InputError, image.read, (0, 91), (0, 5))
        if not shard:
            chunk = folder / "0" / ("0.0.0" if version == "0.4" else "c/0/0/0")
            chunk.write_bytes(b"\xff" * 20)
            with open_regions(folder) as damaged:
                assert "cannot be decoded near row 3" in refused(DataError, damaged.read, (3, 5), (3, 5))
                np.testing.assert_array_equal(damaged.read((40, 60), (50, 60)), array[40:60, 50:60])
    for name, content in (("1", "{}"), ("0", "[]")):  # the smaller level is left out, the largest is missed
        (folder / name / (".zarray" if version == "0.4" else "zarr.json")).write_text(content)
        if name == "1":
            with open_zarr_regions(folder) as image:
                assert len(image.levels) == 1
    says = refused(DataError, find_domains, ONE, ImagesConfig(data=str(tmp_path), size=32, region_size=32))
    assert "x.zarr is damaged: its header cannot be decoded (OME-Zarr)" in says
    write_store(tmp_path / "z.zarr", np.zeros((2, 3, 20, 20), "uint16"))
    with pytest.raises(DataError, match="has 3 Z; regions can be read of single images"):
        open_zarr_regions(tmp_path / "z.zarr").__enter__()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_part_of_an_array(tmp_path, data):
    from img2img.data.zarr import ZarrArray

    shard = data.draw(st.booleans())
    values = np.random.default_rng(0).integers(0, 99, (2, 1, 40, 50)).astype("uint16")
    folder = tmp_path / f"{shard}"
    if not folder.exists():
        write_array(folder, values, "0.5", chunks=(1, 1, 16, 16), shard=shard)
    ends = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in values.shape]
    place = tuple(slice(a, b) for a, b in ends)
    if all(s.start < s.stop for s in place):
        np.testing.assert_array_equal(ZarrArray.open(folder).part(place), values[place], strict=True)


# What is refused


def test_what_cannot_be_cut(tmp_path, slides):
    small = tmp_path / "small"
    write_tiff(small / "x.tif", slide(40, 90))
    says = refused(DataError, find_domains, ONE, ImagesConfig(data=str(small), size=32, region_size=48))
    assert "x.tif is 90x40, smaller than a region of 48 pixels; use a smaller --region-size" in says
    glass = tmp_path / "glass"
    write_tiff(glass / "x.tif", np.full((90, 90, 3), 245, np.uint8))
    says = refused(DataError, find_domains, ONE, ImagesConfig(data=str(glass), size=32, region_size=32))
    assert "glass/x.tif: no region of 32 pixels shows tissue; remove what has none" in says
    write_tiff(tmp_path / "c" / "1.tif", slide(160, 210))
    write_zarr(tmp_path / "c" / "2.zarr", slide(180, 140))
    options = {"a": str(slides / "a"), "b": str(tmp_path / "c"), "size": 32, "region_size": 48}
    assert "1 pairs differ in size" in refused(DataError, find_domains, PAIRS, DataConfig(**options))
    assert len(find_domains(UNPAIRED, DataConfig(**options)).train["b"]) > 12
    Image.new("RGB", (99, 99)).save(small / "y.png")
    says = refused(DataError, find_domains, ONE, ImagesConfig(data=str(small), size=32, region_size=32))
    assert "y.png cannot be read by region" in says


@over(
    "options, sentence",
    [
        ({"ab": "{a}"}, "not for the side-by-side pairs of"),
        ({"a": "{a}", "b": "{b}", "pages": "channels"}, "so --pages channels has no effect; leave it out"),
    ],
)
def test_options_that_do_not_go_together(slides, options, sentence):
    options = {name: value.format(a=slides / "a", b=slides / "b") for name, value in options.items()}
    says = refused(ConfigError, find_domains, PAIRS, DataConfig(size=32, region_size=48, **options))
    assert sentence in says


def test_a_number_of_regions_is_spread_over_slides_and_tissue(tmp_path):
    """All of a small slide, and the same number of the larger ones, whose squares cover their tissue."""
    for name in "ab":
        for i, edge in enumerate((96, 512, 512)):
            array = np.zeros((edge, edge, 3), np.uint8) + 90
            array[: edge // 4] = 245  # glass
            write_tiff(tmp_path / name / f"{i}.tif", array)
    found = {seed: find_domains(PAIRS, config(tmp_path, 32, regions=50), seed) for seed in (0, 0, 1)}
    for split in found.values():
        a, b = (split.train[key].sources for key in "ab")
        places = [(p.path.name, p.top, p.left) for p in a]
        assert places == [(p.path.name, p.top, p.left) for p in b] and len(set(places)) == 50
        assert split.notes[-1] == "50 of 393 and 50 of 393 regions are used, by --regions 50."
        names = [name for name, _, _ in places]
        assert [names.count(f"{i}.tif") for i in range(3)] in ([9, 20, 21], [9, 21, 20])
        for name in ("1.tif", "2.tif"):
            quarters = {(top // 128, left // 128) for n, top, left in places if n == name}
            assert quarters == {(y, x) for y in (1, 2, 3) for x in range(4)}  # each holds 16 of 192 squares
    assert len({tuple((p.path.name, p.top, p.left) for p in split.train["a"].sources) for split in found.values()}) == 2
    again = find_domains(PAIRS, config(tmp_path, 32, regions=50), 1)
    assert again.train["a"].identity() == found[1].train["a"].identity()
    few = find_domains(UNPAIRED, config(tmp_path, 32, regions=2, val_fraction=0.3), 5)
    assert len(few.train["a"]) == len(few.train["b"]) == 2
    assert len(few.heldout["a"]) in (9, 192)  # held-out slides are whole


def test_a_number_of_regions_without_effect(slides):
    says = refused(ConfigError, find_domains, PAIRS, config(slides, region=0, regions=9))
    assert "--regions counts the squares of --region-size, which is missing" in says
    says = refused(ConfigError, find_domains, PAIRS, config(slides, regions=900))
    assert "--regions 900 has no effect on 21 and 21 regions; use fewer, or leave it out." in says
    says = refused(ConfigError, find_domains, ONE, ImagesConfig(size=16, regions=9), data=np.zeros((4, 16, 16)))
    assert "which is missing" in says


def test_arrays_are_not_cut():
    images = np.zeros((4, 32, 32), np.uint8)
    says = refused(ConfigError, find_domains, ONE, ImagesConfig(size=32, region_size=16), data=images)
    assert "--region-size is for folders of large images; arrays and idx files are small" in says


# Training


@pytest.mark.slow
def test_a_run_on_slides_resumes_bit_equal(slides, tmp_path, monkeypatch):
    options = {"a": slides / "a", "b": slides / "b", "size": 32, "region_size": 48, "augment": "dihedral", "steps": 4}
    options |= {"width": 4, "d_width": 4, "discriminator": "patch_16", "generator": "resnet_3", "device": "cpu"}
    options |= {"precision": "fp32", "quiet": True, "save_every": 2, "val_fraction": 0.5, "cache_mb": 0}
    img2img.train("cyclegan", out=tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        at_step(patch, "cyclegan", 2, terminate)
        with pytest.raises(Interrupted):
            img2img.train("cyclegan", out=tmp_path / "parts", **options)
    img2img.train("cyclegan", out=tmp_path / "parts", **options)
    one, two = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "parts"))
    assert_equal(one, two)
    assert img2img.evaluate(tmp_path / "whole", device="cpu").rows
