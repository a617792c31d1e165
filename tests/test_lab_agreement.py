"""What files say of their pixels: names of channels, axes and pixel size, and what is refused because of it."""

from datetime import datetime

import numpy as np
import pandas as pd
import pytest
import tifffile
from conftest import refused
from helpers import over

from img2img import BatchEqualizer
from img2img.data.images import read_header, read_image
from img2img.errors import ConfigError, DataError, InputError, InputTypeError
from img2img.lab import LabWarning
from img2img.lab.checks import check_batch
from img2img.lab.tables.agreement import Agreement
from img2img.lab.tables.manifest import Manifest
from img2img.lab.tables.results import transform

pytestmark = pytest.mark.filterwarnings("ignore:Within .* drifts")  # in fields of noise one does so by chance

NAMES = ["DNA", "Actin"]
CONTROL = "Metadata_Plate in ['P1', 'P2']"


def fields(*shape, seed=0):
    """Dark images with bright squares, (..., H, W)."""
    rng = np.random.default_rng(seed)
    image = rng.normal(200, 5, shape)
    image[..., 4:9, 5:11] += rng.uniform(400, 600)
    return image.astype("uint16")


def write_ome(path, array, names=NAMES, size=0.65, unit="µm", axes="CYX"):
    metadata = {"axes": axes} | ({"Channel": {"Name": names}} if names else {})
    if size:
        metadata |= {"PhysicalSizeX": size, "PhysicalSizeY": size, "PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array, ome=True, photometric="minisblack", metadata=metadata)


def write_imagej(path, array, names=NAMES, size=0.65, unit="micron", axes="CYX"):
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"axes": axes, "unit": unit} | ({"Labels": names} if names else {})
    tifffile.imwrite(path, array, imagej=True, resolution=(1 / size, 1 / size), metadata=metadata)


def plates(root, write, of_p2, wells=8):
    """A table of two plates, whose files are written by `write(path, array)`, on P2 with the options `of_p2`."""
    rows = []
    for plate in ("P1", "P2"):
        for well in range(wells):
            name = f"{plate}/{well}.ome.tif" if write is write_ome else f"{plate}/{well}.tif"
            write(root / name, fields(2, 24, 24, seed=len(rows)), **(of_p2 if plate == "P2" else {}))
            rows.append({"FileName_Image": name, "Metadata_Plate": plate, "Metadata_Well": f"A{well}"})
    return pd.DataFrame(rows)


def fit(frame, root, **options):
    return BatchEqualizer(target="P1").fit_table(frame, root, control=CONTROL, **options)


# What files say


@over(unit=["µm", "nm", "mm", "pixel", None], write=[write_ome, write_imagej])
def test_names_and_pixel_sizes_are_read(tmp_path, unit, write):
    path = tmp_path / "x.tif"
    if unit == "µm" and write is write_imagej:
        unit = "\\u00B5m"  # as ImageJ spells it
    write(path, fields(2, 8, 8), size=0.5, **({"unit": unit} if unit else {}))
    factor = {"nm": 1e-3, "mm": 1e3, "pixel": None}.get(unit, 1.0)
    stated = read_header(path).stated
    assert stated == read_image(path).source.stated
    assert stated.channels == ("DNA", "Actin") and stated.axes == () == stated.lost
    assert stated.pixel_size is None if factor is None else np.allclose(stated.pixel_size, 0.5 * factor, rtol=1e-6)


@over(names=[["c:1/2 - x.tif", "c:2/2 - x.tif"], ["P1_A01.tif", "P1_A02.tif"], ["1", "2"], ["DNA", "DNA"], None])
def test_labels_of_slices_and_files_are_no_names(tmp_path, names):
    write_imagej(tmp_path / "x.tif", fields(2, 8, 8), names=names)
    assert read_header(tmp_path / "x.tif").stated.channels == ()


def test_what_is_not_kept_is_said(tmp_path):
    path, image = tmp_path / "x.ome.tif", fields(2, 64, 64)
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(image, subifds=1, tile=(32, 32), photometric="minisblack", metadata={"axes": "CYX"})
        writer.write(image[:, :25, :25], subfiletype=1, tile=(16, 16), photometric="minisblack")
    manifest = Manifest.open(pd.DataFrame({"FileName_Image": ["x.ome.tif"], "Metadata_Batch": ["a"]}), tmp_path)
    lost = "smaller copies of the image that are not levels of a whole factor"
    assert read_header(path).stated.lost == (lost,)
    assert transform(manifest, lambda i, x: (x, {}), tmp_path / "out").not_kept.tolist() == [lost]
    tifffile.imwrite(path, image, photometric="minisblack", compression="jpeg2000")
    assert read_header(path).stated.lost == ("JPEG2000 compression, which becomes deflate",)


# What must agree

SWAPPED = {"names": NAMES[::-1]}
OTHERS = {"names": ["DNA", "Tubulin"]}
NEARER = {"size": 0.325}


ORDER = "these are in another order, so save it again with its channels in the order [1, 0]."


@over(
    "of_p2 says",
    [
        (SWAPPED, f"P2/0 has the channels Actin, DNA, but P1/0 has the channels DNA, Actin; {ORDER}"),
        (OTHERS, "P2/0 has the channels DNA, Tubulin, but P1/0 has the channels DNA, Actin; give all rows the same"),
        (NEARER, "P2/0 has pixels of 0.325 µm, but P1/0 has pixels of 0.65 µm; give images of one magnification"),
    ],
    write=[write_ome, write_imagej],
)
def test_a_plate_that_disagrees_is_refused_and_its_rows_fail(tmp_path, of_p2, says, write):
    frame = plates(tmp_path / "in", write, of_p2)

    def short(text):
        return text.replace(f"{tmp_path / 'in'}/", "").replace(".ome.tif", "").replace(".tif", "")

    assert says in short(refused(DataError, fit, frame, tmp_path / "in"))
    good = plates(tmp_path / "good", write, {})
    equalizer = fit(good, tmp_path / "good")
    assert equalizer.fitted_.stated == NAMES and np.allclose(equalizer.fitted_.pixel_size, 0.65)
    equalizer.save(tmp_path / "eq")
    equalizer = BatchEqualizer.load(tmp_path / "eq")
    assert equalizer.fitted_.stated == NAMES and np.allclose(equalizer.fitted_.pixel_size, 0.65)
    for order in (frame, frame[::-1]):  # whichever comes first
        table = equalizer.transform_table(order, tmp_path / "in", tmp_path / f"out{order.index[0]}")
        assert (table.status == "failed").tolist() == (order.Metadata_Plate == "P2").tolist()
        assert "but the equalizer was fitted to" in table.error[table.status == "failed"].iloc[0]
    held_out = frame.assign(Metadata_Well="B1")
    assert says.split("; ")[1] in refused(DataError, equalizer.evaluate_table, held_out, tmp_path / "in")
    later = Manifest.open(frame[8:].assign(Metadata_Plate="P3"), tmp_path / "in")
    refused(DataError, equalizer.add_batch, "P3", later)
    table = equalizer.transform_table(frame, tmp_path / "in", tmp_path / "all", metadata="ignore")
    assert set(table.status) == {"done"}
    assert fit(frame, tmp_path / "in", metadata="ignore").n_images_ == {"P1": 8, "P2": 8}


@over(of_p2=[{"names": ["dna", "actin"]}, {"names": None}, {"size": 0}, {"size": 0.6501}, {"names": None, "size": 0}])
def test_what_files_do_not_say_and_spelling_do_not_matter(tmp_path, of_p2):
    frame = plates(tmp_path, write_ome, of_p2)
    for order in (frame, frame[::-1]):
        equalizer = fit(order, tmp_path)
        table = equalizer.transform_table(order, tmp_path, tmp_path / f"out{order.index[0]}")
        assert set(table.status) == {"done"} and [name.casefold() for name in equalizer.channels_] == ["dna", "actin"]


def test_a_file_per_channel_that_is_another_channel(tmp_path):
    rows = []
    for plate, names in (("P1", ("Hoechst", "Phalloidin")), ("P2", ("Phalloidin", "Hoechst"))):
        for column, name in zip(NAMES, names, strict=True):
            write_ome(tmp_path / f"{plate}_{column}.ome.tif", fields(1, 8, 8), [name])
        rows.append({f"FileName_{c}": f"{plate}_{c}.ome.tif" for c in NAMES} | {"Metadata_Plate": plate})
    manifest = Manifest.open(pd.DataFrame(rows), tmp_path)
    assert manifest.read(0).shape == (2, 8, 8) and manifest.channels == NAMES
    assert manifest.agreement.names(2) == ["Hoechst", "Phalloidin"]
    says = refused(DataError, manifest.read, 1)
    assert "P2_DNA.ome.tif has the channel Phalloidin, but" in says and "has the channel Hoechst; give all" in says


def test_names_of_an_equalizer_fitted_to_arrays_or_saved_before(tmp_path):
    frame, stack = plates(tmp_path, write_ome, {}), [fields(2, 24, 24, seed=i) for i in range(16)]
    equalizer = BatchEqualizer(target="P1", channels=NAMES[::-1])
    equalizer.fit(stack, batch=["P1"] * 8 + ["P2"] * 8, control=[True] * 16)
    assert equalizer.fitted_.stated is None
    table = equalizer.transform_table(frame, tmp_path, tmp_path / "out")
    assert (
        set(table.status) == {"failed"} and "but the equalizer was fitted to the channels Actin, DNA" in table.error[0]
    )


# Axes


@over(
    "axes shape says",
    [
        ("ZCYX", (3, 2, 8, 8), "x.tif has 3 planes of Z, and an image has one of each; project them"),
        ("TCYX", (3, 2, 8, 8), "x.tif has 3 time points, and"),
        ("TZCYX", (2, 3, 2, 8, 8), "x.tif has 2 time points and 3 planes of Z, and"),
        ("ZYX", (3, 8, 8), "x.tif has 3 planes of Z, and"),
    ],
    write=[write_ome, write_imagej],
)
def test_z_and_t_are_no_channels_unless_asked_for(tmp_path, axes, shape, says, write):
    write(tmp_path / "x.tif", fields(*shape), axes=axes, names=None)
    frame = pd.DataFrame({"FileName_Image": ["x.tif"], "Metadata_Batch": ["a"]})
    for read in (lambda: Manifest.open(frame, tmp_path).read(0), lambda: Manifest.open(frame, tmp_path).channels):
        assert says in refused(DataError, read) and "pages='channels' (--pages channels)" in refused(DataError, read)
    manifest = Manifest.open(frame, tmp_path, pages="channels")
    assert manifest.read(0).shape == (np.prod(shape[:-2]), 8, 8) and manifest.channels[:2] == ["0", "1"]
    assert transform(Manifest.open(frame, tmp_path), lambda i, x: (x, {}), tmp_path / "out").status[0] == "failed"


def test_series_and_pages_of_arrays_are_no_channels(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif", ome=True) as writer:
        for k in range(2):
            writer.write(fields(2, 8, 8), photometric="minisblack", metadata={"axes": "CYX", "Name": f"scene {k}"})
    np.save(tmp_path / "x.npy", fields(3, 8, 8, 2))
    for name, says in (("x.tif", "has 2 images (series)"), ("x.npy", "has 3 pages")):
        frame = pd.DataFrame({"FileName_Image": [name], "Metadata_Batch": ["a"]})
        assert says in refused(DataError, Manifest.open(frame, tmp_path).read, 0)
        assert Manifest.open(frame, tmp_path, pages="channels").read(0).shape[1:] == (8, 8)


def test_pages_of_unknown_meaning_are_channels_with_a_note(tmp_path):
    def write(path, array):
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, array, photometric="minisblack", metadata=None)

    frame = plates(tmp_path, write, {})
    with pytest.warns(LabWarning, match="taken for channels"):
        notes = fit(frame, tmp_path).notes_
    assert sum("does not state what its 2 pages are" in note and "taken for channels" in note for note in notes) == 1


def test_more_channels_than_an_equalizer_takes(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", fields(65, 8, 8), photometric="minisblack", metadata={"axes": "CYX"})
    frame = pd.DataFrame({"FileName_Image": ["x.tif"], "Metadata_Batch": ["a"]})
    says = refused(DataError, Manifest.open(frame, tmp_path).read, 0)
    assert "makes 65 channels, and an equalizer takes at most 64" in says


@over(shape=[(3, 64, 64), (40, 64, 64), (12, 30, 40), (2, 4, 20, 20)], suffix=[".npy", ".npz"])
def test_an_array_with_its_channels_first_is_refused(tmp_path, shape, suffix):
    path = tmp_path / f"x{suffix}"
    np.save(path, fields(*shape)) if suffix == ".npy" else np.savez(path, fields(*shape))
    for read in (read_header, read_image):
        says = refused(DataError, read, path)
        assert f"holds an array of shape {shape}" in says and f"np.moveaxis(array, {len(shape) - 3}, -1)" in says
    last = np.moveaxis(fields(*shape), -3, -1)
    np.save(path, last) if suffix == ".npy" else np.savez(path, last)
    assert read_image(path).array.shape == last.shape


def test_types_that_are_not_taken_are_explained_for_files(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", fields(8, 8).astype("int16"))
    frame = pd.DataFrame({"FileName_DNA": ["x.tif"], "Metadata_Batch": ["a"]})
    says = refused(InputTypeError, lambda: Manifest.open(frame, tmp_path).channels)
    assert says.endswith("; save all images of the table as uint16 if all values are from 0 to 65535, or else float32.")


def test_the_first_to_say_it_sets_it():
    agreement = Agreement()
    assert agreement.names(3) == ["", "", ""] and agreement.pixel_size is None
    agreement.expect(["a", "", "c"], None)
    assert agreement.names(3) == ["a", "", "c"] and agreement.names(2) == ["", ""]


# Values and names


@over(value=[np.nan, np.inf])
def test_holes_are_refused_by_file_and_place_or_left_in_place(tmp_path, value):
    images, rows = np.random.default_rng(0).normal(200, 5, (16, 24, 24)).astype("float32"), []
    images[:, 4:12, 5:14] += 500
    images[8:] *= 0.8
    bad = images.copy()
    bad[9, 7, 6] = value
    for i, image in enumerate(bad):
        tifffile.imwrite(tmp_path / f"{i}.tif", image)
        tifffile.imwrite(tmp_path / f"good{i}.tif", images[i])
        rows.append({"FileName_DNA": f"{i}.tif", "Metadata_Plate": f"P{i // 8 + 1}"})
    frame = pd.DataFrame(rows)
    place = f"has {'NaN' if np.isnan(value) else 'infinity'} in channel DNA, row 7, column 6"
    says = refused(DataError, fit, frame, tmp_path)
    assert f"{tmp_path / '9.tif'} (batch P2) {place.replace('DNA', '0')}" in says
    equalizer = fit(frame.assign(FileName_DNA="good" + frame.FileName_DNA), tmp_path)
    table = equalizer.transform_table(frame, tmp_path, tmp_path / "out")
    assert table.status.tolist().count("failed") == 1 and f"9.tif: Row 9 {place}" in table.error[9]
    masked = equalizer.transform_table(frame, tmp_path, tmp_path / "masked", nan="mask")
    assert set(masked.status) == {"done"} and np.isfinite(masked.change).all()
    out = tifffile.imread(tmp_path / "masked" / "9.tif")
    assert np.array_equal(out[7, 6], value, equal_nan=True) and np.isfinite(out).sum() == out.size - 1
    alone = equalizer.transform(bad[9][None, None], batch="P2", nan="mask")
    assert np.array_equal(out[None, None], alone, equal_nan=True)
    says = refused(ConfigError, equalizer.transform_table, frame, tmp_path, tmp_path / "x", nan="x")
    assert "Unknown value of nan" in says
    assert place in refused(DataError, equalizer.evaluate_table, frame.assign(Metadata_Well="B1"), tmp_path)
    others = {"batch": ["P1"] * 8 + ["P2"] * 8, "truth": bad[:, None]}
    assert "Image 9 of truth has" in refused(DataError, equalizer.evaluate, images[:, None] + 1, **others)


def test_all_files_that_are_missing_are_named(tmp_path):
    frame = plates(tmp_path, write_ome, {})
    for name in ("P1/3", "P2/5"):
        (tmp_path / f"{name}.ome.tif").unlink()
    says = refused(DataError, fit, frame, tmp_path)
    assert says.startswith(f"2 images cannot be used ({tmp_path}/P1/3.ome.tif, {tmp_path}/P2/5.ome.tif): ")
    assert says.endswith("3.ome.tif cannot be read: No such file or directory.")


def test_spaces_and_midnight_are_no_part_of_a_name():
    days = pd.Series(pd.to_datetime(["2024-01-05", "2024-01-06"]))
    for entries in (days, days.dt.tz_localize("CET"), days.to_numpy(), days.tolist(), ["2024-01-05", "2024-01-06 "]):
        assert check_batch(entries, 2) == ["2024-01-05", "2024-01-06"]
    assert check_batch(["P1", " P1 ", 1.0, "1"], 4) == ["P1", "P1", "1", "1"]
    assert check_batch([datetime(2024, 1, 5, 12, 30)], 1) == ["2024-01-05 12:30:00"]
    assert "batch[1] is missing" in refused(InputError, check_batch, ["P1", " "], 2)
    assert "batch[1] is missing" in refused(InputError, check_batch, pd.Series([days[0], pd.NaT]), 2)
    frame = pd.DataFrame({"FileName_DNA": ["a.tif"] * 2, "Metadata_Plate": ["P1", "P1 "]})
    assert Manifest.open(frame).batch == ["P1", "P1"]
