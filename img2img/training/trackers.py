"""Trackers of experiments, each imported only when it is named; none is needed."""

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from img2img.errors import ConfigError, choose, first_line, install_hint, pip_install
from img2img.training.callbacks import Callback

PROJECT = "img2img"  # that runs are filed under, unless the tracker's own settings say otherwise


def open_trackers(names: str, tensorboard: bool = False) -> list[Callback]:
    """Return the trackers in a list such as "wandb,mlflow"; "none" is none.

    Raises:
        ConfigError: if there is no such tracker, or its package is not installed or cannot be used.
    """
    wanted = [name.strip() for name in names.split(",")] if names != "none" else []
    wanted += ["tensorboard"] if tensorboard else []
    return [_open(name) for name in dict.fromkeys(wanted)]


def _open(name: str) -> Callback:
    module, tracker = choose("--track", name, TRACKERS)
    try:
        return tracker(import_module(module))
    except ModuleNotFoundError:
        if name == "tensorboard":
            raise ConfigError(install_hint("--track tensorboard", "tensorboard", "tensorboard")) from None
        raise ConfigError(f"--track {name} needs {name}. Install it with: {pip_install(name)}.") from None
    except Exception as error:  # of a package that does not fit this machine
        raise ConfigError(f"--track {name}: {name} cannot be imported: {first_line(error).rstrip('.')}.") from error


class _Tracker(Callback):
    """The part that all trackers share: their package, and that a run does without them if they fail."""

    optional = True

    def __init__(self, package: Any) -> None:
        self.package = package
        self.run: Any = None

    def begin(self, folder: Path, options: Mapping[str, Any], step: int) -> None:
        """Open the tracker.

        Raises:
            ConfigError: if that fails, e.g. because nobody is logged in.
        """
        try:
            self.open(folder, options, step)
        except Exception as error:  # of any kind, from the package
            raise ConfigError(
                f"{type(self).__name__} cannot record the run: {first_line(error).rstrip('.')}."
            ) from error

    def open(self, folder: Path, options: Mapping[str, Any], step: int) -> None:
        raise NotImplementedError


class TensorBoard(_Tracker):
    """Files in the folder `tensorboard` of the run."""

    def open(self, folder: Path, options: Mapping[str, Any], step: int) -> None:
        self.run = self.package.SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, step: int, values: Mapping[str, float], kind: str) -> None:
        for name, value in values.items():
            self.run.add_scalar(f"{kind}/{name}", value, step)

    def samples(self, step: int, picture: Path) -> None:
        with Image.open(picture) as image:
            self.run.add_image("samples", np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def end(self, step: int) -> None:
        self.run.close()


class Wandb(_Tracker):
    """Weights & Biases: `WANDB_MODE=offline` and its other settings hold."""

    def open(self, folder: Path, options: Mapping[str, Any], step: int) -> None:
        self.run = self.package.init(
            project=PROJECT, name=folder.name, dir=str(folder), config=dict(options), id=_name(folder), resume="allow"
        )

    def log(self, step: int, values: Mapping[str, float], kind: str) -> None:
        self.run.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def samples(self, step: int, picture: Path) -> None:
        self.run.log({"samples": self.package.Image(str(picture))}, step=step)

    def end(self, step: int) -> None:
        self.run.finish()


class Trackio(Wandb):
    """Trackio, which has the calls of Weights & Biases; on this machine unless its settings name a server."""

    def open(self, folder: Path, options: Mapping[str, Any], step: int) -> None:
        self.run = self.package.init(
            project=PROJECT, name=_name(folder), config=dict(options), resume="allow", embed=False
        )


class MLflow(_Tracker):
    """MLflow, at the place that `MLFLOW_TRACKING_URI` names."""

    def open(self, folder: Path, options: Mapping[str, Any], step: int) -> None:
        client = self.client = self.package.MlflowClient()
        found = client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else client.create_experiment(PROJECT)
        name = _name(folder)
        earlier = client.search_runs([experiment], f"attributes.run_name = '{name}'", max_results=1)
        if step and earlier:
            self.run = earlier[0].info.run_id
            client.update_run(self.run, status="RUNNING")
            return
        self.run = client.create_run(experiment, run_name=name).info.run_id
        for option, value in options.items():
            client.log_param(self.run, option, str(value)[:500])

    def log(self, step: int, values: Mapping[str, float], kind: str) -> None:
        for name, value in values.items():
            self.client.log_metric(self.run, re.sub(r"[^\w. /-]", "_", f"{kind}/{name}"), value, step=step)

    def samples(self, step: int, picture: Path) -> None:
        self.client.log_artifact(self.run, str(picture), "samples")

    def end(self, step: int) -> None:
        self.client.set_terminated(self.run)


def _name(folder: Path) -> str:
    """Return the name of a run for services that take letters, digits, dots, - and _; it is the same when resumed."""
    return re.sub(r"[^\w.-]", "_", folder.resolve().name)


# The module that each is imported from, and the callback.
TRACKERS: dict[str, tuple[str, Callable[[Any], Callback]]] = {
    "tensorboard": ("torch.utils.tensorboard", TensorBoard),
    "wandb": ("wandb", Wandb),
    "mlflow": ("mlflow", MLflow),
    "trackio": ("trackio", Trackio),
}
