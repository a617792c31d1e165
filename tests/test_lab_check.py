"""The check before fitting: what it recommends for each kind of batch effect and design; positions on plates."""

import json

import numpy as np
import pandas as pd
import pytest
import tifffile
from helpers import over

from img2img import BatchEqualizer
from img2img.errors import InputError
from img2img.lab import positions, synthetic
from img2img.lab.judgement import probes
from img2img.lab.magnification import magnified
from img2img.lab.networks.models import MODELS
from img2img.lab.positions import Position
from img2img.lab.synthetic import Effect


@pytest.fixture(scope="module", autouse=True)
def small_probes():
    """Few trees: their number is not what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "TREES", 10)
        yield


def plates(effect, wells=8, size=64, count=6, seed=0):
    """Two plates of `wells` wells with two fields each, P2 under `effect` (of the place in the plate, 0 to 1): images
    (N, Y, X), batches, and wells down the columns B to G, 3 to 10.
    """
    rng = np.random.default_rng(seed)
    images, batch, group = [], [], []
    for plate in ("P1", "P2"):
        for well in range(wells):
            bright = rng.lognormal(0, 0.05)
            for _ in range(2):
                signal = 250 + (synthetic.nuclei(rng, size, count)[0] - 250) * bright
                now = effect(well / max(wells - 1, 1)) if callable(effect) else effect
                images.append(synthetic.expose(signal, now if plate == "P2" else Effect(), rng))
                batch.append(plate)
                group.append(f"{plate}/{'BCDEFG'[well % 6]}{3 + well // 6 + well % 6:02d}")
    return np.stack(images), batch, group


def checked(X, batch, group, axes="NYX", **others):
    control = others.pop("control", [True] * len(batch))
    return BatchEqualizer(axes=axes, target="P1").check(X, batch=batch, group=group, control=control, **others)


@over(
    "effect, route, says",
    [
        (Effect(), "nothing", "the controls show no batch effect"),
        (Effect(gain=0.7), "tone", "P2 against P1, 0: brightness 0.7"),
        (Effect(offset=80), "tone", "background +1.8% of the range"),
        (Effect(vignette=0.4, gradient=0.4), "tone+field", "illumination from left to right +"),
        (Effect(shot=4), "features z-score", "noise, sharpness or texture"),
    ],
)
def test_each_kind_of_effect_has_its_route(effect, route, says):
    found = checked(*plates(effect))
    assert found.route == route and says in found.to_text(), found.to_text()
    assert found.notes == []
    assert (found.told["linear"] > found.told["null_high"]) == (route != "nothing")


def test_neither_threads_nor_memory_change_what_is_recommended():
    X, batch, group = plates(Effect(gain=0.7))
    arguments = {"batch": batch, "group": group, "control": [True] * len(batch)}
    steps: list[tuple[int, int]] = []
    one = BatchEqualizer(axes="NYX", target="P1").check(X, **arguments)
    other = BatchEqualizer(axes="NYX", target="P1", n_jobs=3, memory=1e-6).check(
        X, **arguments, progress=lambda *step: steps.append(step)
    )
    assert other.to_text() == one.to_text() and other.differences == one.differences
    assert steps == [(done, len(X)) for done in range(1, len(X) + 1)]


def test_what_is_said_of_a_clear_difference():
    found = checked(*plates(Effect(gain=0.7)))
    (brightness,) = [d for d in found.differences if d.what == "brightness"]
    assert brightness.is_clear and brightness.size - brightness.error < np.log(0.7) < brightness.size + brightness.error
    lines = found.to_text().splitlines()
    assert lines[0] == "Design: control wells: P1 8 (16 images), P2 8 (16 images)"
    assert lines[1].startswith("Batch told: ") and "by chance 0.50, with permuted batches up to 0." in lines[1]
    assert lines[-2] == "Recommended: tone, because the brightness or the background differs between the batches."
    assert "z-score per batch by its controls" in lines[-1]


def test_a_design_that_cannot_separate_is_said_with_what_would_do():
    X, batch, group = plates(Effect(gain=0.7))
    single = [g if g.startswith("P1") else "P2/C04" for g in group]
    found = checked(X, batch, single)
    assert found.route == "nothing" and "fewer than two control wells of P2" in found.reason
    assert "give at least 4 of each batch" in found.reason
    # without controls, where label and batch go together
    label = ["drug" if b == "P2" or i == 0 else "DMSO" for i, b in enumerate(batch)]
    found = checked(X, batch, group, control=None, label=label)
    assert found.route == "nothing" and "batch and label are confounded (Cramér's V 0.9" in found.reason
    assert found.cramers_v > 0.9 and any("No controls were named" in note for note in found.notes)
    # controls in one batch only
    found = checked(X, batch, group, control=[b == "P1" for b in batch], label=group)
    assert (
        found.route == "nothing" and "There are no controls of P2, so nothing can be learned about them." in found.notes
    )
    assert any("16 of 16 labels of a batch have a single group (well) there" in note for note in found.notes)
    with pytest.raises(InputError, match="There is only one batch, P1; fit needs at least two"):
        checked(X[:16], batch[:16], group[:16])


def test_few_wells_are_noted():
    found = checked(*plates(Effect(gain=0.5), wells=3))
    assert any(note.startswith("Few groups (wells) of controls: P1 (3), P2 (3)") for note in found.notes)


def test_colour_has_a_route_of_its_own():
    rng = np.random.default_rng(0)
    stained = []
    for i in range(32):
        stain = (1, 1.2, 0.6) if i < 16 else (0.6, 1, 1)
        signal = synthetic.nuclei(rng, 64, 6)[0] / 20
        stained.append(255 - np.stack([signal * share for share in stain]))
    X = np.clip(np.stack(stained), 0, 255).astype(np.uint8)
    found = checked(X, ["P1"] * 16 + ["P2"] * 16, [str(i) for i in range(32)], axes="NCYX")
    assert found.route == ("stain" if "stain" in MODELS else "tone") and "RGB" in found.reason


def test_a_dead_channel_is_named():
    X, batch, group = plates(Effect())
    rng = np.random.default_rng(1)
    dead = synthetic.expose(np.full((64, 64), 250.0), Effect(gradient=0.2), None)
    second = np.stack([x if b == "P1" else dead + rng.integers(0, 30, dead.shape, dtype=np.uint16) for x, b in
                       zip(plates(Effect(), seed=2)[0], batch, strict=True)])  # fmt: skip
    found = checked(np.stack([X, second], 1), batch, group, axes="NCYX")
    (note,) = [note for note in found.notes if "dead channel" in note]
    assert note.startswith("Channel 1 of P2 ")


def test_the_command_writes_its_numbers_and_a_page(command_line, tmp_path):
    X, batch, group = plates(Effect(gain=0.7))
    rows = []
    for i, (image, plate, well) in enumerate(zip(X, batch, group, strict=True)):
        tifffile.imwrite(tmp_path / f"{i}.tif", image)
        rows.append({"FileName_DNA": f"{i}.tif", "Metadata_Plate": plate, "Metadata_Well": well[3:], "DMSO": "yes"})
    pd.DataFrame(rows).assign(Metadata_Control="true").to_csv(tmp_path / "t.csv", index=False)
    out, numbers = tmp_path / "check.html", tmp_path / "check.json"
    words = ["equalize", "check", tmp_path / "t.csv", "--control", "Metadata_Control", "--out", out, "--json", numbers]
    code, text, _ = command_line(*words)
    assert code == 0 and "P2 against P1, DNA: brightness 0.7" in text and f"page: {out}" in text
    found = json.loads(numbers.read_text(encoding="utf-8"))
    assert found["route"] == "tone" and found["wells"] == {"P1": 8, "P2": 8}
    page = out.read_text(encoding="utf-8")
    assert "Recommended: tone" in page and page.count("<tr>") == 1 + len(found["differences"])
    assert command_line(*words)[0] == 0  # its own files are replaced, others are not
    out.write_text("mine")
    assert command_line(*words)[0] == 2 and out.read_text() == "mine"


# ---- positions


@over(
    "name, position",
    [
        ("p/A01", (1, 1)),
        ("p/a1", (1, 1)),
        ("x/y/P24", (16, 24)),
        ("p/AF48", (32, 48)),
        ("p/AG01", None),
        ("p/A00", None),
        ("p/A49", None),
        ("A01", None),
        ("p/17", None),
        ("p/A01_s1.tif", None),
    ],
)
def test_wells_have_positions(name, position):
    assert Position.of(name) == position


def test_the_plate_is_the_smallest_that_has_the_wells():
    for well, shape in {"H12": (8, 12), "A13": (16, 24), "I01": (16, 24), "Q01": (32, 48), "A25": (32, 48)}.items():
        assert positions.plate_shape([Position(1, 1), Position.of(f"p/{well}")]) == shape


@over(
    "wells, said",
    [
        (("A01", "B01", "H12"), "All controls of P1, P2 lie at the edge of a plate of 96 wells, so"),
        (("B03", "C03", "D03"), "All controls of P1, P2 lie in column 3, so"),
        (("AA03", "AA04", "AA40"), "All controls of P1, P2 lie in row AA, so"),
        (("A01", "C05", "H12"), ""),
    ],
)
def test_where_all_controls_sit_is_said(wells, said):
    batch = ["P1", "P2"] * (len(wells) + 2)
    group = [f"{plate}/{well}" for well in (*wells, "D06", "E07") for plate in ("P1", "P2")]
    control = np.arange(len(group)) < 2 * len(wells)
    found = list(positions.placing(batch, group, control))
    assert [sentence[: len(said)] for sentence in found] == ([said] if said else [])
    assert list(positions.placing(batch, group, None)) == []  # no controls
    assert list(positions.placing(batch, [g.replace("/", "") for g in group], control)) == []  # no positions


def test_the_fit_says_where_the_controls_sit_and_what_drifts():
    X, batch, group = plates(lambda place: Effect(gain=1.2 - 0.7 * place), wells=12)
    with pytest.warns(UserWarning, match="Within P2, channel 0, the contrast of the controls drifts"):
        equalizer = BatchEqualizer(axes="NYX", target="P1").fit(X, batch=batch, control=[True] * 48, group=group)
    (note,) = [note for note in equalizer.notes_ if "drifts" in note]
    assert "by a factor of 0." in note and "(p = " in note
    even = checked(*plates(Effect(), wells=12))
    assert not [note for note in even.notes if "drifts" in note]
    edge = [f"{b}/{'AH'[i % 2]}{1 + i % 8:02d}" for i, b in enumerate(batch)]
    with pytest.warns(UserWarning, match="All controls of P1, P2 lie at the edge of a plate of 96 wells"):
        BatchEqualizer(axes="NYX").fit(X, batch=batch, control=[True] * 48, group=edge)


def test_chance_seldom_drifts():
    rng = np.random.default_rng(0)
    batch, group = ["P1"] * 24, [f"P1/{'BCDE'[i % 4]}{1 + i // 4:02d}" for i in range(24)]
    said = 0
    for _ in range(200):
        said += bool(list(positions.drifts(rng.normal(0, 0.2, (24, 1)), batch, group, ["DNA"])))
    assert said <= 20  # 5 % at most, by construction


def test_another_magnification_is_said():
    X, batch, _ = plates(Effect(gain=0.7), size=96, count=8)
    assert list(magnified(X[:, None], batch, np.ones(1))) == []
    doubled = np.ones((2, 2), np.uint16)
    large = [x[None] if b == "P1" else np.kron(x, doubled)[None] for x, b in zip(X, batch, strict=True)]
    (sentence,) = magnified(large, batch, np.ones(1))
    assert sentence.startswith("The objects of P2 cover ") and "times the area of those of P1" in sentence
    assert len(list(magnified([60000 - x for x in large], batch, -np.ones(1)))) == 1
