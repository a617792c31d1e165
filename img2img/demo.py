"""The embedded data set: plain and striped animals on varied backgrounds, drawn by code, with ground truth.

No image appears in both domains. Because the animals are drawn, the striped twin of every plain animal is known, so
the result of unpaired training can be scored.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from img2img.data.folders import is_run
from img2img.data.images import read_image, write_image
from img2img.data.picture import Array, Picture
from img2img.errors import ConfigError, DataError

SIZE = 64
OVERSAMPLING = 4
TRAINING, HELD_OUT = 200, 24
STEPS = 400
RUN = "plain2striped"  # name of the run folder, and title of its report
STRIPES = 7.0  # period of the stripes in pixels

OPTIONS: dict[str, Any] = {
    "size": SIZE,
    "generator": "resnet_3",
    "discriminator": "patch_34",
    "width": 16,
    "d_width": 32,
    "upsample": "resize",  # no checkerboard
    "lr": 8e-4,  # for a short run of small networks
    "ema": 0.995,  # averages out the noise of batches of one
    "precision": "fp32",  # networks this narrow gain nothing from bf16
    "augment": "flip",
    "sample_every": 100,
    "save_every": 200,
}


@dataclass(frozen=True)
class Animal:
    """A drawn animal (H, W, 3) uint8, its striped twin, and the mask (H, W) of its coat."""

    plain: Array
    striped: Array
    coat: Array


@dataclass(frozen=True)
class Result:
    """The picture and the report, and the mean scores of the unchanged input, of the model and of the ground truth."""

    picture: Path
    report: Path
    scores: dict[str, float]


def draw(seed: int) -> Animal:
    """Draw animal number `seed`: pose, coat and background are random, and the same for its twin."""
    rng = np.random.default_rng(seed)
    n = SIZE * OVERSAMPLING
    coat = Image.new("L", (n, n))
    pen = ImageDraw.Draw(coat)
    length, height = rng.uniform(0.42, 0.54) * n, rng.uniform(0.22, 0.28) * n
    x, y = rng.uniform(0.12, 0.22) * n, rng.uniform(0.36, 0.46) * n
    leg, width = rng.uniform(0.2, 0.26) * n, 0.055 * n
    for share in (0.1, 0.3, 0.7, 0.88):
        hoof = x + share * length + rng.uniform(-0.02, 0.02) * n
        pen.rectangle([hoof - width / 2, y + height / 2, hoof + width / 2, y + height + leg * 0.8], fill=255)
    pen.rounded_rectangle([x, y, x + length, y + height], radius=height * 0.45, fill=255)
    neck = (x + length * 0.93, y + height * 0.35)
    head = (neck[0] + rng.uniform(0.06, 0.12) * n, y - rng.uniform(0.08, 0.16) * n)
    pen.line([neck, head], fill=255, width=int(0.12 * n))
    pen.ellipse([head[0] - 0.07 * n, head[1] - 0.06 * n, head[0] + 0.11 * n, head[1] + 0.06 * n], fill=255)

    ground = _ground(rng, n)
    brown = np.array([rng.uniform(130, 175), rng.uniform(80, 105), rng.uniform(40, 60)])
    across = np.arange(n)[None, :] - x + 0.25 * np.arange(n)[:, None]
    dark = (across / (STRIPES * OVERSAMPLING) % 1 < 0.5)[..., None]
    stripes = np.where(dark, np.array([25.0, 25.0, 30.0]), np.array([240.0, 240.0, 235.0]))
    if rng.random() < 0.5:
        ground, stripes, coat = ground[:, ::-1], stripes[:, ::-1], coat.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mask = np.asarray(coat)[..., None] > 0
    small = [_shrink(np.where(mask, fur, ground)) for fur in (brown, stripes)]
    return Animal(small[0], small[1], np.asarray(coat.resize((SIZE, SIZE), Image.Resampling.BOX)) == 255)


def _ground(rng: np.random.Generator, n: int) -> Array:
    """Draw a background of sky over grass, with soft blotches."""
    horizon = int(rng.uniform(0.25, 0.55) * n)
    sky = np.array([rng.uniform(120, 190), rng.uniform(170, 215), rng.uniform(215, 250)])
    grass = np.array([rng.uniform(80, 170), rng.uniform(130, 180), rng.uniform(50, 90)])
    ground = np.where(np.arange(n)[:, None, None] < horizon, sky, grass) * np.ones((n, n, 1))
    blotches = Image.fromarray(rng.normal(0, 1, (8, 8)).astype(np.float32)).resize((n, n), Image.Resampling.BICUBIC)
    blotched: Array = ground + 10 * np.asarray(blotches)[..., None]
    return blotched


def _shrink(image: Array) -> Array:
    whole = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    small: Array = np.asarray(whole.resize((SIZE, SIZE), Image.Resampling.BOX))
    return small


def write_data(root: str | Path) -> None:
    """Write trainA and testA (plain), trainB and testB (striped): four sets of different animals."""
    for path, seed in _drawings(Path(root)):
        write_image(path, Picture(_draw_for(path, seed)))


def _drawings(root: Path) -> Iterator[tuple[Path, int]]:
    """Return the files of the data set, and the number of the animal in each."""
    counts = {"trainA": TRAINING, "trainB": TRAINING, "testA": HELD_OUT, "testB": HELD_OUT}
    files = [root / folder / f"{i:03d}.png" for folder, count in counts.items() for i in range(count)]
    return zip(files, range(len(files)), strict=True)


def _draw_for(path: Path, seed: int) -> Array:
    animal = draw(seed)
    return animal.striped if path.parent.name.endswith("B") else animal.plain


def held_out() -> list[Animal]:
    """Draw the animals of testA, with their ground truth."""
    return [draw(2 * TRAINING + i) for i in range(HELD_OUT)]


def score(animal: Animal, image: Array) -> float:
    """Score how close `image` comes to the striped twin of the plain `animal`: 0 for the animal itself, 1 for its twin.

    The score is the geometric mean of three terms in [0, 1]: stripes (contrast between columns half a period apart
    within the coat, whatever their phase), coat colour (its mean, between plain and striped), and unchanged background.
    """
    plain, striped, out = (x.astype(float) / 255 for x in (animal.plain, animal.striped, image))
    coat = animal.coat

    def contrast(x: Array) -> float:
        half = round(STRIPES / 2)
        inside = coat[:, half:] & coat[:, :-half]
        grey = x.mean(2)
        return float(np.abs(grey[:, half:] - grey[:, :-half])[inside].mean())

    def colour_error(x: Array) -> float:
        return float(np.abs(x[coat].mean(0) - striped[coat].mean(0)).mean())

    ratio = contrast(out) / contrast(striped)
    stripes = min(ratio, 1 / max(ratio, 1e-9))
    colour = max(0.0, 1 - colour_error(out) / colour_error(plain))
    background = max(0.0, 1 - float(np.abs(out - plain)[~coat].mean()) / 0.25)
    return float(np.cbrt(stripes * colour * background))


def run(folder: Path, steps: int = STEPS, say: Callable[[str], object] = lambda text: None) -> Result:
    """Draw the data, train CycleGAN, translate the held-out folder, and draw the before/after picture.

    Running it again on the same folder resumes where it stopped. `say` receives a line about each stage.
    """
    say("loading PyTorch")
    from img2img.api.training import train
    from img2img.api.translating import translate

    data, results, trained = folder / "data", folder / "translated", folder / RUN
    _refuse_foreign(folder)
    say(f"drawing {2 * (TRAINING + HELD_OUT)} animals into {data}")
    write_data(data)
    say(f"training CycleGAN for {steps} steps, two minutes or so on two CPU cores")
    train("cyclegan", data=data, out=trained, steps=steps, **OPTIONS)
    say(f"translating {HELD_OUT} animals that it has not seen")
    translate(trained, data / "testA", results, direction="a2b", overwrite=True)
    animals = held_out()
    outputs = [read_image(results / f"{i:03d}.png").array for i in range(len(animals))]
    plain, striped = [animal.plain for animal in animals], [animal.striped for animal in animals]
    judged = {"the unchanged input": plain, "the model": outputs, "the ground truth": striped}
    scores = {name: float(np.mean(list(map(score, animals, images)))) for name, images in judged.items()}
    picture = folder / "before_after.png"
    write_image(picture, Picture(_sheet({"input": plain[:8], "img2img": outputs[:8], "truth": striped[:8]})))
    return Result(picture, trained / "report.html", scores)


def _refuse_foreign(folder: Path) -> None:
    """Raise ConfigError if the demo would overwrite files that it has not written, or train on them."""
    if not folder.is_dir() or is_run(folder / RUN):
        return
    foreign = {path for path in folder.iterdir() if path.name[0] != "." and path.name != "data"}
    inside = {path for path in folder.glob("data/**/*") if path.name[0] != "." and not path.is_dir()}
    for path, seed in _drawings(folder / "data"):  # of a demo that was stopped while drawing
        if path in inside and np.array_equal(_read(path), _draw_for(path, seed)):
            inside.remove(path)
    if unknown := min(foreign | inside, default=None):
        raise ConfigError(f"{folder} is not the folder of a demo: it contains {unknown}. Choose another --out.")


def _read(path: Path) -> Any:
    try:
        return read_image(path).array
    except DataError:
        return None


def _sheet(rows: dict[str, list[Array]]) -> Array:
    """Draw rows of images, each with its name."""
    zoom, gap, margin = 2, 4, 76
    cell, columns = SIZE * zoom + gap, max(map(len, rows.values()))
    sheet = Image.new("RGB", (margin + columns * cell + gap, len(rows) * cell + gap), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for r, (name, row) in enumerate(rows.items()):
        pen.text((margin - gap, gap + r * cell + SIZE * zoom / 2), name, fill="black", font=font, anchor="rm")
        for c, image in enumerate(row):
            large = Image.fromarray(image.repeat(zoom, 0).repeat(zoom, 1))
            sheet.paste(large, (margin + gap + c * cell, gap + r * cell))
    return np.asarray(sheet)
