"""torch.compile without a trace in the settings of the process."""

import threading
from collections.abc import Callable
from typing import Any

import torch

from img2img.errors import first_line

LIMITS = ("recompile_limit", "cache_size_limit")  # what PyTorch calls it, and called it until 2.6
ACCUMULATED = tuple(f"accumulated_{name}" for name in LIMITS)


def compiled(
    function: Callable[..., Any], backend: Any, variants: int, options: dict[str, Any] | None = None
) -> Callable[..., Any]:
    """Return `function`, compiled as one graph for each kind of input separately.

    It is compiled at the first call with each kind of input, for at most `variants` kinds; PyTorch's own limit is 8.
    """
    program = torch.compile(function, fullgraph=True, dynamic=False, backend=backend, options=options)
    config: Any = torch._dynamo.config
    known = [next(name for name in names if hasattr(config, name)) for names in (LIMITS, ACCUMULATED)]
    patch = config.patch({name: max(variants, getattr(config, name)) for name in known})
    one_at_a_time = threading.Lock()

    def call(*inputs: Any) -> Any:
        with one_at_a_time, patch:
            return program(*inputs)

    return call


def reason(error: BaseException) -> str:
    """Return why compiling failed, in one line."""
    return first_line(getattr(error, "inner_exception", error))
