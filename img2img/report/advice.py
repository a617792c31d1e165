"""Advice against failures: options that the run would accept and does not use yet."""

from collections.abc import Callable, Mapping
from typing import Any

from img2img.core.objectives import OBJECTIVES

Options = Mapping[str, Any]
Change = dict[str, Any]
SPELLING = "--{name} {value}"
SATURATING = ("minimax", "f_kl", "f_reverse_kl", "f_pearson", "f_hellinger", "f_js", "f_gan")  # flat where D is certain
EXPONENTIAL = ("f_kl", "f_reverse_kl", "f_hellinger")  # overflow where D is certain
FEW_IMAGES = "color,translation,cutout"


def _penalised(options: Options) -> bool:
    chosen = options.get("penalty", "none")
    return bool(OBJECTIVES[options["objective"]].penalised if chosen == "auto" else chosen != "none")


# A remedy takes the options and returns a change, or None if that has no effect or makes no sense.


def penalty(options: Options) -> Change | None:
    return None if _penalised(options) or "weight_clip" in options else {"penalty": "r1"}


def wasserstein(options: Options) -> Change | None:
    if OBJECTIVES[options["objective"]].penalised:
        return None
    return {"objective": "wasserstein"} | ({} if options["penalty"] == "auto" else {"penalty": "gp"})


def nonsaturating(options: Options) -> Change | None:
    return {"objective": "nonsaturating"} if options["objective"] in SATURATING else None


def no_exponential(options: Options) -> Change | None:
    return {"objective": "nonsaturating"} if options["objective"] in EXPONENTIAL else None


def least_squares(options: Options) -> Change | None:
    return {"objective": "lsgan"} if OBJECTIVES[options["objective"]].binary else None


def smooth(options: Options) -> Change | None:
    return {"smooth": 0.1} if OBJECTIVES[options["objective"]].binary and options["smooth"] < 0.1 else None


def instance_noise(options: Options) -> Change | None:
    return {"instance_noise": 0.1} if options["instance_noise"] < 0.1 else None


def spectral(options: Options) -> Change | None:
    return None if options["spectral"] else {"spectral": True}


def diffaugment(options: Options) -> Change | None:
    return {"diffaugment": FEW_IMAGES} if options["diffaugment"] == "none" else None


def slower_d(options: Options) -> Change | None:
    return {"d_lr": (options["d_lr"] or options["lr"]) / 4}


def slower(options: Options) -> Change | None:
    return {"lr": options["lr"] / 2}


def no_momentum(options: Options) -> Change | None:
    return {"beta1": 0.0} if options["beta1"] and "weight_clip" not in options else None


def average(options: Options) -> Change | None:
    return {"ema": 0.999} if options["ema"] < 0.999 else None


def larger_batch(options: Options) -> Change | None:
    return {"batch_size": 2 * options["batch_size"]}


def more_critic(options: Options) -> Change | None:
    return {"n_critic": options["n_critic"] + 1} if options.get("n_critic", 5) < 5 else None


def clip(options: Options) -> Change | None:
    return {"clip": 1.0} if not 0 < options["clip"] <= 1 else None


def fp32(options: Options) -> Change | None:
    return {"precision": "fp32"} if options["precision"] != "fp32" else None


def smaller_batch(options: Options) -> Change | None:
    half = options["batch_size"] // 2
    return {"batch_size": half, "accumulate": 2 * options["accumulate"]} if half else None


def recompute(options: Options) -> Change | None:
    possible = "generator" in options and not options["checkpoint_activations"]
    return {"checkpoint_activations": True} if possible else None


def narrower(options: Options) -> Change | None:
    return {"width": options["width"] // 2} if options["width"] > 1 else None


REMEDIES: dict[str, tuple[Callable[[Options], Change | None], ...]] = {
    "discriminator winning": (penalty, instance_noise, slower_d, spectral, wasserstein, diffaugment),
    "saturation": (smooth, penalty, nonsaturating, least_squares, wasserstein, slower),
    "mode collapse": (penalty, wasserstein, larger_batch, more_critic, slower),
    "oscillation": (slower, no_momentum, average, penalty),
    "not finite": (slower, clip, fp32, no_exponential),
    "out of memory": (smaller_batch, recompute, narrower),
}


def remedies(kind: str, options: Options, spelling: str = SPELLING) -> list[str]:
    """Return remedies against a failure, each as words for the command line of this run.

    Args:
        kind: a key of `REMEDIES`.
        options: all options of the run, with their values.
        spelling: the format of an option, from its `name` and `value`.
    """
    found = []
    for remedy in REMEDIES[kind]:
        try:
            change = remedy(options)
        except KeyError:  # this method has no such option
            continue
        if change is not None and change.keys() <= options.keys():
            words = " ".join(spelled(name, value, spelling) for name, value in _completed(change, options).items())
            found.append(f"with few images {words}" if remedy is diffaugment else words)
    return found


def _completed(change: Change, options: Options) -> Change:
    """Return a change with everything else that must change for the run to be accepted."""
    after, norm = {**options, **change}, "d_norm" if "d_norm" in options else "norm"
    if "objective" not in options:
        return change
    convolves = options.get("network", "conv") != "mlp"
    if _penalised(after) and convolves and options.get(norm) == "batch":  # a penalty is per image
        change = change | {norm: "none" if norm == "d_norm" else "instance"}
    if after.get("smooth") and not OBJECTIVES[after["objective"]].binary:
        change = change | {"smooth": 0.0}
    return change


def spelled(name: str, value: Any, spelling: str = SPELLING) -> str:
    """Return an option as it is written on the command line."""
    if spelling == SPELLING:
        name = name.replace("_", "-")
    if value is True and spelling == SPELLING:
        return f"--{name}"
    text = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
    return spelling.format(name=name, value=text)
