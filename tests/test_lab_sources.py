"""Tables as labs have them: JUMP's and CellProfiler's, of spreadsheets and databases, of other machines, and frames."""

import datetime
import gzip
import json
import sqlite3
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import refused
from helpers import over

from img2img import BatchEqualizer
from img2img.data.images import write_image
from img2img.data.picture import Picture
from img2img.errors import ConfigError, DataError, InputError
from img2img.lab import LabWarning
from img2img.lab.tables import formats
from img2img.lab.tables.manifest import Manifest
from img2img.lab.tables.paths import moves_of, rest_of, slashed
from img2img.lab.tables.results import transform
from img2img.lab.tables.sources import tidy

CONTROL = "Metadata_Treatment == 'DMSO'"


@pytest.fixture
def lab(tmp_path):
    """Two plates of three wells, of the channels DNA and ER: their frame, and the folder of the files."""
    entries, rng = [], np.random.default_rng(0)
    for plate in ("P1", "P2"):
        for well in ("A01", "A02", "B01"):
            names = {c: f"{plate}/{well}_{c}.tif" for c in ("DNA", "ER")}
            for name in names.values():
                write_image(tmp_path / name, Picture(rng.integers(0, 900, (24, 24, 1)).astype("uint16")))
            entry = {f"FileName_{c}": name for c, name in names.items()}
            entry |= {"Metadata_Plate": plate, "Metadata_Well": well}
            entries.append(entry | {"Metadata_Treatment": "DMSO" if well[0] == "A" else "2,4-D"})
    return SimpleNamespace(frame=pd.DataFrame(entries), root=tmp_path)


def is_same(manifest, lab):
    """Whether a manifest is the one of the lab."""
    expected = [tuple(lab.root / row[f"FileName_{c}"] for c in ("DNA", "ER")) for _, row in lab.frame.iterrows()]
    assert manifest.columns == ["DNA", "ER"] and manifest.batch == ["P1"] * 3 + ["P2"] * 3
    assert manifest.group[1] == "P1/A02" and manifest.control.tolist() == [True, True, False] * 2
    assert [[p.resolve() for p in row] for row in manifest.files] == [[p.resolve() for p in row] for row in expected]
    return manifest.read(0).shape == (2, 24, 24)


# Text


@over(
    "name options",
    [
        ("comma.csv", {}),
        ("semicolon.csv", {"sep": ";"}),
        ("tab.csv", {"sep": "\t"}),
        ("tab.tsv", {"sep": "\t"}),
        ("bar.txt", {"sep": "|"}),
        ("mark.csv", {"encoding": "utf-8-sig"}),
        ("unicode.txt", {"encoding": "utf-16", "sep": "\t"}),
        ("unmarked.csv", {"encoding": "utf-16-le"}),
        ("mac.csv", {"lineterminator": "\r"}),
        ("windows.csv", {"lineterminator": "\r\n"}),
        ("quoted.csv", {"quoting": 1, "sep": ";"}),
        ("packed.csv.gz", {}),
        ("packed.csv.xz", {}),
        ("table", {}),
    ],
)
def test_text_of_every_spreadsheet(lab, name, options):
    lab.frame.to_csv(lab.root / name, index=False, **options)
    manifest = Manifest.open(lab.root / name, control=CONTROL)
    assert is_same(manifest, lab) and manifest.notes == []


def test_what_excel_adds_to_text(lab):
    path = lab.root / "plates.csv"
    text = lab.frame.to_csv(index=False, sep=";")
    path.write_text("sep=;\n" + text + ";" * 4 + "\n\n")
    assert is_same(Manifest.open(path, control=CONTROL), lab)
    path.write_text(lab.frame.to_csv(index=False).replace(",Metadata", ", Metadata").replace("DNA,F", "DNA, F"))
    assert is_same(Manifest.open(path, control=CONTROL), lab)
    decimal = lab.frame.assign(Metadata_Dose=["0,5", "0", "1,5"] * 2)
    decimal.to_csv(path, index=False, sep=";")
    assert len(Manifest.open(path, where="Metadata_Dose < 1.2")) == 4


def test_windows_letters_are_read_and_noted(lab):
    path = lab.root / "plates.csv"
    lab.frame.assign(Metadata_Dose="1 µM").to_csv(path, index=False, encoding="cp1252")
    manifest = Manifest.open(path, control=CONTROL)
    assert is_same(manifest, lab) and manifest.frame.Metadata_Dose[0] == "1 µM"
    assert manifest.notes == [f"{path} is not in UTF-8 and was read as Windows-1252: check the letters µ."]


@over(
    "content says",
    [
        (b"a;b,c\n1;2,3\n", "could be separated by comma or by semicolon; make its first line sep=,"),
        (b"FileName_DNA,Metadata_Plate\na,b,c\n", "is not a comma-separated table"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x0d", "nor Parquet, Excel or SQLite; save it as CSV in UTF-8"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is a workbook of an old Excel (.xls); save it as .xlsx or CSV"),
        (b"\x1f\x8b\x08\0nothing", "cannot be unpacked"),
        (b"SQLite format 3\0" + b"x" * 99, "cannot be read as SQLite"),
        (b"", "is not a table: it is empty"),
    ],
)
def test_files_that_are_no_tables(tmp_path, content, says):
    (tmp_path / "t.csv").write_bytes(content)
    assert says in refused(DataError, Manifest.open, tmp_path / "t.csv")


def test_a_table_that_unpacks_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "MAX_BYTES", 1000)
    with gzip.open(tmp_path / "bomb.csv.gz", "wb") as file:
        file.write(b"FileName_DNA,Metadata_Plate\n" * 10**5)
    assert "too large for a table of images" in refused(DataError, Manifest.open, tmp_path / "bomb.csv.gz")
    monkeypatch.setattr(formats, "MAX_BYTES", 2**30)
    monkeypatch.setattr(formats, "MAX_CELLS", 1000)
    says = refused(DataError, Manifest.open, tmp_path / "bomb.csv.gz")
    assert says.endswith("bomb.csv.gz has 99999 rows of 2 columns, too many for a table of images.")


# Databases and workbooks


def database(path, frame, table="Image"):
    connection = sqlite3.connect(path)
    frame.to_sql(table, connection, index=False, if_exists="replace")
    connection.close()
    return path


def test_a_database_is_read_only_and_its_table_is_found(lab):
    path = database(lab.root / "load_data.sqlite", lab.frame)
    before = path.read_bytes()
    assert is_same(Manifest.open(path, control=CONTROL), lab)
    database(path, lab.frame.add_prefix("Image_"), "Expt_Per_Image")  # CellProfiler's own export
    for name in ("", "::Image", "::Expt_Per_Image"):
        assert is_same(Manifest.open(f"{path}{name}", control=CONTROL), lab)
    assert "Did you mean 'Image'" in refused(ConfigError, Manifest.open, f"{path}::Imag")
    other = database(lab.root / "other.sqlite", lab.frame, 'odd"; DROP TABLE x; --')
    assert is_same(Manifest.open(other, control=CONTROL), lab)
    database(other, lab.frame, "b")
    says = refused(ConfigError, Manifest.open, other)
    assert "has 2 tables (" in says and says.endswith('name one, as in other.sqlite::odd"; DROP TABLE x; --.')
    assert sqlite3.connect(other).execute("SELECT count(*) FROM b").fetchone() == (6,)
    assert before[:16] == path.read_bytes()[:16] and not list(lab.root.glob("*-journal"))


def test_a_view_is_code_and_not_offered(lab):
    path = database(lab.root / "t.sqlite", lab.frame, "files")
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE VIEW Image AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT * FROM n"
    )
    connection.commit()
    connection.close()
    assert is_same(Manifest.open(path, control=CONTROL), lab)
    assert "Unknown table" in refused(ConfigError, Manifest.open, f"{path}::Image")
    path.chmod(0o400)
    assert is_same(Manifest.open(path, control=CONTROL), lab)


def test_a_workbook(lab):
    pytest.importorskip("openpyxl")
    path = lab.root / "plates.xlsx"
    frame = lab.frame.assign(Metadata_Day=pd.Timestamp(2024, 1, 5), Metadata_Site=1, Metadata_Plate_Number="007")
    with pd.ExcelWriter(path) as book:
        frame.to_excel(book, sheet_name="plates", index=False)
        pd.DataFrame().to_excel(book, sheet_name="Sheet2")
    manifest = Manifest.open(path, control=CONTROL)
    assert is_same(manifest, lab)
    assert manifest.frame.iloc[0, -3:].astype(str).tolist() == ["2024-01-05", "1", "007"]
    twice = pd.concat([frame, frame[["FileName_DNA"]]], axis=1)
    twice.to_excel(lab.root / "twice.xlsx", index=False)
    assert "two columns called FileName_DNA" in refused(DataError, Manifest.open, lab.root / "twice.xlsx")
    with pd.ExcelWriter(path, mode="a") as book:
        frame[:4].to_excel(book, sheet_name="other", index=False)
    says = refused(ConfigError, Manifest.open, path)
    assert "has 2 sheets (plates, other); name one, as in plates.xlsx::plates." in says
    assert len(Manifest.open(f"{path}::other")) == 4
    path.write_bytes(path.read_bytes()[:900])
    assert "cannot be read as an Excel workbook" in refused(DataError, Manifest.open, path)


def test_parquet(lab, monkeypatch):
    pytest.importorskip("pyarrow")
    path = lab.root / "load_data.parquet"
    lab.frame.assign(Day=datetime.date(2024, 1, 5)).set_index("Metadata_Plate").to_parquet(path)
    manifest = Manifest.open(path, control=CONTROL)
    assert is_same(manifest, lab) and manifest.frame.Day[0] == "2024-01-05"
    assert "leave out ::Image" in refused(ConfigError, Manifest.open, f"{path}::Image")
    monkeypatch.setattr(formats, "MAX_CELLS", 10)
    assert "too many" in refused(DataError, Manifest.open, path)
    path.write_bytes(path.read_bytes()[:200])
    assert "cannot be read as Parquet" in refused(DataError, Manifest.open, path)


@over("start package", [(b"PAR1", "pyarrow"), (b"PK\x03\x04", "openpyxl")])
def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch, start, package):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "t").write_bytes(start)
    says = refused(ConfigError, Manifest.open, tmp_path / "t")
    assert says.endswith(f"needs {package}. Install it with: pip install 'img2img-gan[lab]'.")


# Several files


def in_parts(lab, folder, name="part-0.parquet", **columns):
    """Write the plates of a lab below a folder, each into a folder of its own; return the folder."""
    for plate, rows in lab.frame.groupby("Metadata_Plate"):
        inside = folder / f"Metadata_Plate={plate}"
        inside.mkdir(parents=True)
        rows = rows.drop(columns="Metadata_Plate").assign(**columns)
        rows.to_parquet(inside / name) if name.endswith("parquet") else rows.to_csv(inside / name, index=False)
    return folder


def test_a_parquet_folder(lab):
    pytest.importorskip("pyarrow")
    folder = in_parts(lab, lab.root / "tables")
    for name in ("_SUCCESS", ".part-0.parquet.crc", "_metadata.parquet"):
        (folder / name).write_bytes(b"x")
    manifest = Manifest.open(folder, control=CONTROL)  # whose files lie beside it
    assert is_same(manifest, lab) and manifest.notes == [] and len(manifest.tables) == 2
    plain = lab.root / "plain"
    plain.mkdir()
    for i in range(3):
        lab.frame[2 * i : 2 * i + 2].to_parquet(plain / f"part.{i}.parquet")
    assert is_same(Manifest.open(plain, control=CONTROL), lab)
    assert "leave out ::Image" in refused(ConfigError, Manifest.open, f"{lab.root}::Image")
    nameless = folder / "Metadata_Plate=__HIVE_DEFAULT_PARTITION__"
    (folder / "Metadata_Plate=P2").rename(nameless)
    assert "Metadata_Plate[3] is missing" in refused(InputError, Manifest.open, folder)
    nameless.rename(folder / "Metadata_Plate=P%202")
    assert Manifest.open(folder).batch == ["P 2"] * 3 + ["P1"] * 3
    lab.frame.to_parquet(folder / "Metadata_Plate=P1" / "part-0.parquet")
    says = refused(DataError, Manifest.open, folder)
    assert "lies in Metadata_Plate=P1, but has other values of Metadata_Plate; correct one" in says


def test_a_table_for_each_plate(lab, tmp_path):
    own = lab.frame.assign(**{f"FileName_{c}": lab.frame[f"FileName_{c}"].str[3:] for c in ("DNA", "ER")})
    for plate, rows in own.groupby("Metadata_Plate"):
        rows.assign(PathName_ER=".").to_csv(lab.root / plate / "load_data.csv", index=False)
    manifest = Manifest.open(lab.root / "*" / "load_data.csv", control=CONTROL)
    assert is_same(manifest, lab) and manifest.root == lab.root
    assert set(transform(manifest, lambda i, image: (image, {}), tmp_path / "out").status) == {"done"}
    for plate, rows in lab.frame.groupby("Metadata_Plate"):
        rows.to_csv(lab.root / plate / "load_data.csv", index=False)
    assert is_same(Manifest.open(lab.root / "**" / "load_data.csv", lab.root, control=CONTROL), lab)
    (lab.root / "P2" / "load_data.csv").rename(lab.root / "P2" / "equalized.csv")
    manifest = Manifest.open(lab.root / "P*" / "*.csv", lab.root, control=CONTROL)
    says = refused(ConfigError, transform, manifest, lambda i, image: (image, {}), lab.root / "P2")
    assert "would overwrite the table" in says and "equalized.csv" in says


def test_several_tables_that_are_not_one(lab):
    folder = in_parts(lab, lab.root / "tables", "t.csv")
    assert is_same(Manifest.open(folder, control=CONTROL), lab)
    path = folder / "Metadata_Plate=P2" / "t.csv"
    pd.read_csv(path).drop(columns="FileName_ER").assign(Metadata_Dose=1).to_csv(path, index=False)
    says = refused(DataError, Manifest.open, folder)
    assert "t.csv has Metadata_Dose and lacks FileName_ER, unlike" in says and says.count(". ") == 0
    (folder / "other.tsv").write_text("x")
    says = refused(ConfigError, Manifest.open, folder)
    assert "tables holds 2 .csv and 1 .tsv; say which are the table with a pattern in quotes" in says
    assert "No table matches" in refused(DataError, Manifest.open, lab.root / "*.xlsx")
    assert "is not a pattern of files" in refused(DataError, Manifest.open, lab.root / "tables" / "x**y" / "t.csv")
    (lab.root / "empty").mkdir()
    assert "contains no images" in refused(DataError, Manifest.open, lab.root / "empty")


# Columns


def test_illumination_functions_are_no_channels(lab):
    frame = lab.frame.assign(FileName_IllumDNA="x.npy", FileName_IllumER="y.npy", FileName_Illuminated="P1/A01_DNA.tif")
    manifest = Manifest.open(frame, lab.root)
    assert manifest.columns == ["DNA", "ER", "Illuminated"]
    assert manifest.notes == [
        "FileName_IllumDNA, FileName_IllumER are taken for illumination functions and not for channels."
    ]
    chosen = Manifest.open(frame, lab.root, channels="ER, IllumDNA")
    assert chosen.columns == ["ER", "IllumDNA"] and chosen.notes == []
    only = frame[["FileName_IllumDNA", "Metadata_Plate"]]
    assert Manifest.open(only, lab.root).columns == ["IllumDNA"]


@pytest.mark.filterwarnings("ignore::img2img.lab.notes.LabWarning")
def test_channels_are_chosen_in_every_place(lab, tmp_path):
    jump = lab.frame.rename(columns={"FileName_DNA": "FileName_OrigDNA", "FileName_ER": "FileName_OrigER"})
    assert Manifest.open(jump, lab.root, channels=["ER"]).columns == ["OrigER"]
    manifest = Manifest.open(jump, lab.root, control=CONTROL)
    equalizer = BatchEqualizer(channels=["OrigER"], target="P1", min_images=2).fit(manifest)
    assert equalizer.channels_ == ["OrigER"]
    out = equalizer.transform_table(jump, lab.root, tmp_path / "out")
    assert "FileName_OrigDNA" not in out and (tmp_path / "out" / "P1" / "A01_ER.tif").is_file()
    equalizer = BatchEqualizer(target="P1", min_images=2)
    assert equalizer.fit_table(jump, lab.root, control=CONTROL, channels="DNA").channels_ == ["OrigDNA"]
    assert set(equalizer.transform_table(jump, lab.root, tmp_path / "two", channels="DNA").status) == {"done"}
    refused(InputError, equalizer.transform_table, jump, lab.root, tmp_path / "three")
    assert "Unknown channel 'RNA'" in refused(ConfigError, BatchEqualizer(channels=["RNA"]).fit, manifest)
    single = lab.frame.drop(columns="FileName_ER").rename(columns={"FileName_DNA": "FileName_Image"})
    says = refused(ConfigError, BatchEqualizer(channels=["DNA"]).fit, Manifest.open(single, lab.root))
    assert "the only one is FileName_Image, whose files have the channels Image; leave channels out" in says
    assert "name each channel once" in refused(ConfigError, Manifest.open, jump, lab.root, channels="ER,OrigER")


def test_columns_that_are_nearly_channels(lab):
    frame = lab.frame.rename(columns={"FileName_DNA": "filename_dna"})
    assert "The column filename_dna is not read" in Manifest.open(frame, lab.root).notes[0]
    both = pd.concat([lab.frame, lab.frame.rename(columns={"FileName_DNA": "FileName_dna"})])
    assert "FileName_DNA and FileName_dna differ only in their case" in refused(
        ConfigError, Manifest.open, both, lab.root
    )


def test_exports_of_cellprofiler(lab):
    frame = lab.frame.add_prefix("Image_").assign(ImageNumber=range(6))
    assert is_same(Manifest.open(frame, lab.root, control=CONTROL), lab)
    urls = {f"URL_{c}": [(lab.root / n).as_uri() for n in lab.frame[f"FileName_{c}"]] for c in ("DNA", "ER")}
    bare = lab.frame.drop(columns=["FileName_DNA", "FileName_ER"]).assign(**urls)
    assert is_same(Manifest.open(bare, lab.root, control=CONTROL), lab)
    last = {f"FileName_{c}": [n.split("/")[1] for n in lab.frame[f"FileName_{c}"]] for c in ("DNA", "ER")}
    assert is_same(Manifest.open(bare.assign(**last), lab.root, control=CONTROL), lab)


@over(
    "objects numbers",
    [
        (["Nuclei", "Cells"], True),
        (["Nuclei"], True),
        (["Nuclei", "Cells"], False),
    ],
)
def test_objects_of_cellprofiler(lab, objects, numbers):
    """Tables that ExportToSpreadsheet writes: of several objects with two rows of names, or of the image alone."""
    columns = [("Image", "ImageNumber", list(range(6)))]
    columns += [("Image", name, lab.frame[name].str.replace(",", "").tolist()) for name in lab.frame]
    rows = [0, 0, 0, 1, 2, 2, 3, 4, 5, 5] if numbers else range(6)
    table = {(owner, name): [values[i] for i in rows] for owner, name, values in columns}
    table |= {(objects[0], "ObjectNumber"): range(len(rows))} if numbers else {}
    table |= {(name, "AreaShape_Area"): range(len(rows)) for name in objects}
    names = [[owner for owner, _ in table], [name for _, name in table]][len(objects) == 1 :]
    lines = [*names, *zip(*table.values(), strict=True)]
    path = lab.root / "objects.csv"
    path.write_text("\n".join(",".join(map(str, line)) for line in lines) + "\n")
    manifest = Manifest.open(path, control=CONTROL)
    assert is_same(manifest, lab)
    assert ("Nuclei_AreaShape_Area" in manifest.frame) != numbers
    says = f"{path} has a row for each of 10 objects, which are on 6 images; images without objects are not in it."
    assert manifest.notes == ([says] if numbers else [])


def test_any_column_of_files(lab):
    frame = lab.frame.rename(columns={"FileName_DNA": "path"}).drop(columns="FileName_ER")
    manifest = Manifest.open(frame, lab.root, file_column="path")
    assert manifest.columns == ["Image"] and manifest.read(0).shape == (1, 24, 24)
    assert Manifest.open(lab.frame, lab.root, file_column="FileName_ER").columns == ["ER"]
    assert "Did you mean 'path'" in refused(ConfigError, Manifest.open, frame, lab.root, file_column="paths")
    assert "the column of the files named by file_column" in refused(ConfigError, Manifest.open, frame, lab.root)


def test_a_row_per_file(lab, tmp_path):
    long = lab.frame.melt(
        ["Metadata_Plate", "Metadata_Well", "Metadata_Treatment"], ["FileName_DNA", "FileName_ER"], "stain", "path"
    )
    long = long.assign(stain=long.stain.str[9:], exposure=range(12), Site=1)
    manifest = Manifest.open(long, lab.root, control=CONTROL, file_column="path", channel_column="stain")
    assert is_same(manifest, lab) and "exposure" not in manifest.frame and "Site" in manifest.frame
    assert set(transform(manifest, lambda i, image: (image, {}), tmp_path / "out").status) == {"done"}
    gaps = long.assign(Metadata_Dose=[np.nan, 0.5, 1] * 4, Lot=[None, "a", "b"] * 4)
    gaps = Manifest.open(gaps, lab.root, control=CONTROL, file_column="path", channel_column="stain")
    assert is_same(gaps, lab) and {"Metadata_Dose", "Lot"} <= set(gaps.frame)
    folders = long.assign(PathName_x=long.Metadata_Plate, FileName_x=long.path.str[3:]).drop(columns="path")
    assert is_same(Manifest.open(folders, lab.root, control=CONTROL, channel_column="stain"), lab)
    for broken, says in (
        (pd.concat([long, long[:1]]), "are the same channel of one image by stain and Metadata_Plate, Metadata_Well"),
        (long[1:], "Files are missing: channel DNA beside P1/A01_ER.tif; add them."),
        (long.assign(stain=[None, *long.stain[1:]]), "stain has no entry in row 0; fill it in."),
    ):
        assert says in refused(DataError, Manifest.open, broken, lab.root, file_column="path", channel_column="stain")
    says = refused(ConfigError, Manifest.open, long, lab.root, channel_column="stain")
    assert "channel_column='stain' needs the column of the files: give file_column" in says


@pytest.mark.filterwarnings("ignore::img2img.lab.notes.LabWarning")
def test_the_column_of_the_batches_is_said(lab):
    frame = lab.frame.assign(Metadata_Batch="B1")
    manifest = Manifest.open(frame, lab.root)
    assert manifest.batch_column == "Metadata_Batch"
    assert manifest.notes == [
        "The batches are those of Metadata_Batch (1), not of Metadata_Plate (2); batch names another column."
    ]
    says = refused(InputError, BatchEqualizer().fit, manifest)
    assert says.startswith("There is only one batch, B1, in the column Metadata_Batch; if Metadata_Plate tells them")
    assert says.endswith("apart, use it: --batch Metadata_Plate.")
    assert Manifest.open(frame, lab.root, batch="Metadata_Plate").notes == []
    equalizer = BatchEqualizer(min_images=2)
    with pytest.warns(LabWarning, match="not of Metadata_Plate"):
        equalizer.fit_table(frame.assign(Metadata_Batch=list("ababab")), lab.root, control=[1, 1, 1, 1, 1, 1])
    assert any("not of Metadata_Plate (2)" in note for note in equalizer.notes_)
    spaced = lab.frame.assign(Metadata_Plate=["P1", "P1 "] * 3)
    assert set(Manifest.open(spaced, lab.root).batch) == {"P1"}


# Other machines


@over(
    "folder options",
    [
        ("/home/ubuntu/bucket/projects", {"map": "/home/ubuntu/bucket/projects={root}"}),
        ("/home/ubuntu/bucket/projects/", {"map": ["/nothing/like=x", "/home/ubuntu/bucket/projects={root}"][1:]}),
        (r"D:\data\x", {"map": {r"d:\DATA\x": "{root}"}}),
        (r"\\server\share\x", {"map": {r"\\SERVER\share\x": "{root}"}}),
        ("s3://bucket/images", {"map": ["s3://bucket/images={root}"]}),
        ("file:///home/a%20b", {"map": ["/home/a b={root}"]}),
        ("old", {"map": ["old={root}"]}),
        ("/home/ubuntu/bucket/projects", {"root": "{root}"}),
        (r"C:\home", {"root": "{root}"}),
        ("s3://bucket/images", {"root": "{root}"}),
    ],
)
def test_folders_of_another_machine(lab, tmp_path, folder, options):
    def filled(value):
        if isinstance(value, dict):
            return {k: filled(v) for k, v in value.items()}
        return [filled(v) for v in value] if isinstance(value, list) else value.replace("{root}", str(lab.root))

    frame = lab.frame.assign(PathName_DNA=folder, PathName_ER=folder).astype({"PathName_ER": "category"})
    options = {name: filled(value) for name, value in options.items()}
    manifest = Manifest.open(
        frame, **({"root": lab.root / "P1"} if "map" in options else {}) | options, control=CONTROL
    )
    assert is_same(manifest, lab) and set(manifest.originals) == {path for row in manifest.files for path in row}
    if "root" in options:
        assert len(manifest.notes) == 1 and f"is taken to be {lab.root}, where its files are" in manifest.notes[0]
        assert set(transform(manifest, lambda i, image: (image, {}), tmp_path / "out").status) == {"done"}


@over(
    "folder says",
    [
        ("/home/nobody/x", "The folder /home/nobody/x of the table does not exist here; say where it is: --map /home"),
        (r"C:\data", "The folder C:/data of the table does not exist here; say where it is: --map C:/data=FOLDER or"),
        ("http://host/x", "is a web address; download its files and say where it is: --map http://host/x=FOLDER or"),
    ],
)
def test_folders_that_are_nowhere(lab, tmp_path, folder, says):
    frame = lab.frame.assign(PathName_DNA=folder, PathName_ER=folder)
    assert says in refused(DataError, Manifest.open, frame)
    assert says in refused(DataError, Manifest.open, frame, tmp_path)
    masks = Manifest.open(lab.frame.assign(masks=folder + "/a.tif"), lab.root)
    if folder[0] != "/":
        assert "say where it is" in refused(DataError, masks.masks, "masks")


def test_moves_that_say_nothing(lab):
    says = refused(ConfigError, Manifest.open, lab.frame, lab.root, map=["/data=/x"])
    assert says == "map: no file of the table lies in /data; the first is P1/A01_DNA.tif."
    for wrong in ("x", "=x", "x="):
        assert "map takes OLD=NEW" in refused(ConfigError, Manifest.open, lab.frame, lab.root, map=wrong)


def test_paths_are_compared_by_folders():
    assert rest_of("/a/b/c", "/a/b") == "c" and rest_of("/a/bc", "/a/b") is None and rest_of("/A/b/c", "/a/b") is None
    assert rest_of("C:/A/b", "c:/a") == "b" and rest_of("/a", "/a") == ""
    assert slashed("file:///C:/a%20b/c.tif") == "C:/a b/c.tif" and slashed("file:/a") == "/a" == slashed(
        "FILE://localhost/a"
    )
    assert slashed(r"a\b") == "a/b" and slashed("file://server/a") == "//server/a"
    assert moves_of(r"C:\x\=/data") == [("C:/x", "/data")]


# Frames


def test_frames_of_every_kind(lab):
    frame = lab.frame
    arrow = SimpleNamespace(to_pandas=lambda: frame)
    for table in (
        frame.set_index(["Metadata_Plate", "Metadata_Well"]),
        frame.set_index(np.array(list("abcdef"))),
        frame.astype("category"),
        frame.convert_dtypes(),
        SimpleNamespace(obs=frame, X=np.zeros((6, 2))),
        arrow,
        pd.concat([frame, frame.assign(Metadata_Plate="P9")])[:6],
    ):
        assert is_same(Manifest.open(table, lab.root, control=CONTROL), lab)
    filtered = Manifest.open(frame[frame.Metadata_Plate == "P2"], lab.root)
    assert filtered.batch == ["P2"] * 3 and filtered.files[0][0] == lab.root / "P2/A01_DNA.tif"
    columns = frame.set_axis(pd.MultiIndex.from_tuples([tuple(name.split("_", 1)) for name in frame]), axis=1)
    assert is_same(Manifest.open(columns, lab.root, control=CONTROL), lab)
    assert "not SimpleNamespace" in refused(ConfigError, Manifest.open, SimpleNamespace(obs=1))


def test_dates_are_named_as_in_csv():
    times = [pd.Timestamp(2024, 1, 5), pd.NaT, pd.Timestamp(2024, 2, 1)]
    frame = pd.DataFrame({"days": times, "objects": pd.Series(times, dtype=object), "text": ["a", "b", "c"]})
    frame["hours"] = [time + pd.Timedelta(hours=3) for time in times]
    frame["category"] = frame["days"].astype("category")
    frame["dates"] = [datetime.date(2024, 1, 5), None, datetime.date(2024, 2, 1)]
    days = ["2024-01-05", None, "2024-02-01"]
    result = tidy(frame, "x")
    for name in ("days", "objects", "category", "dates"):
        assert result[name].where(result[name].notna(), None).tolist() == days, name
    assert result.hours[0] == "2024-01-05 03:00:00" and result.text.tolist() == ["a", "b", "c"]
    assert frame.days.dtype.kind == "M"  # the caller's own frame is left as it was


@over(
    entries=[["yes", "no"], ["Yes", "NO"], ["1", "0"], [1, 0], [1.0, 0.0], [True, False], ["y", "n"], ["TRUE", "false"]]
)
def test_controls_in_a_column(lab, entries):
    frame = lab.frame.assign(control=[entries[0], entries[0], entries[1]] * 2)
    assert is_same(Manifest.open(frame, lab.root, control="control"), lab)
    assert is_same(Manifest.open(frame, lab.root, control="control and Metadata_Well.notna()"), lab)


# Later plates, and version control


@pytest.mark.filterwarnings("ignore::img2img.lab.notes.LabWarning")
def test_a_table_of_later_plates(lab):
    equalizer = BatchEqualizer(target="P1", min_images=2).fit_table(lab.frame, lab.root, control=CONTROL)
    later = pd.concat([lab.frame.assign(Metadata_Plate=name) for name in ("P8", "P9")])
    later["FileName_DNA"] = [f"P2/{w}_DNA.tif" for w in later.Metadata_Well]
    manifest = Manifest.open(later, lab.root, control=CONTROL)
    assert manifest.of_batch("P9").group == ["P9/A01", "P9/A02"] * 2
    assert equalizer.set_params(max_images=3).add_batch("P9", manifest).n_images_["P9"] == 3
    assert "no P7" in refused(DataError, equalizer.add_batch, "P7", manifest)
    single = Manifest.open(later[later.Metadata_Plate == "P8"], lab.root)
    assert equalizer.add_batch("another name", single).batches_ == ["P1", "P2", "P9", "another name"]
    none = Manifest.open(later, lab.root, control="Metadata_Plate == 'P9'")
    assert "Batch P8 has no controls" in refused(DataError, equalizer.add_batch, "P8", none)


@pytest.mark.filterwarnings("ignore::img2img.lab.notes.LabWarning")
def test_two_fits_differ_in_nothing(lab):
    texts = []
    for name in ("one", "two"):
        BatchEqualizer(target="P1", min_images=2).fit_table(lab.frame, lab.root, control=CONTROL).save(lab.root / name)
        texts.append((lab.root / name / "config.json").read_text(encoding="utf-8"))
    BatchEqualizer.load(lab.root / "one").save(lab.root / "three")
    texts.append((lab.root / "three" / "config.json").read_text(encoding="utf-8"))
    assert texts[0] == texts[1] == texts[2]
    config = json.loads(texts[0])
    assert list(config["parameters"]) == sorted(config["parameters"])


# Rows and groups


@pytest.mark.filterwarnings("ignore::img2img.lab.notes.LabWarning")
def test_rows_of_missing_files_are_left_out_only_if_asked(lab, command_line):
    for name in ("P1/A02_ER.tif", "P2/B01_DNA.tif"):
        (lab.root / name).unlink()
    path = lab.root / "plates.csv"
    lab.frame.to_csv(path, index=False)
    manifest = Manifest.open(path, control=CONTROL, missing="skip")
    assert manifest.batch == ["P1"] * 2 + ["P2"] * 2 and manifest.control.tolist() == [True, False, True, True]
    note = "2 of 6 rows are left out, since their files are missing: "
    assert manifest.notes == [note + f"{lab.root}/P1/A02_ER.tif, {lab.root}/P2/B01_DNA.tif."]
    assert len(Manifest.open(path)) == 6 and len(manifest.originals) == 12
    assert BatchEqualizer(target="P1", min_images=2).fit_table(path, missing="skip").n_images_ == {"P1": 2, "P2": 2}
    words = ("fit", path, "--min-images", "2", "--out", lab.root / "eq")
    code, _, errors = command_line("equalize", *words)
    assert code == 2 and "2 images cannot be used" in errors and "A02_ER.tif" in errors
    code, out, _ = command_line("equalize", *words, "--missing", "skip")
    assert code == 0 and f"note: {note}" in out
    says = refused(DataError, Manifest.open, lab.frame[1:2], lab.root, missing="skip")
    assert says.startswith("The files of all rows of the table are missing, such as ")
    says = refused(DataError, Manifest.open, lab.frame, lab.root, control=[0, 1, 0, 0, 0, 0], missing="skip")
    assert "The files of all controls of the table are missing" in says
    assert "Unknown value of missing, 'no'" in refused(ConfigError, Manifest.open, path, missing="no")


def test_wells_of_several_plates_as_one_group_are_noted(lab):
    says = (
        "The column Metadata_Well makes A01 of P1 and A01 of P2 one well; unless they are, leave --group (group=) out, "
        "or name a column of plate and well together."
    )
    manifest = Manifest.open(lab.frame, lab.root, group="Metadata_Well")
    assert manifest.notes == [says] and manifest.group[0] == manifest.group[3] == "A01"
    batches = lab.frame.rename(columns={"Metadata_Plate": "Metadata_Batch"})
    assert Manifest.open(batches, lab.root, group="Metadata_Well").notes == [says]
    assert Manifest.open(lab.frame[:3], lab.root, group="Metadata_Well").notes == []
    one_plate = batches.assign(Metadata_Plate="P1")  # scanned twice: its wells are the same
    manifest = Manifest.open(one_plate, lab.root, batch="Metadata_Batch", group="Metadata_Well")
    assert manifest.notes == [] and Manifest.open(one_plate, lab.root).group[0] == "P1/A01"
    donors = lab.frame.assign(Donor=["d1", "d2", "d3"] * 2)
    assert Manifest.open(donors, lab.root, group="Donor").notes == []
    assert Manifest.open(lab.frame, lab.root).notes == []
