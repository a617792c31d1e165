"""What a run tells: the live line, log.jsonl, curves, sample grids, TensorBoard where wanted."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

from img2img.data.images import atomic
from img2img.errors import ConfigError
from img2img.training.report import write_report

PLAIN_SECONDS = 20.0  # between lines where there is no terminal to draw a live one


class Journal:
    """Writes what rank 0 of a run sees. A journal that is not `enabled` (other ranks) writes nothing.

    Args:
        folder: the run folder.
        total: steps of the whole run.
        start: the step that training goes on from; later records of an earlier, killed process are dropped.
    """

    def __init__(
        self, folder: Path, total: int, start: int, enabled: bool = True, quiet: bool = False, tensorboard: bool = False
    ) -> None:
        self.folder, self.total, self.enabled = folder, total, enabled
        self.console = Console(stderr=True, quiet=quiet or not enabled, highlight=False)
        self.live: Progress | None = None
        self.task = TaskID(0)
        self.printed = time.monotonic()
        self.board: Any = None
        if not enabled:
            return
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        self.log_file = folder / "log.jsonl"
        kept = [r for r in read_log(self.log_file) if r["step"] <= start]
        with atomic(self.log_file) as temporary:
            temporary.write_text("".join(json.dumps(r) + "\n" for r in kept))
        for sample in (folder / "samples").glob("*.png"):
            if int(sample.stem) > start:
                sample.unlink()
        if tensorboard:
            self.board = _tensorboard(folder)
        if self.console.is_terminal and not quiet:
            columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self.live = Progress(*columns, console=self.console, transient=True)
            self.task = self.live.add_task("starting", total=total, completed=start)
            self.live.start()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def record(self, step: int, epoch: int, values: Mapping[str, float], kind: str = "train") -> None:
        """Appends one line to the log, and shows it."""
        if not self.enabled:
            return
        row = {"step": step, "epoch": epoch, "kind": kind, **{name: round(v, 6) for name, v in values.items()}}
        with self.log_file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if self.board is not None:
            for name, v in values.items():
                self.board.add_scalar(f"{kind}/{name}", v, step)
        if kind == "validation":
            self.say(f"step {step}: held out " + ", ".join(f"{name} {v:.4g}" for name, v in values.items()))
            return
        line = self._line(step, epoch, values)
        if self.live is not None:
            self.live.update(self.task, completed=step, description=line)
        elif time.monotonic() - self.printed > PLAIN_SECONDS or step == self.total:
            self.printed = time.monotonic()
            left = (self.total - step) * values.get("seconds_per_step", 0.0)
            self.say(f"{line}, {left / 60:.0f} min left")

    def _line(self, step: int, epoch: int, values: Mapping[str, float]) -> str:
        shown = {k: v for k, v in values.items() if k not in ("lr", "seconds_per_step", "images_per_s")}
        accuracies = {k: v for k, v in shown.items() if k.endswith(("_real", "_fake"))}
        losses = " ".join(f"{k} {v:.3f}" for k, v in shown.items() if k not in accuracies)
        right = " ".join(f"{k} {v:.0%}" for k, v in accuracies.items())
        return (
            f"step {step}/{self.total} epoch {epoch} {values['images_per_s']:.1f} images/s | {losses} | right: {right}"
        )

    def samples(self, step: int, columns: Mapping[str, Tensor]) -> None:
        """Writes a sample grid: a row per image, a column per title."""
        if self.enabled:
            with atomic(self.folder / "samples" / f"{step:08d}.png") as temporary:
                draw_grid(columns).save(temporary)

    def report(self, facts: Mapping[str, Any]) -> None:
        """Draws the curves and writes report.html."""
        if self.enabled:
            write_report(self.folder, read_log(self.log_file), facts)

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()
        if self.board is not None:
            self.board.close()


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError("--tensorboard needs the package tensorboard: pip install tensorboard.") from None
    return SummaryWriter(str(folder / "tensorboard"))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log; a last line that a kill cut short is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def displayable(image: Tensor) -> Image.Image:
    """(C, H, W) in [-1, 1] as a picture for people: grey or RGB; of more channels the first three, of two the first."""
    channels = 3 if len(image) >= 3 else 1
    pixels = ((image[:channels].float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
    array = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return Image.fromarray(array if channels == 3 else array[..., 0]).convert("RGB")


def draw_grid(columns: Mapping[str, Tensor]) -> Image.Image:
    """A row per image and a titled column per entry."""
    pictures = {title: [displayable(x) for x in images] for title, images in columns.items()}
    rows = max(map(len, pictures.values()))
    side = max(picture.width for column in pictures.values() for picture in column)
    high = max(picture.height for column in pictures.values() for picture in column)
    gap, head = 4, 22
    sheet = Image.new("RGB", (len(pictures) * (side + gap) + gap, head + rows * (high + gap)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for c, (title, column) in enumerate(pictures.items()):
        x = gap + c * (side + gap)
        pen.text((x + side / 2, head / 2), title.replace("→", "to"), fill="black", font=font, anchor="mm")
        for r, picture in enumerate(column):
            sheet.paste(picture, (x, head + r * (high + gap)))
    return sheet
