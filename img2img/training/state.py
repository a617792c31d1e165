"""The state of a run in memory, and its way to and from the disk."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from img2img.core.method import Method
from img2img.errors import ModelFileError, TrainingError, counted
from img2img.model.file import load_resume, save_model, save_resume
from img2img.report.advice import remedies
from img2img.runs.folder import step_of
from img2img.runtime.device import Runtime, all_finite, random_state, set_random_state
from img2img.training.config import Schedule
from img2img.training.ema import Ema
from img2img.training.run import Run

SAVE_SECONDS = 600.0  # a checkpoint at least this often, whatever --save-every says


class State:
    """A run so far: its step, its best score, and everything that last.pt holds."""

    def __init__(
        self, method: Method, ema: Ema, schedule: Schedule, run: Run, runtime: Runtime, compiled: bool
    ) -> None:
        self.method, self.ema, self.schedule, self.run, self.runtime = method, ema, schedule, run, runtime
        self.compiled = compiled  # whether networks are
        self.base_lr = {name: o.param_groups[0]["lr"] for name, o in method.optimizers.items()}
        self.step = 0  # steps taken
        self.saved_step, self.saved_at = 0, time.monotonic()  # the step that is on the disk, and since when
        self.best: float | None = None  # held-out score; None before the first one
        self.stale = 0  # held-out scores since the best one
        self.window = Window()  # the scalars since the last record of the log
        self.options: dict[str, Any] = {}  # of the whole run, for advice
        self.note = ""  # on what a resumed run does not do as before

    def ways(self, kind: str) -> str:
        """Return what may help against a kind of failure, in words."""
        return ", ".join(remedies(kind, self.options, self.run.spelling))

    def set_lr(self, step: int) -> None:
        factor = self.schedule.lr_factor(step)
        for name, optimizer in self.method.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self.base_lr[name] * factor

    def kept(self) -> str:
        """Return what is safe on the disk, for a message."""
        if not self.saved_step:
            return "nothing was saved yet"
        if not self.run.files.last.exists():
            return f"{self.run.files.path} with all that was saved is gone"
        return f"step {self.saved_step} is kept in {self.run.files.path}"

    def not_finite(self, what: str, step: int) -> str:
        """Return the sentence for a number that is not finite."""
        return f"At step {step} {what} is no longer a finite number; {self.kept()}. Try {self.ways('not finite')}."

    def late(self, ask: bool) -> bool:
        """Tell whether the last checkpoint is too old for any process; all ask at the same steps."""
        return ask and bool(self.runtime.largest(int(time.monotonic() - self.saved_at > SAVE_SECONDS)))

    @property
    def hint(self) -> str:
        """The way to resume, as a sentence behind another one; "" if nothing was saved."""
        return f" To resume: {self.run.resume_hint}" if self.saved_step else ""

    def save(self) -> None:
        """Write last.pt, then model.safetensors; if a weight is not finite, keep the last good ones instead."""
        if not all_finite(self.method.parameters()):
            raise TrainingError(self.not_finite("a weight", self.step))
        own = {"random": random_state(), "extra": _extra_state(self.method), "window": self.window.state_dict()}
        ranks = self.runtime.gather(own)
        if self.runtime.is_main:
            state = {
                "step": self.step,
                "best": self.best,
                "stale": self.stale,
                "compiled": self.compiled,
                "method": self.method.state_dict(),
                "optimizers": {name: o.state_dict() for name, o in self.method.optimizers.items()},
                "ema": self.ema.state_dict(),
                "ranks": ranks,
            }
            save_resume(self.run.files.last, state)
            self.write_model(self.run.files.model)
        self.runtime.gather(None)  # no process continues before the files are there
        self.saved_at, self.saved_step = time.monotonic(), self.step

    def load(self) -> None:
        """Resume from last.pt, and write model.safetensors if a kill prevented that.

        Raises:
            ModelFileError: if last.pt is damaged, or belongs to a run with other networks.
        """
        state = load_resume(self.run.files.last)
        try:
            self._restore(state)
        except torch.OutOfMemoryError:
            raise
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, AssertionError, RuntimeError) as error:
            raise ModelFileError(
                f"{self.run.files.last} does not fit the run that config.json beside it describes; restore both, or "
                "train into another folder."
            ) from error
        newest = self.run.files.model
        if self.runtime.is_main and step_of(newest) != self.step:
            self.write_model(newest)

    def _restore(self, state: dict[str, Any]) -> None:
        self.step = self.saved_step = state["step"]
        self.best, self.stale = state["best"], state.get("stale", 0)
        self.compiled = bool(state.get("compiled", self.compiled))
        self.method.load_state_dict(state["method"])
        for name, optimizer in self.method.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.ema.load_state_dict(state["ema"])
        ranks, rank = state["ranks"], self.runtime.rank
        if len(ranks) != self.runtime.world_size:
            self.note = self._other_processes(ranks)
        if rank < len(ranks):  # a process that is new begins with its own noise, and with what process 0 has kept
            self.method.load_state_dict(ranks[rank]["extra"], strict=False)
            self.window.load_state_dict(ranks[rank].get("window", {}), self.runtime.device)
            set_random_state(ranks[rank]["random"])
        for network in self.method.networks().values():
            network.to(self.runtime.device)

    def _other_processes(self, ranks: list[dict[str, Any]]) -> str:
        """Return a note on what another number of processes changes; process 0 has not drawn anything yet."""
        first, referee = ranks[0], self.method.referee
        alike = (
            all(map(torch.equal, _flat(first["random"]), _flat(random_state())))
            and not any(x.dim() and x.numel() for x in first["extra"].values())
            and not (referee and referee.gan.relative)
        )
        itself = "noise, dropout, earlier images, means over its batch"
        differs = f"what a process draws, keeps and averages by itself differs: {itself}"
        return (
            f"The run had {counted(len(ranks), 'process', 'processes')} and now has {self.runtime.world_size}: each "
            f"step sees the same images, but {'sums are rounded in another order' if alike else differs}."
        )

    def write_model(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        with self.ema.applied():
            card = self.run.card(self.step)
            networks = {name: self.method.uses[own].network for name, own in card.uses.items()}
            if not all_finite(x for network in networks.values() for x in network.state_dict().values()):
                raise TrainingError(self.not_finite("a weight", self.step))
            save_model(path, card, networks)

    def keep_best(self, better: float | None) -> None:
        """Write best.safetensors if there is a `better` score."""
        self.stale += 1
        if better is not None:
            self.best, self.stale = better, 0
            if self.runtime.is_main:
                self.write_model(self.run.files.best)


class Window:
    """Means of the scalars over the steps since the last record, summed on the device.

    Attributes:
        steps: the number of steps since the time `since`.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.sums: dict[str, Tensor] = {}
        self.counts: Counter[str] = Counter()
        self.since = time.perf_counter()

    def add(self, scalars: dict[str, Tensor]) -> None:
        self.counts.update(list(scalars))
        for name, x in scalars.items():
            self.sums[name] = self.sums[name] + x if name in self.sums else x

    def state_dict(self) -> dict[str, Any]:
        return {"sums": {name: x.cpu() for name, x in self.sums.items()}, "counts": dict(self.counts)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self.sums = {name: x.to(device) for name, x in state.get("sums", {}).items()}
        self.counts = Counter(state.get("counts", {}))

    def close(self, images: float) -> dict[str, float]:
        means = {name: float(x) / self.counts[name] for name, x in self.sums.items()}  # waits for the device
        now = time.perf_counter()
        seconds, steps = now - self.since, self.steps
        self.sums, self.counts, self.since, self.steps = {}, Counter(), now, 0
        return means | {"seconds_per_step": seconds / steps, "images_per_s": images / seconds}


def _flat(state: dict[str, Any]) -> list[Tensor]:
    return [state["cpu"].cpu(), *(x.cpu() for x in state["cuda"])]


def _extra_state(method: Method) -> dict[str, Any]:
    return {name: x for name, x in method.state_dict().items() if name.endswith("_extra_state")}
