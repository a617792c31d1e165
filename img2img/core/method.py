"""The contract of a paper's file: what it states, and what is done for it."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from img2img.core.needs import Facts, Needs
from img2img.core.optimizers import Adam
from img2img.core.referee import Referee
from img2img.errors import choose
from img2img.runtime.averaging import averaged_gradients

CLASS = "class"  # the output of a use that gives the logits of classes in place of images
Batch = dict[str, Tensor]
Scalars = dict[str, Tensor]
Optimizer = Callable[..., torch.optim.Optimizer]  # called with parameters, and lr
NOISES: dict[str, Callable[[Tensor, torch.Generator | None], Tensor]] = {
    "normal": lambda z, generator: z.normal_(generator=generator),
    "uniform": lambda z, generator: z.uniform_(-1, 1, generator=generator),
}


# --- inputs and outputs of the networks that are kept -----------------------------------------------------------------


class Image(NamedTuple):
    """Images of a domain, (N, C, H, W) in [-1, 1]."""

    domain: str


class Noise(NamedTuple):
    """Noise (N, length), normal or uniform in [-1, 1]."""

    length: int
    kind: str = "normal"

    def draw(self, n: int, device: torch.device | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Draw noise for n images, from the global generator unless another is given."""
        return choose("noise", self.kind, NOISES)(torch.empty(n, self.length, device=device), generator)


class Label(NamedTuple):
    """Class indices, (N,) int64."""

    classes: int


class Vector(NamedTuple):
    """Vectors (N, length) in place of labels, e.g. of texts."""

    length: int


Input = Image | Noise | Label | Vector


class Use(NamedTuple):
    """A network that is kept in the model file: its inputs, in the order of its arguments, and the output's domain.

    A classifier has the output `CLASS`, and gives logits (N, classes) first.
    """

    network: nn.Module
    inputs: tuple[Input, ...]
    output: str

    @property
    def source(self) -> str:
        """The domain of its first image input; "" if it draws from noise alone."""
        return next((x.domain for x in self.inputs if isinstance(x, Image)), "")

    @property
    def labelled(self) -> bool:
        return any(isinstance(x, Label) for x in self.inputs)


# --- the method -------------------------------------------------------------------------------------------------------


def truncated(z: Tensor, limit: float) -> Tensor:
    """Map normal noise to noise of the normal distribution cut at plus and minus `limit` (Brock et al. 2019).

        Phi(z') = Phi(-limit) + Phi(z) (Phi(limit) - Phi(-limit))

    Each number keeps its rank, so an image changes continuously with the limit; no limit leaves it unchanged.
    """
    share = torch.special.ndtr(z.double())
    low, high = torch.special.ndtr(torch.tensor([-limit, limit], dtype=torch.float64, device=z.device))
    cut: Tensor = torch.special.ndtri(low + share * (high - low)).clamp(-limit, limit).to(z)
    return cut


def adam(beta1: float, beta2: float = 0.999) -> Optimizer:
    """Return Adam (Kingma and Ba 2015) with these betas, to be called with parameters and lr."""
    return partial(Adam, betas=(beta1, beta2), fused=True)


class Method(nn.Module):
    """One paper: which networks it keeps, its players, and the order of their moves.

    A paper's file states three things: `Config`, its options and what it needs of the data; `build`, the networks that
    are kept; and `step`, one training step. It knows nothing of files, devices, precision or processes. All its state
    is in `state_dict()` and in its optimizers.

    Args:
        config: an instance of `Config`, resolved.
        facts: what the data say.

    Attributes:
        Config: the frozen dataclass of the options; its `needs` states what a batch holds.
        kinds: scalar -> "share" (judged right, in [0, 1]), "distance", "norm", "variety" or "schedule"; others are
            losses.
        rows: samples that `preview` is called with, one by one, for a sample grid.
        batch_size: images in a batch, unless --batch-size says otherwise.
        uses: the networks that are kept, by name.
        optimizers: player -> its optimizer.
        referee: the adversarial losses, if the method takes the shared ones.
        step_number: of the current step, from 1; set by the training loop.
        progress: share of the run that is done, in [0, 1).
        draws: batches that one `step` takes.
        watch: whether this step also measures what only the log needs: gradient norms, diversity.
        gradient_norms: player -> norm of its gradient at its last measured move, before clipping.
        accumulate: successive `move` calls whose gradients are averaged into one optimizer step.
        clip: largest gradient norm of a player; 0 disables clipping.
    """

    Config: ClassVar[Any]
    kinds: ClassVar[Mapping[str, str]] = {}
    rows: ClassVar[int] = 4
    batch_size: ClassVar[int] = 1
    referee: Referee | None = None

    def __init__(self, config: Any, facts: Facts) -> None:
        super().__init__()
        self.config, self.facts = config, facts
        self.uses = self.build(config, facts)
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.step_number = 1
        self.progress = 0.0
        self.draws = 1
        self.watch = True
        self.gradient_norms: dict[str, Tensor] = {}
        self.accumulate = 1
        self.clip = 0.0
        self._moves: Counter[str] = Counter()

    @property
    def needs(self) -> Needs:
        needs: Needs = self.config.needs
        return needs

    @property
    def all_kinds(self) -> dict[str, str]:
        """Return the kinds of the log's scalars, with the gradient norms that `move` measures."""
        return dict(self.kinds) | {f"grad_{player}": "norm" for player in self.optimizers}

    @staticmethod
    def resolve(config: Any, facts: Facts) -> Any:
        """Replace every "auto" in `config` by its meaning for these data."""
        return config

    @staticmethod
    def build(config: Any, facts: Facts) -> dict[str, Use]:
        """Build the networks that are kept, with initial weights; loading a model file calls it as well."""
        raise NotImplementedError

    def step(self, batches: Iterator[Batch]) -> Scalars:
        """Take one training step in the paper's own order; return scalars worth logging, detached, on the device."""
        raise NotImplementedError

    def measure(self, batch: Batch) -> Scalars:
        """Return what this method itself measures on a batch of held-out samples, in evaluation mode."""
        return {}

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        """Return the columns of a sample grid by title, every image (N, C, H, W) in [-1, 1].

        By default the images of the batch, and what each use makes of them: for every label where it takes one.
        """
        columns = {domain: batch[domain] for domain in self.needs.domains if any(u.source for u in self.uses.values())}
        for name, use in self.uses.items():
            for label in range(len(self.facts.classes)) if use.labelled else [0]:
                n = len(next(iter(batch.values())))
                title = f"→ {self.facts.classes[label]}" if use.labelled else name
                columns[title] = use.network(*self._example(use, batch, n, label))
        return columns

    def _example(self, use: Use, batch: Batch, n: int, label: int) -> Iterator[Tensor]:
        device = next(iter(batch.values())).device
        for x in use.inputs:
            if isinstance(x, Image):
                yield batch[x.domain]
            elif isinstance(x, Noise):
                yield x.draw(n, device, torch.Generator(device).manual_seed(0))
            elif isinstance(x, Vector):
                yield batch["label"]
            else:
                yield torch.full((n,), label, device=device)

    def proceed(self, step: int, steps: int) -> None:
        """Set the number of the next step and the progress of the run, for whatever changes over a run."""
        self.step_number, self.progress = step, (step - 1) / steps
        if self.referee is not None:
            self.referee.progress = self.progress

    def draws_until(self, step: int) -> int:
        """Return the number of batches that the first `step` steps take."""
        return step * self.draws

    def networks(self) -> dict[str, nn.Module]:
        """Return the networks of all players, by attribute name."""
        return {name: child for name, child in self.named_children() if any(True for _ in child.parameters())}

    def player(self, name: str, *networks: nn.Module, lr: float, optimizer: Optimizer) -> None:
        """Add a player: one optimizer over the parameters of `networks`, each of them once."""
        parameters = list(dict.fromkeys(p for network in networks for p in network.parameters()))
        self.optimizers[name] = optimizer(parameters, lr=lr)

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        return [p for group in self.optimizers[player].param_groups for p in group["params"]]

    def move(self, player: str, loss: Tensor) -> None:
        """Move `player`, and nobody else, one optimizer step down the gradient of `loss`.

        The backward pass ends at the player's own parameters, so no other player receives a gradient.
        """
        parameters = self.parameters_of(player)
        self._moves[player] += 1
        complete = self._moves[player] % self.accumulate == 0
        with averaged_gradients(parameters) if complete else contextlib.nullcontext():
            (loss / self.accumulate).backward(inputs=parameters)  # type: ignore[no-untyped-call]
        if not complete:
            return
        if self.watch or self.clip:
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            self.gradient_norms[player] = norm
        if self.clip:
            nn.utils.clip_grads_with_norm_(parameters, self.clip, norm)
        self.optimizers[player].step()
        self.optimizers[player].zero_grad()
