"""Tables of images: what they may say, what is refused, and that results are the files they came from, corrected."""

import os
import threading
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tifffile
from conftest import refused
from helpers import over
from PIL import Image

from img2img.data.images import read_image, write_image
from img2img.data.picture import Picture
from img2img.errors import ConfigError, DataError, Img2ImgError, InputError, InputTypeError, TrainingError
from img2img.lab.checks import check_channels, check_dtype, check_finite
from img2img.lab.tables import destination, listing, results
from img2img.lab.tables.destination import Destination
from img2img.lab.tables.expressions import select
from img2img.lab.tables.folders import table_of_folder, table_of_names
from img2img.lab.tables.listing import LOCK
from img2img.lab.tables.manifest import Manifest
from img2img.lab.tables.results import transform
from img2img.lab.tables.sources import read_table


def pixels(*shape, dtype="uint16", seed=0):
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def write(path, array=None, seed=0):
    """Writes (H, W) or (H, W, C), by default 6 x 8 pixels of 16 bits."""
    array = pixels(6, 8, seed=seed) if array is None else array
    write_image(path, Picture(np.atleast_3d(array)))
    return path


def brighter(i, image):
    return image + 1, {"clipped": i / 10}


@pytest.fixture
def plates(tmp_path):
    """Two plates of two wells, two channels each; a table; their folder."""
    root = tmp_path / "root"
    rows = []
    for p in (1, 2):
        for well in ("A01", "B02"):
            names = {f"FileName_{c}": f"p{p}/{well}_{c}.tif" for c in ("DNA", "ER")}
            for k, name in enumerate(names.values()):
                write(root / name, seed=len(rows) * 2 + k)
            treatment = "DMSO" if well == "A01" else "drug"
            rows.append(
                names
                | {"Metadata_Plate": f"00{p}", "Metadata_Well": well, "Metadata_Treatment": treatment, "Note": "x"}
            )
    table = tmp_path / "root" / "plates.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    return table


# Opening


def test_a_table(plates):
    manifest = Manifest.open(plates, control="Metadata_Treatment == 'DMSO'", label="Metadata_Treatment")
    assert len(manifest) == 4 and manifest.batch == ["001", "001", "002", "002"]
    assert manifest.control.tolist() == [True, False, True, False]
    assert manifest.group == ["001/A01", "001/B02", "002/A01", "002/B02"]
    assert manifest.label == ["DMSO", "drug", "DMSO", "drug"] and manifest.channels == ["DNA", "ER"]
    assert manifest.dtype == np.uint16 and manifest.images[3].shape == (2, 6, 8) and len(manifest.images[1:]) == 3
    root = plates.parent
    expected = np.stack([tifffile.imread(root / "p2" / f"A01_{c}.tif") for c in ("DNA", "ER")])
    assert np.array_equal(manifest.read(2), expected)
    assert len(list(manifest.images)) == 4


def test_the_same_from_a_frame_and_from_tabs(plates, tmp_path):
    frame = pd.read_csv(plates, dtype=str)
    frame.to_csv(tmp_path / "root" / "plates.tsv", sep="\t", index=False)
    indexed = frame.set_index(np.array([5, 5, 7, 9]))
    before = indexed.copy(deep=True)
    for manifest in (Manifest.open(indexed, plates.parent), Manifest.open(plates.parent / "plates.tsv")):
        assert manifest.batch == ["001", "001", "002", "002"] and manifest.control is None is manifest.label
        assert manifest.read(3).shape == (2, 6, 8)
    pd.testing.assert_frame_equal(indexed, before)


def test_the_images_can_be_checked_like_a_stack(plates):
    images = Manifest.open(plates).images
    check_finite(images[0], images.called(0))
    check_dtype(images, "uint16")
    assert "The table holds uint16 values" in refused(InputTypeError, check_dtype, images, "uint8")
    assert "The table has 2 channels (DNA, ER)" in refused(InputError, check_channels, images, 3)
    path = plates.parent / "p1" / "A01_DNA.npy"
    write(path, np.array([[1, np.nan]], "float32"))
    frame = pd.DataFrame({"FileName_DNA": [path.name], "Metadata_Batch": ["a"]})
    images = Manifest.open(frame, path.parent).images
    says = refused(InputError, check_finite, images[0], images.called(0), images.names)
    assert "A01_DNA.npy has NaN in channel DNA, row 0, column 1" in says


def test_batch_control_and_group_from_columns_and_masks(plates):
    frame = pd.read_csv(plates, dtype=str).assign(day=[1, 1, 2, 2], ctrl=["True", "0", "1", "false"])
    frame = frame.drop(columns="Metadata_Plate")
    manifest = Manifest.open(frame, plates.parent, batch="day", control="ctrl", group="Note")
    assert manifest.batch == ["1", "1", "2", "2"] and manifest.group == ["x"] * 4
    assert manifest.control.tolist() == [True, False, True, False]
    assert Manifest.open(frame, plates.parent, "day").group[0] == "1/A01"
    assert Manifest.open(frame, plates.parent, "day", [1, 0, 0, 0]).control.tolist() == [True, False, False, False]
    plain = Manifest.open(frame.drop(columns="Metadata_Well"), plates.parent, "day")
    assert len(set(plain.group)) == 4
    says = refused(ConfigError, Manifest.open, frame, plates.parent)
    assert "neither Metadata_Batch nor Metadata_Plate; name the column of the batches, one of FileName_DNA" in says
    assert "Did you mean 'Metadata_Well'" in refused(ConfigError, Manifest.open, frame, plates.parent, "Metadata_Wel")
    says = refused(InputError, Manifest.open, frame, plates.parent, "day", "Metadata_Treatment")
    assert says == "Metadata_Treatment[0] is 'DMSO'; give True or False for each image."


def test_a_folder_of_batches(tmp_path):
    for name in ("b/x.tif", "a/deep/y.tif", "a/z.tif"):
        write(tmp_path / name)
    frame = table_of_folder(tmp_path)
    assert frame.FileName_Image.tolist() == ["a/deep/y.tif", "a/z.tif", "b/x.tif"]
    manifest = Manifest.open(tmp_path)
    assert manifest.batch == ["a", "a", "b"] and manifest.channels == ["Image"]
    transform(manifest, brighter, tmp_path / "out")
    assert Manifest.open(tmp_path).batch == ["a", "a", "b"]  # results are left out
    assert len(table_of_folder(tmp_path / "out")) == 3  # unless they are asked for
    write(tmp_path / "loose.tif")
    assert "loose.tif lies directly in" in refused(DataError, table_of_folder, tmp_path)


PHENIX = r"(?P<well>r\d+c\d+)f(?P<site>\d+)p\d+-ch(?P<channel>\d+)sk"
IMAGEXPRESS = r"(?P<plate>[^/]+)/.*_(?P<well>[A-P]\d\d)_s(?P<site>\d+)_(?P<channel>w\d)"


def test_names_of_a_phenix(tmp_path):
    for channel in (1, 2, 10):
        for site in ("01", "02"):
            write(tmp_path / f"r02c03f{site}p01-ch{channel}sk1fk1fl1.tiff")
    frame = table_of_names(tmp_path, PHENIX)
    assert frame.columns.tolist() == ["FileName_1", "FileName_2", "FileName_10", "Metadata_Well", "Metadata_Site"]
    assert frame.Metadata_Site.tolist() == ["01", "02"] and frame.Metadata_Well[0] == "r02c03"
    assert frame.FileName_10[1] == "r02c03f02p01-ch10sk1fk1fl1.tiff"


def test_names_of_an_imagexpress(tmp_path):
    for plate in ("p1", "p2"):
        for w in ("w1", "w2"):
            write(tmp_path / plate / f"exp_B02_s1_{w}3F2504E0.tif")
            write(tmp_path / plate / f"exp_B02_s1_{w}_thumb3F25.tif")
    manifest = Manifest.open(table_of_names(tmp_path, IMAGEXPRESS), tmp_path)
    assert manifest.batch == ["p1", "p2"] and manifest.group == ["p1/B02", "p2/B02"]
    assert manifest.channels == ["w1", "w2"] and manifest.read(1).shape == (2, 6, 8)


def test_names_without_a_channel(tmp_path):
    write(tmp_path / "p1_a.tif"), write(tmp_path / "p1_b.tif")
    frame = table_of_names(tmp_path, r"(?P<Batch>p\d)_")
    assert frame.to_dict("list") == {"FileName_Image": ["p1_a.tif", "p1_b.tif"], "Metadata_Batch": ["p1", "p1"]}


def test_names_that_do_not_fit(tmp_path):
    for site, channel in ((1, 1), (1, 2), (2, 1)):
        write(tmp_path / f"r02c03f{site}p01-ch{channel}sk1.tiff")
    says = refused(DataError, table_of_names, tmp_path, PHENIX)
    assert says.startswith("Files are missing below") and "channel 2 beside r02c03f2p01-ch1sk1.tiff" in says
    write(tmp_path / "r02c03f2p01-ch2sk1.tiff")
    assert len(table_of_names(tmp_path, PHENIX)) == 2
    write(tmp_path / "r02c03f2p02-ch2sk1.tiff")
    says = refused(DataError, table_of_names, tmp_path, PHENIX)
    assert "r02c03f2p01-ch2sk1.tiff and r02c03f2p02-ch2sk1.tiff are the same channel of one image" in says
    for k in range(5):
        write(tmp_path / f"Overview{k}.tif")
    says = refused(DataError, table_of_names, tmp_path, PHENIX)
    assert "do not match" in says and "Overview0.tif, Overview1.tif, Overview2.tif and 2 more; correct" in says
    assert "is not a regular expression" in refused(ConfigError, table_of_names, tmp_path, "(?P<a")
    assert "There is no folder" in refused(DataError, table_of_names, tmp_path / "nothing", "x")


def test_a_folder_of_nothing_but_results(tmp_path):
    write(tmp_path / "out" / "a" / "x.tif")
    (tmp_path / "out" / "equalized.csv").write_text("")
    assert "only holds the results" in refused(DataError, table_of_folder, tmp_path)


@over(
    "text says",
    [
        ("", "t.csv is not a table: it is empty."),
        ("FileName_DNA,Metadata_Batch\na.tif,1,2\n", "is not a comma-separated table"),
        ("FileName_DNA,FileName_DNA,Metadata_Batch\na.tif,a.tif,1\n", "has two columns called FileName_DNA"),
        ("FileName_DNA,Metadata_Batch\n", "The table has no rows"),
        ("FileName_DNA,Metadata_Batch\na.tif,1\n,1\n", "missing from the table: FileName_DNA in row 1; fill"),
        ("FileName_DNA,Metadata_Batch\na.tif,\n", "Metadata_Batch[0] is missing"),
        ("File_DNA,Metadata_Batch\na.tif,1\n", "it has File_DNA, Metadata_Batch"),
        ("FileName_,Metadata_Batch\na.tif,1\n", "needs a column FileName_<Channel>"),
    ],
)
def test_tables_that_are_none(tmp_path, text, says):
    (tmp_path / "t.csv").write_text(text)
    assert says in refused(Img2ImgError, Manifest.open, tmp_path / "t.csv")


def test_other_things_that_are_no_tables(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"FileName_DNA,\x81\x8d\n")
    assert "save it as CSV in UTF-8" in refused(DataError, Manifest.open, tmp_path / "t.csv")
    assert "No such file" in refused(DataError, Manifest.open, tmp_path / "none.csv")
    assert "not dict" in refused(ConfigError, Manifest.open, {})
    frame = pd.DataFrame({"FileName_DNA": ["a.tif"], "Metadata_Batch": [1]})
    assert "does not exist" in refused(DataError, Manifest.open, frame, tmp_path / "none")


def test_texts_stay_texts(tmp_path):
    (tmp_path / "t.csv").write_text("\ufeffFileName_DNA,Metadata_Batch,Metadata_x,\na.tif,007,NA,\n", encoding="utf-8")
    frame = read_table(tmp_path / "t.csv")
    assert frame.to_dict("records") == [{"FileName_DNA": "a.tif", "Metadata_Batch": "007", "Metadata_x": "NA"}]


def test_folders_in_the_table(tmp_path):
    write(tmp_path / "p1" / "sub" / "a.tif")
    frame = pd.DataFrame({"FileName_DNA": ["a.tif"], "PathName_DNA": ["p1\\sub"], "Metadata_Batch": ["x"]})
    assert Manifest.open(frame, tmp_path).read(0).shape == (1, 6, 8)
    absolute = frame.assign(PathName_DNA=str(tmp_path / "p1" / "sub"))
    manifest = Manifest.open(absolute, tmp_path)
    assert Destination(manifest, tmp_path / "out").targets == [(tmp_path / "out" / "p1" / "sub" / "a.tif",)]
    (tmp_path / "link").symlink_to(tmp_path / "p1")
    linked = Manifest.open(absolute, tmp_path / "link")
    assert Destination(linked, tmp_path / "out").targets == [(tmp_path / "out" / "sub" / "a.tif",)]
    table = transform(manifest, brighter, tmp_path / "out")
    assert "PathName_DNA" not in table and table.FileName_DNA[0] == "p1/sub/a.tif"
    assert np.array_equal(Manifest.open(tmp_path / "out" / "equalized.csv").read(0), manifest.read(0) + 1)


# Channels


def test_channels_of_files_with_several(tmp_path):
    write(tmp_path / "a.tif", pixels(6, 8, 3)), write(tmp_path / "b.tif", pixels(6, 8))
    frame = pd.DataFrame({"FileName_RGB": ["a.tif"], "FileName_DNA": ["b.tif"], "Metadata_Batch": ["x"]})
    manifest = Manifest.open(frame, tmp_path)
    assert manifest.channels == ["RGB_0", "RGB_1", "RGB_2", "DNA"] and manifest.read(0).shape == (4, 6, 8)
    single = Manifest.open(
        frame[["FileName_RGB", "Metadata_Batch"]].rename(columns={"FileName_RGB": "FileName_Image"}), tmp_path
    )
    assert single.channels == ["0", "1", "2"]
    transform(manifest, brighter, tmp_path / "out")
    assert np.array_equal(read_image(tmp_path / "out" / "a.tif").array, pixels(6, 8, 3) + 1)
    assert np.array_equal(read_image(tmp_path / "out" / "b.tif").array[..., 0], pixels(6, 8) + 1)


def test_some_of_the_channels(plates, tmp_path):
    manifest = Manifest.open(plates, channels=["ER"])
    assert manifest.channels == ["ER"] and np.array_equal(manifest.read(0), Manifest.open(plates).read(0)[1:])
    assert transform(manifest, brighter, tmp_path / "out").columns[3] == "FileName_ER"
    assert "Did you mean 'DNA'" in refused(ConfigError, Manifest.open, plates, channels=["DNAs"])


def test_ome_metadata_goes_through(tmp_path):
    image = pixels(3, 16, 20)
    names = ["DNA", "ER", "RNA"]
    metadata = {"axes": "CYX", "Channel": {"Name": names}, "PhysicalSizeX": 0.325, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        image,
        ome=True,
        metadata=metadata,
        resolution=(30769, 30769),
        resolutionunit="CENTIMETER",
    )
    frame = pd.DataFrame({"FileName_Image": ["a.ome.tif"], "Metadata_Batch": ["x"]})
    manifest = Manifest.open(frame, tmp_path)
    assert manifest.channels == names and np.array_equal(manifest.read(0), image)
    for dtype in ("uint16", "float32"):
        out = tmp_path / dtype
        transform(manifest, lambda i, image, dtype=dtype: ((image + 1).astype(dtype), {}), out)
        with tifffile.TiffFile(out / "a.ome.tif") as file:
            assert np.array_equal(file.asarray(), image + 1) and file.asarray().dtype == dtype
            assert 'PhysicalSizeX="0.325"' in file.ome_metadata and file.pages[0].resolution[0] == 30769
            assert file.series[0].axes == "CYX"
        assert Manifest.open(out / "equalized.csv", batch="Metadata_Batch").channels == names


def test_png_of_16_bits(tmp_path):
    write(tmp_path / "a.png", pixels(6, 8))
    manifest = Manifest.open(pd.DataFrame({"FileName_DNA": ["a.png"], "Metadata_Batch": ["x"]}), tmp_path)
    transform(manifest, brighter, tmp_path / "out")
    out = read_image(tmp_path / "out" / "a.png").array
    assert out.dtype == np.uint16 and np.array_equal(out[..., 0], pixels(6, 8) + 1)
    table = transform(manifest, lambda i, image: (image.astype("float32"), {}), tmp_path / "float")
    assert table.status[0] == "failed" and "PNG cannot hold float32 values" in table.error[0]


def test_rows_that_are_not_alike(plates):
    root = plates.parent
    write(root / "p1" / "B02_ER.tif", pixels(6, 8, dtype="uint8"))
    write(root / "p2" / "A01_ER.tif", pixels(6, 9))
    write(root / "p2" / "B02_ER.tif", pixels(6, 8, 2))
    manifest = Manifest.open(plates)
    says = refused(DataError, manifest.read, 1)
    assert "B02_ER.tif holds uint8 values, but" in says and "A01_DNA.tif holds uint16" in says
    says = refused(DataError, manifest.read, 2)
    assert "A01_ER.tif is 9x6, but" in says and "A01_DNA.tif is 8x6" in says
    assert "B02_ER.tif has 2 channels, but" in refused(DataError, manifest.read, 3)
    write(root / "p1" / "A01_DNA.tif", pixels(6, 8).astype("int32"))
    assert "A01_DNA.tif holds int32 values, but the supported types" in refused(
        InputTypeError, Manifest.open(plates).read, 0
    )


# Some of the rows, and labels


def test_only_rows_that_a_comparison_takes(plates):
    manifest = Manifest.open(plates, control="Metadata_Treatment == 'DMSO'", where="Metadata_Plate == '002'")
    assert manifest.group == ["002/A01", "002/B02"] and manifest.control.tolist() == [True, False]
    assert np.array_equal(manifest.read(0), Manifest.open(plates).read(2))
    masked = Manifest.open(plates, control=[1, 0, 0, 1], where="Metadata_Plate == '002'")
    assert masked.control.tolist() == [False, True]
    order = Manifest.open(plates, where="Metadata_Well in ['B02', 'A01'] and not Metadata_Plate == '003'")
    assert order.group == Manifest.open(plates).group
    says = refused(ConfigError, Manifest.open, plates, where="Metadata_Plate == '2'")
    assert says == "No row of the table is selected; \"Metadata_Plate == '2'\" is true for none of them."
    says = refused(InputError, Manifest.open, plates, where="Metadata_Plate")
    assert says == "Metadata_Plate[0] is '001'; give True or False for each image."
    frame = pd.read_csv(plates, dtype=str)
    frame.loc[0, ["FileName_DNA", "Metadata_Plate"]] = None  # of a row that is not taken
    assert len(Manifest.open(frame, plates.parent, where="Metadata_Plate == '002'")) == 2


def test_results_of_some_rows_never_land_on_files_of_the_others(tmp_path):
    for name in ("p1/x.tif", "p1/p1/x.tif"):
        write(tmp_path / "root" / name)
    frame = pd.DataFrame({"FileName_DNA": ["p1/x.tif", "p1/p1/x.tif"], "Metadata_Batch": ["a", "b"]})
    manifest = Manifest.open(frame, tmp_path / "root", where="Metadata_Batch == 'a'")
    says = refused(ConfigError, transform, manifest, brighter, tmp_path / "root" / "p1")
    assert "would overwrite the original" in says


@pytest.fixture
def labelled(plates):
    """The table with a column Labels."""
    frame = pd.read_csv(plates, dtype=str)
    frame["Labels"] = [f"labels\\{i}.tif" for i in range(4)]
    for i, dtype in enumerate(("uint8", "uint16", "int32", "uint16")):
        write(plates.parent / "labels" / f"{i}.tif", pixels(6, 8, seed=i).astype(dtype))
    return frame


def test_label_images(plates, labelled):
    masks = Manifest.open(labelled, plates.parent).masks("Labels")
    assert len(masks) == 4 == len(masks[:]) and [mask.dtype.name for mask in masks][2] == "int32"
    assert all(np.array_equal(mask, pixels(6, 8, seed=i)) for i, mask in enumerate(masks))
    some = Manifest.open(labelled, plates.parent, where="Metadata_Well == 'B02'").masks("Labels")
    assert np.array_equal(some[1], pixels(6, 8, seed=3)) and len(some) == 2


@over(
    "array says",
    [
        (pixels(6, 8, 3), "2.tif has 3 channels; a label image has one channel of integers, 0 for background."),
        (pixels(6, 8, dtype="float32"), "2.tif holds float32 values; a label image has one channel"),
        (pixels(6, 9), "2.tif is 9x6, but its image"),
        (pixels(8, 6), "2.tif is 6x8, but its image"),
    ],
)
def test_label_images_that_do_not_fit(plates, labelled, array, says):
    write(plates.parent / "labels" / "2.tif", array)
    masks = Manifest.open(labelled, plates.parent).masks("Labels")
    assert masks[1].shape == (6, 8) and says in refused(DataError, masks.__getitem__, 2)


def test_label_images_that_are_missing(plates, labelled):
    manifest = Manifest.open(labelled, plates.parent)
    assert "Did you mean 'Labels'" in refused(ConfigError, manifest.masks, "Label")
    (plates.parent / "labels" / "1.tif").unlink()
    assert "1.tif" in refused(DataError, manifest.masks("Labels").__getitem__, 1)
    labelled.loc[3, "Labels"] = None
    says = refused(DataError, Manifest.open(labelled, plates.parent).masks, "Labels")
    assert says == "Labels names no label image in row 3; fill it in, or leave these rows out with where=."


# Results


def test_results_have_the_names_of_their_files(plates, tmp_path):
    manifest, out, seen = Manifest.open(plates), tmp_path / "out", []
    table = transform(manifest, brighter, out, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("[!.]*.*")) == sorted(
        ["equalized.csv", *(f"p{p}/{w}_{c}.tif" for p in (1, 2) for w in ("A01", "B02") for c in ("DNA", "ER"))]
    )
    back = Manifest.open(out / "equalized.csv")
    assert back.batch == manifest.batch and back.group == manifest.group
    assert all(np.array_equal(back.read(i), manifest.read(i) + 1) and back.dtype == np.uint16 for i in range(4))
    assert table.columns.tolist() == [
        *("Metadata_Plate", "Metadata_Well", "Metadata_Treatment", "FileName_DNA", "FileName_ER"),
        *("clipped", "status", "error"),
    ]
    assert table.clipped.tolist() == [0, 0.1, 0.2, 0.3] and set(table.status) == {"done"} and set(table.error) == {""}
    assert read_table(out / "equalized.csv").Metadata_Plate[0] == "001"


def test_bad_files_are_collected(plates, tmp_path):
    root, out = plates.parent, tmp_path / "out"
    (root / "p1" / "A01_ER.tif").unlink()
    path = root / "p2" / "A01_DNA.tif"
    path.write_bytes(path.read_bytes()[:-40])
    (root / "p2" / "B02_ER.tif").write_text("no image")
    manifest = Manifest.open(plates)
    assert manifest.channels == ["DNA", "ER"]  # of the first row that can be read
    table = transform(manifest, brighter, out)
    assert table.status.tolist() == ["failed", "done", "failed", "failed"]
    assert "A01_ER.tif cannot be read: No such file" in table.error[0]
    assert "A01_DNA.tif" in table.error[2] and "B02_ER.tif is not in a format" in table.error[3]
    assert table.clipped.isna().tolist() == [True, False, True, True]
    assert not (out / "p1" / "A01_DNA.tif").exists() and len(list(out.rglob("*.tif"))) == 2
    assert [p.name for p in out.rglob(".*")] == [LOCK]
    write(root / "p1" / "A01_ER.tif")
    assert transform(manifest, brighter, out).status.tolist() == ["done", "kept", "failed", "failed"]


def test_odd_metadata_and_a_writer_that_fails(plates, tmp_path, monkeypatch):
    with tifffile.TiffFile(plates.parent / "p1" / "A01_ER.tif", mode="r+") as tiff:
        for name in ("XResolution", "YResolution"):
            tiff.pages[0].tags[name].overwrite((0, 0))
    known, calls = destination.FORMATS[".tif"], []

    def writer(*args):
        calls.append(args)
        if len(calls) == 3:
            raise ZeroDivisionError("Fraction(0, 0)")
        known.write(*args)

    monkeypatch.setitem(destination.FORMATS, ".tif", replace(known, write=writer))
    table = transform(Manifest.open(plates), brighter, tmp_path / "out")
    assert table.status.tolist() == ["done", "failed", "done", "done"]
    assert "B02_DNA.tif cannot be written as TIFF" in table.error[1] and "\n" not in table.error[1]


def test_no_row_can_be_read(plates, tmp_path):
    for path in plates.parent.rglob("*.tif"):
        path.unlink()
    manifest = Manifest.open(plates)
    assert "None of the 4 rows can be read; the first error:" in refused(DataError, lambda: manifest.channels)
    assert set(transform(manifest, brighter, tmp_path / "out").status) == {"failed"}


def test_a_function_that_refuses_an_image(plates, tmp_path):
    def function(i, image):
        if i == 1:
            raise DataError("Two\nlines.")
        return (image[:1], {}) if i == 2 else (image, {})

    table = transform(Manifest.open(plates), function, tmp_path / "out")
    assert table.status.tolist() == ["done", "failed", "failed", "done"]
    assert table.error[1].endswith("B02_DNA.tif: Two\\nlines.") and table.error[2].count(".tif") == 1
    assert "the result has the shape (1, 6, 8), but the image (2, 6, 8)" in table.error[2]


def test_a_rerun_does_what_is_missing_and_keeps_what_was_noted(plates, tmp_path):
    manifest, out, calls = Manifest.open(plates), tmp_path / "out", []

    def function(i, image):
        calls.append(i)
        return image + 1, {"clipped": 10 * i + len(calls), "flag": "ok"}

    transform(manifest, function, out)
    (out / "p1" / "B02_ER.tif").unlink()  # one of the two files of row 1
    table = transform(manifest, function, out)
    assert calls == [0, 1, 2, 3, 1] and table.status.tolist() == ["kept", "done", "kept", "kept"]
    assert table.clipped.tolist() == [1, 15, 23, 34] and table.flag.tolist() == ["ok"] * 4
    (out / "equalized.csv").unlink()
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert "is listed in no equalized.csv there" in refused(ConfigError, transform, manifest, function, out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert set(transform(manifest, function, out, overwrite=True).status) == {"done"} and len(calls) == 9
    assert set(transform(manifest, function, out, overwrite=True).status) == {"done"} and len(calls) == 13


@over(count=[0, 1, 3, 4, 7], n_jobs=[1, 2], ahead=[1, 3, 100])
def test_every_row_is_worked_on_once_and_counted(count, n_jobs, ahead, monkeypatch):
    monkeypatch.setattr(results, "AHEAD", ahead)
    worked = []
    assert list(results._each(worked.append, count, n_jobs, threading.Event())) == list(range(1, count + 1))
    assert sorted(worked) == list(range(count))


@over(n_jobs=[1, 2])
def test_an_interrupted_run_keeps_its_notes(plates, tmp_path, n_jobs):
    manifest, out = Manifest.open(plates), tmp_path / "out"

    def function(i, image):
        if i == 2:
            raise KeyboardInterrupt
        return brighter(i, image)

    with pytest.raises(KeyboardInterrupt):
        transform(manifest, function, out, n_jobs=n_jobs)
    assert (out / "p1" / "A01_ER.tif").is_file() and {0.0, 0.1} <= set(pd.read_csv(out / "equalized.csv").clipped)
    table = transform(manifest, brighter, out, n_jobs=n_jobs)
    assert table.status.tolist()[:3] == ["kept", "kept", "done"] and table.clipped.tolist() == [0, 0.1, 0.2, 0.3]


def test_several_threads_keep_the_order(plates, tmp_path):
    barrier = threading.Barrier(2, timeout=10)

    def function(i, image):
        barrier.wait()
        time.sleep(0.01 * (4 - i))
        return brighter(i, image)

    table = transform(Manifest.open(plates), function, tmp_path / "out", n_jobs=2)
    assert table.clipped.tolist() == [0, 0.1, 0.2, 0.3]
    assert "n_jobs must be" in refused(
        ConfigError, transform, Manifest.open(plates), brighter, tmp_path / "out", n_jobs=0
    )


def test_notes_are_saved_now_and_then(plates, tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "SAVE_EVERY", -1)
    counts = []

    def function(i, image):
        counts.append(len(pd.read_csv(tmp_path / "out" / "equalized.csv")))
        return image, {}

    transform(Manifest.open(plates), function, tmp_path / "out")
    assert counts == [0, 1, 2, 3]


def test_a_full_disk_stops_the_run(plates, tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(destination, "write_image", full)
    assert "is full" in refused(TrainingError, transform, Manifest.open(plates), brighter, tmp_path / "out")


def test_one_row_at_a_time(plates, tmp_path):
    manifest, out = Manifest.open(plates), tmp_path / "out"
    results_there = Destination(manifest, out)
    assert not results_there.holds(1)
    results_there.write(1, manifest.read(1) + 2, manifest.contents(1))
    assert results_there.holds(1) and not results_there.holds(0)
    assert np.array_equal(tifffile.imread(out / "p1" / "B02_ER.tif"), manifest.read(1)[1] + 2)


# Originals are safe


def untouched(root):
    return {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_results_never_land_on_originals(plates, tmp_path):
    root = plates.parent
    manifest, before = Manifest.open(plates), untouched(root)
    says = refused(ConfigError, transform, manifest, brighter, root)
    assert "is the folder of the originals; give another" in says
    assert "folder of the originals" in refused(ConfigError, transform, manifest, brighter, root / "p1" / "..")
    (tmp_path / "link").symlink_to(root)
    assert "folder of the originals" in refused(ConfigError, transform, manifest, brighter, tmp_path / "link")
    assert "folder of the originals" in refused(ConfigError, Destination, manifest, tmp_path / "link")
    out = tmp_path / "out"
    out.mkdir()
    (out / "p1").symlink_to(root / "p1")
    says = refused(ConfigError, transform, manifest, brighter, out, overwrite=True)
    assert "would overwrite the original" in says and "A01_DNA.tif" in says
    (out / "p1").unlink()
    (out / "p1").mkdir()
    (out / "p1" / "A01_DNA.tif").symlink_to(root / "p2" / "B02_ER.tif")
    assert "would overwrite the original" in refused(ConfigError, transform, manifest, brighter, out)
    (out / "p1" / "A01_DNA.tif").unlink()
    os.link(root / "p1" / "A01_DNA.tif", out / "p1" / "A01_DNA.tif")
    assert "would overwrite the original" in refused(ConfigError, transform, manifest, brighter, out, overwrite=True)
    (tmp_path / "file").write_text("")
    assert "is a file; give a folder" in refused(ConfigError, transform, manifest, brighter, tmp_path / "file")
    assert untouched(root) == before


def test_results_of_a_subset_never_land_on_the_rest_of_the_table(tmp_path):
    """The results of p1/x.tif below root/p1 would be root/p1/p1/x.tif, which is another original."""
    root = tmp_path / "root"
    for name in ("p1/x.tif", "p1/p1/x.tif"):
        write(root / name)
    frame = pd.DataFrame({"FileName_DNA": ["p1/x.tif", "p1/p1/x.tif"], "Metadata_Batch": ["a", "b"]})
    manifest = Manifest.open(frame, root)
    assert "would overwrite the original" in refused(ConfigError, transform, manifest, brighter, root / "p1")
    assert "would overwrite" in refused(ConfigError, Destination, manifest, root / "p1")


def test_the_table_is_not_overwritten(plates, tmp_path):
    frame = pd.read_csv(plates, dtype=str)
    (tmp_path / "out").mkdir()
    frame.to_csv(tmp_path / "out" / "equalized.csv", index=False)
    manifest = Manifest.open(tmp_path / "out" / "equalized.csv", plates.parent)
    assert "would overwrite the table" in refused(ConfigError, transform, manifest, brighter, tmp_path / "out")


def test_a_list_that_is_none(plates, tmp_path):
    frame, root = pd.read_csv(plates, dtype=str), plates.parent
    transform(Manifest.open(frame[:2], root), brighter, tmp_path / "out")
    grown = transform(Manifest.open(frame, root), brighter, tmp_path / "out")
    assert grown.status.tolist() == ["kept", "kept", "done", "done"]
    frame.to_csv(tmp_path / "out" / "equalized.csv", index=False)
    says = refused(ConfigError, transform, Manifest.open(frame, root), brighter, tmp_path / "out")
    assert "was not written by img2img" in says
    (tmp_path / "out" / "equalized.csv").write_text("")
    says = refused(DataError, transform, Manifest.open(frame, root), brighter, tmp_path / "out")
    assert "from an earlier run, cannot be read; delete it" in says


@over(name=["../outside.tif", "{root}/../outside.tif", "p1/../../outside.tif"])
def test_files_outside_the_root_are_read_and_never_written(plates, tmp_path, name):
    write(plates.parent.parent / "outside.tif")
    name = name.format(root=plates.parent)
    frame = pd.DataFrame({"FileName_DNA": [name], "Metadata_Batch": ["x"]})
    manifest = Manifest.open(frame, plates.parent)
    assert manifest.read(0).shape == (1, 6, 8)
    says = refused(DataError, transform, manifest, brighter, tmp_path / "a" / "b")
    assert "does not lie below" in says and "give a root that holds every file" in says
    assert "does not lie below" in refused(DataError, Destination, manifest, tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_two_files_never_share_a_result(plates, tmp_path):
    frame = pd.read_csv(plates, dtype=str)
    frame.loc[3, "FileName_ER"] = "p2/../p1/A01_ER.tif"
    manifest = Manifest.open(frame, plates.parent)
    assert "share the result" in refused(DataError, transform, manifest, brighter, tmp_path / "out")


@over("suffix says", [(".jpg", "is lossy"), (".webp", "is lossy"), (".xyz", "is not written")])
def test_formats_that_would_lose_values(tmp_path, suffix, says):
    if suffix != ".xyz":
        Image.fromarray(pixels(8, 8, 3, dtype="uint8")).save(tmp_path / f"a{suffix}")
    manifest = Manifest.open(pd.DataFrame({"FileName_RGB": [f"a{suffix}"], "Metadata_Batch": ["x"]}), tmp_path)
    assert says in (text := refused(DataError, transform, manifest, brighter, tmp_path / "out"))
    assert f"a{suffix}" in text and "convert the originals to TIFF or PNG" in text
    if suffix != ".xyz":
        assert manifest.read(0).shape == (3, 8, 8)  # it can be fitted, and looked at
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(plates, tmp_path):
    (tmp_path / "file").write_text("")
    says = refused(ConfigError, transform, Manifest.open(plates), brighter, tmp_path / "file" / "out")
    assert "equalized.csv cannot be written" in says


# Which rows are controls

FRAME = pd.DataFrame(
    {
        "Metadata_Treatment": ["DMSO", "drug", "water", None],
        "Metadata_Dose": ["0", "0.10", "3", ""],
        "Metadata_Replicate": [1, 2, 1, 2],
        "has space": ["a", "b", "a", "b"],
        "flag": [True, False, True, False],
        "Metadata_Day": ["2024-01-05", "2024-01-06", "2024-02-01", ""],
        "Metadata_Share": ["0,25", "0,5", "1", ""],
        "Metadata_Control": ["yes", "No", "0", "TRUE"],
    }
)


@over(
    "expression rows",
    [
        ("Metadata_Treatment == 'DMSO'", [0]),
        ('Metadata_Treatment == "DMSO"', [0]),
        ("  Metadata_Treatment in ['DMSO', 'water'] ", [0, 2]),
        ("Metadata_Treatment in ('DMSO', 'water')", [0, 2]),
        ("Metadata_Dose == 0.1", [1]),
        ("Metadata_Dose == '0.1'", []),
        ("Metadata_Dose in [0, 3] and Metadata_Replicate == 1", [0, 2]),
        ("Metadata_Replicate != 1", [1, 3]),
        ("Metadata_Replicate not in [1]", [1, 3]),
        ("not Metadata_Replicate == 1", [1, 3]),
        ("not (Metadata_Replicate == 1 and `has space` == 'a') or flag == True", [0, 1, 2, 3]),
        ("Metadata_Treatment == 'DMSO' or (Metadata_Replicate == 2 and Metadata_Dose == 0.1)", [0, 1]),
        ("`has space` == 'a'", [0, 2]),
        ("Metadata_Treatment == '`has space`' or `has space` == 'b'", [1, 3]),
        ("flag == True", [0, 2]),
        ("Metadata_Replicate == -1", []),
        (r"Metadata_Treatment == 'a\d'", []),
        ("Metadata_Treatment == 'None'", []),
        ("(Metadata_Treatment == 'DMSO') | (Metadata_Dose == 3)", [0, 2]),
        ("~(Metadata_Replicate == 1) & ~flag", [1, 3]),
        ("Metadata_Dose < 3", [0, 1]),
        ("Metadata_Dose <= 3 and Metadata_Dose > 0", [1, 2]),
        ("(Metadata_Replicate >= 2) & Metadata_Treatment.notna()", [1]),
        ("Metadata_Treatment.isna()", [3]),
        ("not Metadata_Treatment.isna() and flag", [0, 2]),
        ("Metadata_Treatment.str.startswith('d')", [1]),
        ("Metadata_Treatment.str.startswith(('DM', 'wat'))", [0, 2]),
        ("Metadata_Treatment.str.contains('r') & Metadata_Replicate.isin([1, 2])", [1, 2]),
        ("`has space`.isin(['b'])", [1, 3]),
        ("flag", [0, 2]),
        ("Metadata_Day < '2024-02-01'", [0, 1]),
        ("Metadata_Share > 0.4", [1, 2]),
        ("Metadata_Share == 0.5", [1]),
        ("Metadata_Control == True", [0, 3]),
        ("not Metadata_Control", [1, 2]),
    ],
)
def test_expressions(expression, rows):
    assert np.flatnonzero(select(FRAME, expression)).tolist() == rows


MALICIOUS = [
    "__import__('os').system('touch {mark}')",
    "Metadata_Treatment == __import__('os').system('touch {mark}')",
    "Metadata_Treatment == 'x' or __import__('os').system('touch {mark}')",
    "Metadata_Treatment in [__import__('os').system('touch {mark}')]",
    "@x",
    "Metadata_Treatment == @x",
    "@pd.io.common.os.system('touch {mark}')",
    "Metadata_Treatment.str.len() == 4",
    "Metadata_Treatment.__class__ == 'x'",
    "Metadata_Treatment == Metadata_Treatment.__class__",
    "(lambda: 0)() == 1",
    "[x for x in (1,)] == 1",
    "Metadata_Treatment == f'{open(1)}'",
    "Metadata_Treatment == 'a' if True else 1",
    "(x := 1) == 1",
    "Metadata_Treatment[0] == 'DMSO'",
    "Metadata_Treatment == 'DMSO'; import os",
    "import os",
    "Metadata_Treatment == b'DMSO'",
    "Metadata_Treatment == None",
    "Metadata_Treatment == 1j",
    "Metadata_Treatment == -'a'",
    "Metadata_Dose == 10 ** 10 ** 10",
    "Metadata_Dose == 1" + "0" * 400,
    "Metadata_Dose < 'a'",
    "Metadata_Dose < [3]",
    "0 < Metadata_Dose < 3",
    "Metadata_Dose + 1 < 3",
    "Metadata_Treatment.isin('DMSO')",
    "Metadata_Treatment.isin(__import__('os').system('touch {mark}'))",
    "Metadata_Treatment.isin([], **{{}})",
    "Metadata_Treatment.str.startswith()",
    "Metadata_Treatment.str.startswith(1)",
    "Metadata_Treatment.str.startswith('D', na=False)",
    "Metadata_Treatment.str.contains('D.*|(a+)+$')",
    "Metadata_Treatment.str.replace('D', 'E') == 'x'",
    "Metadata_Treatment.notna(1)",
    "Metadata_Treatment.query('1')",
    "Metadata_Treatment.apply(print)",
    "notna()",
    "~'DMSO'",
    "flag ^ flag",
    "flag + flag",
    "1 == 1",
    "'DMSO' == Metadata_Treatment",
    "Metadata_Treatment == 'DMSO' == 'DMSO'",
    "Metadata_Treatment == 'DMSO' & Metadata_Dose == 0",
    "Metadata_Treatment in 'DMSO'",
    "Metadata_Treatment in [['DMSO']]",
    "Metadata_Treatment in [*'ab']",
    "not " * 600 + "Metadata_Dose == 1",
    "(" * 900 + ")" * 900,
    "Metadata_Dose == 1 or " * 200 + "Metadata_Dose == 1",
    "\0",
    "",
    "Metadata_Treatment ==",
    "Metadata_Treatment = 'DMSO'",
]


@over(expression=MALICIOUS)
def test_expressions_that_are_refused_and_not_executed(expression, tmp_path, plates):
    mark = tmp_path / "executed"
    expression = expression.replace("{mark}", str(mark))
    says = refused(ConfigError, select, FRAME, expression)
    assert says.startswith("The expression ") and "is not valid; " in says and len(says) < 400
    refused(ConfigError, Manifest.open, plates, control=expression)
    assert not mark.exists()


def test_expressions_that_name_no_column_or_select_nothing(plates):
    assert "Unknown column 'Treatment'" in refused(ConfigError, select, FRAME, "Treatment == 'DMSO'")
    assert "Did you mean 'Metadata_Dose'" in refused(ConfigError, select, FRAME, "Metadata_Doze")
    assert "Unknown column 'has'" in refused(ConfigError, select, FRAME, "`has` == 1")
    for text in ("Metadata_Treatment != 'drug'", "not Metadata_Treatment == 'a'", "Metadata_Treatment not in ['a']"):
        assert "Metadata_Treatment has no entry in row 3" in refused(DataError, select, FRAME, text)
    says = refused(ConfigError, Manifest.open, plates, control="Metadata_Treatment == 'dmso'")
    assert "No row of the table is a control" in says


def test_expressions_whose_entries_cannot_be_decided():
    for text, says in (
        ("~Metadata_Treatment.str.startswith('D')", "Metadata_Treatment has no entry in row 3"),
        ("not Metadata_Dose < 1", "Metadata_Dose has no entry in row 3"),
        ("Metadata_Treatment < 3", "Metadata_Treatment is 'DMSO' in row 0, which is not a number"),
        ("Metadata_Treatment < '2024-01-01'", "Metadata_Treatment is 'DMSO' in row 0, which is not a date"),
    ):
        assert says in refused(DataError, select, FRAME, text)
    says = refused(DataError, select, pd.DataFrame({"Dose": ["0,1", "1,000"]}), "Dose < 2")
    assert says == "Dose has the entry '1,000', which can be read in two ways; write a point."
    says = refused(ConfigError, select, FRAME, "Metadata_Treatment == 'DMSO' & Metadata_Dose == 0")
    assert says.endswith("put each comparison beside & or | in parentheses, or join them by and, or.")
