"""The one training loop: steps, rhythm, resume, and what may go wrong on the way."""

import contextlib
import errno
import math
import signal
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from img2img.core.method import Batch, Method
from img2img.data.layouts import HeldOut
from img2img.data.stream import PREFETCH, auto_workers, stream
from img2img.data.workers import fitting
from img2img.errors import ConfigError, DataError, Interrupted, ModelFileError, TrainingError
from img2img.metrics.scorer import MetricOptions
from img2img.model.file import ModelCard, load_resume, read_card, save_model, save_resume
from img2img.networks.regions import checkpoint_parts, compile_parts
from img2img.report.advice import SPELLING, remedies
from img2img.runs.facts import Progress
from img2img.runtime.compiling import reason
from img2img.runtime.device import Runtime, all_finite, deterministic, random_state, set_random_state
from img2img.training.config import Schedule, TrainConfig, flat
from img2img.training.ema import Ema
from img2img.training.journal import Journal
from img2img.training.stops import Stops
from img2img.training.validation import Validation, kept_steps

DISK_ERRORS = {getattr(errno, name, 0) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "ESTALE")}
SAVE_SECONDS = 600.0  # a checkpoint at least this often, whatever --save-every says


class Samples(Protocol):
    """Training samples, numbered without end; `len` of them make an epoch."""

    def __len__(self) -> int: ...

    def __getitem__(self, n: int, /) -> Batch: ...


@dataclass(frozen=True)
class Run:
    """Where a run lives and what it is."""

    folder: Path
    card: Callable[[int], ModelCard]  # the model file's header, at a step
    facts: dict[str, Any]  # for the report
    resume_hint: str
    shorten: str = ""  # how to shorten a long run, in words
    spelling: str = SPELLING  # of an option, in advice

    @property
    def last(self) -> Path:
        return self.folder / "last.pt"


def train(
    method: Method,
    data: Samples,
    heldout: HeldOut | None,
    config: TrainConfig,
    run: Run,
    runtime: Runtime,
    quiet: bool = False,
    metric_options: MetricOptions | None = None,
) -> bool:
    """Trains `method` to the end of its schedule, going on from `run.last` where that exists; or until held-out scores
    no longer improve.

    Returns:
        Whether there was anything left to do.

    Raises:
        Interrupted: after SIGINT, SIGTERM or SIGHUP, when everything is saved.
        DataError: if an image cannot be read any more; everything is saved.
        TrainingError: if a loss is not finite, or the disk or the memory is full.
    """
    schedule = Schedule.of(config, method.config.decay, -(-len(data) // method.draws), runtime.world_size)
    method.accumulate, method.clip = config.accumulate, config.clip
    networks = list(method.networks().values())
    for network in networks:
        runtime.prepare(network)
    if config.checkpoint_activations and not checkpoint_parts(networks):
        raise ConfigError("--checkpoint-activations is for the generators resnet and unet, which this method lacks.")
    method.train()
    ema = Ema([use.network for use in method.uses.values()], config.ema)
    progress = _Progress(method, ema, schedule, run, runtime, config.compile == "on")
    kept = kept_steps(schedule.steps, config.keep)
    validation = None
    if heldout is not None:
        validation = Validation(method, heldout, config, metric_options or MetricOptions(), runtime)
    torch.manual_seed(config.seed + 1_000_003 * runtime.rank + 1)  # the networks are drawn; from here ranks differ
    if run.last.exists():
        progress.load()
    start = progress.step
    progress.options = flat(method.config, replace(config, precision=runtime.precision))
    journal = Journal(
        run.folder, schedule.steps, start, runtime.is_main, quiet, config.tensorboard, progress.ways, run.shorten
    )
    done = f", going on after step {start}" if 0 < start < schedule.steps else ", all done" if start else ""
    bf16 = runtime.dtype is torch.bfloat16
    path = [runtime.describe(), *["channels_last"] * bf16, *["compiled blocks"] * progress.compiled]
    path += ["activations recomputed"] * config.checkpoint_activations
    journal.say(f"{', '.join(path)}; {schedule.steps} steps{done}")

    def uncompiled(error: Exception) -> None:
        progress.compiled = False
        journal.say(f"Compiling failed, and the run continues without: {reason(error)}")

    if progress.compiled:
        compile_parts(networks, uncompiled)
    for note in validation.scorer.notes if validation else ():
        journal.say(note)
    source = heldout if heldout is not None else data
    preview = [source[i] for i in range(min(method.rows, len(source)))]

    batches = stream(
        cast(Dataset[Batch], data),
        config.accumulate * method.draws_until(start),
        config.accumulate * method.draws_until(schedule.steps),
        config.batch_size,
        runtime.rank,
        runtime.world_size,
        **_workers(method, schedule.steps, preview[0], config, runtime, journal.say),
        pin_memory=runtime.device.type == "cuda",
    )
    per_batch = config.batch_size * config.accumulate * runtime.world_size
    ready: deque[Batch] = deque()
    taken = (runtime.to_device(ready.popleft()) for _ in iter(int, 1))
    window, ended = progress.window, ""
    window.since = time.perf_counter()

    def report() -> None:
        journal.report(run.facts, Progress(progress.step, schedule.steps, ended))

    try:
        with (
            deterministic(config.deterministic),
            Stops(journal.say) as stops,
            contextlib.closing(batches),
            _explained(run, progress),
        ):
            for step in range(start + 1, schedule.steps + 1):
                if progress.stale >= config.patience > 0:
                    break
                progress.set_lr(step)
                method.proceed(step, schedule.steps)
                last = step == schedule.steps
                due = step % config.log_every == 0 or last
                method.watch = due
                before, drawn = method.draws_until(step - 1), method.draws_until(step)
                with _saving(run, progress, runtime, stops, report):
                    while len(ready) < config.accumulate * (drawn - before):
                        ready.append(next(batches))
                for _ in range(config.accumulate):
                    scalars = method.step(taken)
                    window.add(scalars | {f"grad_{player}": x for player, x in method.gradient_norms.items()})
                    method.gradient_norms = {}
                ema.update()
                progress.step, window.steps = step, window.steps + 1
                if due:
                    drawn -= method.draws_until(step - window.steps)
                    values = window.close(per_batch * drawn)
                    if not all(map(math.isfinite, values.values())):
                        journal.failed(run.facts, Progress(step, schedule.steps))
                    _refuse_non_finite(values, step, progress)
                    values["lr"] = schedule.lr_factor(step)
                    journal.record(step, schedule.epoch(step), values)
                journal.advance(step, per_batch * (method.draws_until(step) - before))
                save = step % config.save_every == 0 or progress.late(step % config.log_every == 0)
                if step % config.sample_every == 0 or last:
                    journal.samples(step, _preview(method, ema, preview, runtime))
                if step in kept and runtime.is_main:
                    progress.write_model(run.folder / "models" / f"{step:08d}.safetensors")
                if validation is not None and (step % config.validate_every == 0 or last):
                    scores = _scored(validation, ema, step, progress)
                    journal.record(step, schedule.epoch(step), scores, kind="validation")
                    progress.keep_best(validation.better(scores, progress.best))
                    progress.stale = runtime.largest(progress.stale)  # all processes stop at the same step
                    ended = _ended(progress, validation, config)
                    if progress.stale >= config.patience > 0:
                        journal.say(
                            f"step {step}: {validation.select} has not improved in {progress.stale} scores; stopped. "
                            f"The best model is {run.folder / 'best.safetensors'}"
                        )
                        last = True
                stop = _agree(stops.received, runtime, step, config.log_every)
                if save or last or stop:
                    progress.save()
                    report()
                if stop and not last:
                    raise Interrupted(f"Stopped and saved at step {step}. To go on: {run.resume_hint}", stop)
            if progress.step == start > 0 and runtime.is_main:
                ended = _ended(progress, validation, config)
                journal.complete(run.facts, Progress(start, schedule.steps, ended))
    finally:
        journal.close()
    return progress.step > start


def _ended(progress: "_Progress", validation: Validation | None, config: TrainConfig) -> str:
    """Return why a run is over before its last step; "" if it is not."""
    over = validation is not None and progress.stale >= config.patience > 0
    return f"{validation.select} no longer improved" if over and validation else ""


class _Progress:
    """How far a run is, and its way to and from the disk."""

    def __init__(
        self, method: Method, ema: Ema, schedule: Schedule, run: Run, runtime: Runtime, compiled: bool
    ) -> None:
        self.method, self.ema, self.schedule, self.run, self.runtime = method, ema, schedule, run, runtime
        self.compiled = compiled
        self.base_lr = {name: o.param_groups[0]["lr"] for name, o in method.optimizers.items()}
        self.step = 0
        self.saved_step = 0
        self.best: float | None = None
        self.stale = 0  # held-out scores since the best one
        self.saved_at = time.monotonic()
        self.window = _Window()
        self.options: dict[str, Any] = {}  # of the run

    def ways(self, kind: str) -> str:
        """What may help against a kind of failure, in words."""
        return ", ".join(remedies(kind, self.options, self.run.spelling))

    def set_lr(self, step: int) -> None:
        factor = self.schedule.lr_factor(step)
        for name, optimizer in self.method.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self.base_lr[name] * factor

    def kept(self) -> str:
        """What is safe on the disk, for a message."""
        if not self.saved_step:
            return "nothing was saved yet"
        if not self.run.last.exists():
            return f"{self.run.folder} with all that was saved is gone"
        return f"step {self.saved_step} is kept in {self.run.folder}"

    def late(self, ask: bool) -> bool:
        """Whether the last checkpoint is too old for any process; asked of all at the same steps."""
        return ask and bool(self.runtime.largest(int(time.monotonic() - self.saved_at > SAVE_SECONDS)))

    def save(self) -> None:
        """Writes last.pt, then model.safetensors, unless a weight is not finite: then the last good ones stay."""
        if not all_finite(self.method.parameters()):
            raise TrainingError(_not_finite("a weight", self.step, self))
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
            save_resume(self.run.last, state)
            self.write_model(self.run.folder / "model.safetensors")
        self.runtime.gather(None)  # nobody goes on before the files are there
        self.saved_at, self.saved_step = time.monotonic(), self.step

    def load(self) -> None:
        """Goes on from last.pt, and writes model.safetensors if a kill prevented that.

        Raises:
            ModelFileError: if last.pt is damaged, or of a run with other networks.
        """
        state = load_resume(self.run.last)
        try:
            self._restore(state)
        except torch.OutOfMemoryError:
            raise
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, AssertionError, RuntimeError) as error:
            raise ModelFileError(
                f"{self.run.last} does not fit the run that config.json beside it describes; restore both, or train "
                "into another folder."
            ) from error
        newest = self.run.folder / "model.safetensors"
        if self.runtime.is_main and not _is_of_step(newest, self.step):
            self.write_model(newest)

    def _restore(self, state: dict[str, Any]) -> None:
        self.step = self.saved_step = state["step"]
        self.best, self.stale = state["best"], state.get("stale", 0)
        self.compiled = bool(state.get("compiled", self.compiled))
        self.method.load_state_dict(state["method"])
        for name, optimizer in self.method.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.ema.load_state_dict(state["ema"])
        own = state["ranks"][self.runtime.rank]
        self.method.load_state_dict(own["extra"], strict=False)
        self.window.load_state_dict(own.get("window", {}), self.runtime.device)
        set_random_state(own["random"])
        for network in self.method.networks().values():
            network.to(self.runtime.device)

    def write_model(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        with self.ema.applied():
            card = self.run.card(self.step)
            networks = {name: self.method.uses[own].network for name, own in card.uses.items()}
            if not all_finite(x for network in networks.values() for x in network.state_dict().values()):
                raise TrainingError(_not_finite("a weight", self.step, self))
            save_model(path, card, networks)

    def keep_best(self, better: float | None) -> None:
        """Writes best.safetensors if there is a `better` score."""
        self.stale += 1
        if better is not None:
            self.best, self.stale = better, 0
            if self.runtime.is_main:
                self.write_model(self.run.folder / "best.safetensors")


class _Window:
    """Means of the scalars over the steps since the last record, added up on the device.

    Attributes:
        steps: how many of them this process has taken, since the time `since`.
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


def _is_of_step(path: Path, step: int) -> bool:
    try:
        return read_card(path).step == step
    except ModelFileError:
        return False


def _extra_state(method: Method) -> dict[str, Any]:
    return {name: x for name, x in method.state_dict().items() if name.endswith("_extra_state")}


@torch.no_grad()
def _preview(method: Method, ema: Ema, samples: list[Batch], runtime: Runtime) -> dict[str, Tensor]:
    """The method's columns for `samples`, in evaluation mode."""
    method.eval()
    columns: dict[str, list[Tensor]] = defaultdict(list)
    with ema.applied():
        for sample in samples:
            batch = runtime.to_device({name: x[None] for name, x in sample.items()})
            for title, images in method.preview(batch).items():
                columns[title].append(images.cpu())
    method.train()
    return {title: torch.cat(images) for title, images in columns.items()}


def _scored(validation: Validation, ema: Ema, step: int, progress: _Progress) -> dict[str, float]:
    try:
        return validation(ema)
    except DataError as error:  # of a generator whose output is no number any more
        raise TrainingError(
            f"The held-out images cannot be scored at step {step}; {progress.kept()}. {error}"
        ) from error


def _not_finite(what: str, step: int, progress: _Progress) -> str:
    return f"At step {step} {what} is no longer a finite number; {progress.kept()}. Try {progress.ways('not finite')}."


def _refuse_non_finite(values: dict[str, float], step: int, progress: _Progress) -> None:
    bad = [name for name, x in values.items() if not torch.isfinite(torch.tensor(x))]
    if bad:
        raise TrainingError(_not_finite(f"the loss '{bad[0]}'", step, progress))


def _workers(
    method: Method, steps: int, sample: Batch, config: TrainConfig, runtime: Runtime, say: Callable[[str], None]
) -> dict[str, int]:
    """How many processes prepare batches, and how many each ahead: a step's in all, where shared memory has room."""
    asked = auto_workers(runtime.device) if config.workers < 0 else config.workers
    ahead = -(-config.accumulate * method.draws_until(steps) // (steps * max(asked, 1)))
    batch_bytes = config.batch_size * sum(x.nbytes for x in sample.values())
    workers, prefetch = fitting(asked, max(ahead, PREFETCH), batch_bytes)
    if workers < asked:
        say(
            f"Shared memory (/dev/shm) has room for the batches of {workers} of {asked} workers, which is how many are "
            "used. A container gets more by docker run --shm-size 2g."
        )
    return {"workers": workers, "prefetch": prefetch}


@contextlib.contextmanager
def _saving(
    run: Run, progress: _Progress, runtime: Runtime, stops: Stops, report: Callable[[], None]
) -> Iterator[None]:
    """Between two steps all is whole: a signal that comes here, or batches that do not, end the run with that saved."""
    alone = runtime.world_size == 1  # several processes would have to agree
    try:
        with stops.waiting(alone):
            yield
    except KeyboardInterrupt:
        if not alone:
            raise
        progress.save()
        report()
        raise Interrupted(
            f"Stopped and saved at step {progress.step}. To go on: {run.resume_hint}", stops.received[0]
        ) from None
    except (DataError, TrainingError, OSError, MemoryError) as error:
        if alone and progress.step > progress.saved_step:
            progress.save()
            report()
        if isinstance(error, MemoryError):
            raise
        kept = progress.kept()
        kind = TrainingError if isinstance(error, TrainingError) else DataError
        hint = f" To go on: {run.resume_hint}" if progress.saved_step else ""
        raise kind(f"{error} {kept[0].upper()}{kept[1:]}.{hint}") from error


def _agree(stopped: list[int], runtime: Runtime, step: int, rhythm: int) -> int:
    """The signal to stop for, or 0; all processes come to the same answer at the same step."""
    if runtime.world_size == 1:
        return stopped[0] if stopped else 0
    if step % rhythm:
        return 0
    return runtime.largest(stopped[0] if stopped else 0)


@contextlib.contextmanager
def _explained(run: Run, progress: _Progress) -> Iterator[None]:
    """Full memory, a full disk and a second Ctrl-C, in a sentence that says what is kept."""
    try:
        yield
    except KeyboardInterrupt:
        hint = f" To go on: {run.resume_hint}" if progress.saved_step else ""
        raise Interrupted(f"Stopped at once; {progress.kept()}.{hint}", signal.SIGINT) from None
    except OSError as error:
        file = Path(error.filename).absolute() if isinstance(error.filename, str) else None
        if error.errno not in DISK_ERRORS and not (file and file.is_relative_to(run.folder.absolute())):
            raise
        raise TrainingError(
            f"Cannot write {error.filename or run.folder}: {error.strerror or error}; {progress.kept()}."
        ) from error
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "allocate memory" not in str(error):
            raise
        ways = f"{progress.ways('out of memory')}, or a smaller --size"
        raise TrainingError(f"Out of memory at step {progress.step + 1}; {progress.kept()}. Use {ways}.") from error
