"""The options of jobs on Ray; imports nothing heavy, so that help is quick."""

from dataclasses import dataclass, fields
from typing import Annotated

from img2img.errors import ConfigError
from img2img.options.declared import Options, Within

LOCAL = "local"


@dataclass(frozen=True)
class RayOptions(Options):
    """Options of jobs on Ray."""

    ray: Annotated[
        str | None,
        "Share the work among processes by Ray: local, for this machine alone, or the address of the cluster "
        "that this machine belongs to, e.g. 10.0.0.1:6379.",
    ] = None
    ray_workers: Annotated[
        int, "Processes that work, with --ray.", Within(1, 10**5, special=(0, "as many as have room"))
    ] = 0
    ray_cpus: Annotated[int, "CPU cores of each of them.", Within(1, 1024)] = 1
    ray_gpus: Annotated[
        float,
        "GPUs of each of them; 0.25 lets four share one.",
        Within(0, 1, special=(0, "1 if the model runs on a GPU")),
    ] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        default = {field.name: field.default for field in fields(self)}
        given = [name for name in default if name != "ray" and getattr(self, name) != default[name]]
        if self.ray is None and given:
            raise ConfigError(f"--{given[0].replace('_', '-')} has no effect without --ray.")
