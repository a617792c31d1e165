"""PyTorch's Adam and RMSprop, without its compiler; and Adam for weights in any memory layout."""

import inspect
from typing import Any, TypeVar

import torch

LAST = torch.channels_last
Kind = TypeVar("Kind", bound=type[torch.optim.Optimizer])


def uncompiled(kind: Kind) -> Kind:
    """Keep the methods of an optimizer from loading PyTorch's compiler, for use as a decorator.

    They load it, which takes seconds at every start, only to keep it away from themselves; here nobody compiles them.
    """
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict", "step"):
        setattr(kind, name, inspect.unwrap(getattr(kind, name)))
    kind.step = torch.no_grad()(kind.step)  # type: ignore[method-assign]
    return kind


@uncompiled
class RMSprop(torch.optim.RMSprop):
    """PyTorch's RMSprop."""


@uncompiled
class Adam(torch.optim.Adam):
    """PyTorch's Adam, for tensors whose layouts differ, as after loading a run that computed on another device.

    Its fused kernel for CPUs walks through all memory in the order of the parameter, whatever the order of the moments.
    And it copies all that is not contiguous, and back, at every step; it is given such tensors as they lie in memory.
    """

    def _init_group(self, group: dict[str, Any], *lists: Any) -> bool:
        """Fill the lists for a step: parameters, gradients and both moments are the first four."""
        has_complex: bool = super()._init_group(group, *lists)  # type: ignore[no-untyped-call]
        for i, p in enumerate(list(lists[0])):
            last = not p.is_contiguous() and p.dim() == 4 and p.is_contiguous(memory_format=LAST)
            layout, state = LAST if last else torch.contiguous_format, self.state[p]
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = state[name].contiguous(memory_format=layout)
            four = p, p.grad.contiguous(memory_format=layout), state["exp_avg"], state["exp_avg_sq"]
            for column, x in zip(lists, four, strict=False):
                column[i] = x.permute(0, 2, 3, 1) if last else x
        return has_complex
