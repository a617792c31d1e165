"""The one training loop: steps, rhythm, and resuming."""

import contextlib
import math
import time
from collections import defaultdict, deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from img2img.core.method import Batch, Method
from img2img.data.samples import HeldOut
from img2img.data.stream import PREFETCH, auto_workers, stream
from img2img.data.workers import fitting
from img2img.errors import ConfigError, DataError, TrainingError
from img2img.metrics.options import MetricOptions
from img2img.networks.regions import checkpoint_parts, compile_parts
from img2img.runs.facts import Progress
from img2img.runtime import peers
from img2img.runtime.compiling import reason
from img2img.runtime.device import Runtime, deterministic
from img2img.training.callbacks import Callback
from img2img.training.config import Schedule, TrainConfig, flat
from img2img.training.ema import Ema
from img2img.training.failures import agreed_stop, explained, saving, stopped
from img2img.training.journal import Journal
from img2img.training.run import Run
from img2img.training.start import Start
from img2img.training.state import State
from img2img.training.stops import Stops
from img2img.training.validation import Validation, kept_steps


class Samples(Protocol):
    """Training samples, numbered without end; `len` of them make an epoch."""

    def __len__(self) -> int: ...

    def __getitem__(self, n: int, /) -> Batch: ...


@dataclass
class Trainer:
    """A run from its first step, or the one it is resumed from, to its last."""

    method: Method
    data: Samples
    heldout: HeldOut | None
    config: TrainConfig
    run: Run
    runtime: Runtime
    quiet: bool = False
    metric_options: MetricOptions = field(default_factory=MetricOptions)
    callbacks: Sequence[Callback] = ()
    begin: Start | None = None  # what a new run starts from, beside chance

    def __post_init__(self) -> None:
        method, data, heldout, config = self.method, self.data, self.heldout, self.config
        run, runtime = self.run, self.runtime
        self.schedule = Schedule.of(config, method.config.decay, -(-len(data) // method.draws), runtime.world_size)
        method.accumulate, method.clip = config.accumulate, config.clip
        networks = list(method.networks().values())
        method.to(runtime.device)  # also what is no network's, e.g. fixed noise
        for network in networks:
            runtime.place(network)
        if config.checkpoint_activations and not checkpoint_parts(networks):
            raise ConfigError(
                "--checkpoint-activations is for the generators resnet and unet; this method has neither."
            )
        method.train()
        self.ema = Ema([use.network for use in method.uses.values()], config.ema)
        self.state = State(method, self.ema, self.schedule, run, runtime, config.compile == "on")
        self.validation = None
        if heldout is not None:
            self.validation = Validation(method, heldout, config, self.metric_options, runtime)
        torch.manual_seed(config.seed + 1_000_003 * runtime.rank + 1)  # the networks are drawn; from here ranks differ
        if run.files.last.exists():
            self.state.load()
        elif self.begin is not None:
            self.begin.give(method, self.ema, runtime.rank)
        self.start = self.state.step
        advice = f"the run folder {run.files.path} must lie on a disk that all nodes share"
        peers.agree(runtime, {"checkpoint": f"that of step {self.start}" if self.start else "none"}, advice)
        options = flat(method.config, replace(config, precision=runtime.precision))
        self.state.options = {name: x for name, x in options.items() if name not in method.config.unused}
        steps, ways = self.schedule.steps, self.state.ways
        told = self.callbacks, self.state.options
        self.journal = Journal(run, steps, self.start, ways, runtime.is_main, self.quiet, *told)
        for line in filter(None, (self._introduction(), self._longer(), self.state.note)):
            self.journal.say(line)
        if self.state.compiled:
            compile_parts(networks, self._uncompiled)
        for note in self.validation.scorer.notes if self.validation else ():
            self.journal.say(note)
        source = heldout if heldout is not None else data
        self.shown = [source[i] for i in range(min(method.rows, len(source)))]
        self.batches = self._stream()
        self.ready: deque[Batch] = deque()
        self.taken = (runtime.to_device(self.ready.popleft()) for _ in iter(int, 1))
        self.per_batch = config.batch_size * config.accumulate * runtime.world_size
        self.kept = kept_steps(steps, config.keep)

    def run_to_the_end(self) -> bool:
        """Take all steps of the schedule that are left, or those until held-out scores stop improving.

        Returns:
            Whether there were any.

        Raises:
            Interrupted: after SIGINT, SIGTERM or SIGHUP, once everything is saved.
            DataError: if an image can no longer be read; everything is saved.
            TrainingError: if a loss is not finite, or the disk or the memory is full.
        """
        method, config, state, schedule, start = self.method, self.config, self.state, self.schedule, self.start
        state.window.since = time.perf_counter()
        try:
            with (
                deterministic(config.deterministic),
                Stops(self.journal.say) as stops,
                contextlib.closing(self.batches),
                explained(state),
            ):
                for step in range(start + 1, schedule.steps + 1):
                    if self._stale():
                        break
                    state.set_lr(step)
                    method.proceed(step, schedule.steps)
                    last = step == schedule.steps
                    due = step % config.log_every == 0 or last
                    method.watch = due
                    drawn = method.draws_until(step) - method.draws_until(step - 1)
                    with saving(state, self.runtime, stops, self._report):
                        while len(self.ready) < config.accumulate * drawn:
                            self.ready.append(next(self.batches))
                    self._step(step)
                    if due:
                        self._record(step)
                    self.journal.advance(step, self.per_batch * drawn)
                    save = step % config.save_every == 0 or state.late(step % config.log_every == 0)
                    if step % config.sample_every == 0 or last:
                        self.journal.samples(step, self._preview())
                    if step in self.kept and self.runtime.is_main:
                        state.write_model(self.run.files.checkpoint(step))
                    if self.validation is not None and (step % config.validate_every == 0 or last):
                        last = self._score(step, self.validation) or last
                    stop = agreed_stop(stops.received, self.runtime, step, config.log_every)
                    if save or last or stop:
                        state.save()
                        self._report()
                    if stop and not last:
                        raise stopped(state, stop)
                if state.step == start > 0:
                    self.journal.complete(self._progress())
        finally:
            self.journal.close(state.step)
        return state.step > start

    def _step(self, step: int) -> None:
        for _ in range(self.config.accumulate):
            scalars = self.method.step(self.taken)
            norms = {f"grad_{player}": x for player, x in self.method.gradient_norms.items()}
            self.state.window.add(scalars | norms)
            self.method.gradient_norms = {}
        self.ema.update()
        self.state.step, self.state.window.steps = step, self.state.window.steps + 1

    def _record(self, step: int) -> None:
        """Write the means since the last record; end the run if they are not finite."""
        window = self.state.window
        drawn = self.method.draws_until(step) - self.method.draws_until(step - window.steps)
        values = window.close(self.per_batch * drawn)
        if broken := [name for name, x in values.items() if not math.isfinite(x)]:
            self.journal.failed(Progress(step, self.schedule.steps))
            raise TrainingError(self.state.not_finite(f"the loss '{broken[0]}'", step))
        values["lr"] = self.schedule.lr_factor(step)
        self.journal.record(step, self.schedule.epoch(step), values)

    def _score(self, step: int, validation: Validation) -> bool:
        """Evaluate on the held-out images and keep the best model; return whether the run ends here."""
        try:
            scores = validation(self.ema)
        except DataError as error:  # the generator's output is no longer finite
            raise TrainingError(
                f"The held-out images cannot be scored at step {step}; {self.state.kept()}. {error}"
            ) from error
        self.journal.record(step, self.schedule.epoch(step), scores, kind="validation")
        self.state.keep_best(validation.better(scores, self.state.best))
        self.state.stale = self.runtime.largest(self.state.stale)  # all processes stop at the same step
        if self._stale():
            self.journal.say(
                f"step {step}: {validation.select} has not improved in {self.state.stale} scores; stopped. "
                f"The best model is {self.run.files.best}"
            )
        return self._stale()

    def _stale(self) -> bool:
        return self.state.stale >= self.config.patience > 0

    @torch.no_grad()
    def _preview(self) -> dict[str, Tensor]:
        """Return the method's columns for the shown samples, in evaluation mode."""
        self.method.eval()
        columns: dict[str, list[Tensor]] = defaultdict(list)
        with self.ema.applied():
            for sample in self.shown:
                batch = self.runtime.to_device({name: x[None] for name, x in sample.items()})
                for title, images in self.method.preview(batch).items():
                    columns[title].append(images.cpu())
        self.method.train()
        return {title: torch.cat(images) for title, images in columns.items()}

    def _progress(self) -> Progress:
        over = self.validation is not None and self._stale()
        ended = f"{self.validation.select} no longer improved" if over and self.validation else ""
        return Progress(self.state.step, self.schedule.steps, ended)

    def _report(self) -> None:
        self.journal.report(self._progress())

    def _introduction(self) -> str:
        parts = [self.runtime.describe()]
        if self.runtime.dtype is torch.bfloat16:
            parts.append("channels_last")
        if self.state.compiled:
            parts.append("compiled blocks")
        if self.config.checkpoint_activations:
            parts.append("activations recomputed")
        steps = f"{', '.join(parts)}; {self.schedule.steps} steps"
        if not self.start:
            return steps
        return f"{steps}, resuming from step {self.start}" if self.start < self.schedule.steps else f"{steps}, all done"

    def _longer(self) -> str:
        """Return what became of the learning rate in a run that was made longer; "" in others."""
        before, now, step = self.run.shorter, self.schedule, self.start + 1
        if before is None or self.start >= now.steps:
            return ""
        falls = f", and falls from step {max(now.first_decay, step)} to the end" if now.first_decay else ""
        return (
            f"made longer, from {before.steps} steps to {now.steps}: the learning rate is that of a run of {now.steps} "
            f"steps; from step {step} it is {now.lr_factor(step):.3g} of the full one, after "
            f"{before.lr_factor(step - 1):.3g} at step {step - 1}{falls}"
        )

    def _uncompiled(self, error: Exception) -> None:
        self.state.compiled = False
        self.journal.say(f"Compiling failed, and the run continues without: {reason(error)}")

    def _stream(self) -> Generator[Batch]:
        method, config, steps = self.method, self.config, self.schedule.steps
        return stream(
            cast(Dataset[Batch], self.data),
            config.accumulate * method.draws_until(self.start),
            config.accumulate * method.draws_until(steps),
            config.batch_size,
            self.runtime.rank,
            self.runtime.world_size,
            **self._workers(),
            pin_memory=self.runtime.device.type == "cuda",
        )

    def _workers(self) -> dict[str, int]:
        """Return the number of worker processes, and of batches that each prepares ahead: a step's in all, if shared
        memory has room.
        """
        config, steps = self.config, self.schedule.steps
        asked = auto_workers(self.runtime.device) if config.workers < 0 else config.workers
        ahead = -(-config.accumulate * self.method.draws_until(steps) // (steps * max(asked, 1)))
        batch_bytes = config.batch_size * sum(x.nbytes for x in self.shown[0].values())
        workers, prefetch = fitting(asked, max(ahead, PREFETCH), batch_bytes)
        if workers < asked:
            self.journal.say(
                f"Shared memory (/dev/shm) has room for the batches of {workers} of {asked} workers, so only these are "
                "used. A container gets more by docker run --shm-size 2g."
            )
        return {"workers": workers, "prefetch": prefetch}
