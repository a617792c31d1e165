"""Advice against failures: options that the run would accept and does not use yet."""

from collections.abc import Callable, Mapping
from typing import Any

from img2img.core.objectives import OBJECTIVES

Options = Mapping[str, Any]
Change = dict[str, Any]
SPELLING = "--{name} {value}"
SATURATING = ("minimax", "f_kl", "f_reverse_kl", "f_pearson", "f_hellinger", "f_js", "f_gan")  # flat where D is certain
EXPONENTIAL = ("f_kl", "f_reverse_kl", "f_hellinger")  # overflow where D is certain


def _penalised(options: Options) -> bool:
    chosen = options.get("penalty", "none")
    return bool(OBJECTIVES[options["objective"]].penalised if chosen == "auto" else chosen != "none")


def _wasserstein(options: Options) -> Change | None:
    if OBJECTIVES[options["objective"]].penalised:
        return None
    return {"objective": "wasserstein"} | ({} if options["penalty"] == "auto" else {"penalty": "gp"})


def _smaller_batch(options: Options) -> Change | None:
    half = options["batch_size"] // 2
    fits = half and half % options.get("pack", 1) == 0
    return {"batch_size": half, "accumulate": 2 * options["accumulate"]} if fits else None


def _recompute(options: Options) -> Change | None:
    possible = "generator" in options and not options["checkpoint_activations"]
    return {"checkpoint_activations": True} if possible else None


# A remedy by name: from the options, what to change; None if that has no effect or makes no sense.
CHANGES: dict[str, Callable[[Options], Change | None]] = {
    "penalty": lambda o: None if _penalised(o) or "weight_clip" in o else {"penalty": "r1"},
    "wasserstein": _wasserstein,
    "nonsaturating": lambda o: {"objective": "nonsaturating"} if o["objective"] in SATURATING else None,
    "no exponential": lambda o: {"objective": "nonsaturating"} if o["objective"] in EXPONENTIAL else None,
    "least squares": lambda o: {"objective": "lsgan"} if OBJECTIVES[o["objective"]].binary else None,
    "smooth": lambda o: {"smooth": 0.1} if OBJECTIVES[o["objective"]].binary and o["smooth"] < 0.1 else None,
    "instance noise": lambda o: {"instance_noise": 0.1} if o["instance_noise"] < 0.1 else None,
    "spectral": lambda o: None if o["spectral"] or o["weight_norm"] else {"spectral": True},
    "few images": lambda o: (
        {"diffaugment": "color,translation,cutout"} if o["diffaugment"] == "none" and o.get("pack", 1) == 1 else None
    ),
    "slower D": lambda o: {"d_lr": (o["d_lr"] or o["lr"]) / 4},
    "slower": lambda o: {"lr": o["lr"] / 2},
    "no momentum": lambda o: {"beta1": 0.0} if o["beta1"] and "weight_clip" not in o else None,
    "average": lambda o: {"ema": 0.999} if o["ema"] < 0.999 else None,
    "larger batch": lambda o: {"batch_size": 2 * o["batch_size"]},
    "more critic": lambda o: {"n_critic": o["n_critic"] + 1} if o.get("n_critic", 5) < 5 else None,
    "pack": lambda o: (
        {"pack": 2} if o["pack"] == 1 and o["diffaugment"] == "none" and o["batch_size"] % 2 == 0 else None
    ),
    "clip": lambda o: {"clip": 1.0} if not 0 < o["clip"] <= 1 else None,
    "fp32": lambda o: {"precision": "fp32"} if o["precision"] != "fp32" else None,
    "smaller batch": _smaller_batch,
    "recompute": _recompute,
    "narrower": lambda o: {"width": o["width"] // 2} if o["width"] > 1 else None,
}
REMEDIES: dict[str, tuple[str, ...]] = {
    "discriminator winning": ("penalty", "instance noise", "slower D", "spectral", "wasserstein", "few images"),
    "saturation": ("smooth", "penalty", "nonsaturating", "least squares", "wasserstein", "slower"),
    "mode collapse": ("penalty", "wasserstein", "pack", "larger batch", "more critic", "slower"),
    "oscillation": ("slower", "no momentum", "average", "penalty"),
    "not finite": ("slower", "clip", "fp32", "no exponential"),
    "out of memory": ("smaller batch", "recompute", "narrower"),
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
            change = CHANGES[remedy](options)
        except KeyError:  # this method has no such option
            continue
        if change is not None and change.keys() <= options.keys():
            words = " ".join(_spelled(name, value, spelling) for name, value in _completed(change, options).items())
            found.append(f"with few images {words}" if remedy == "few images" else words)
    return found


def _completed(change: Change, options: Options) -> Change:
    """Return a change with everything else that must change for the run to be accepted."""
    after, norm = {**options, **change}, "d_norm" if "d_norm" in options else "norm"
    if "objective" not in options:
        return change
    normed = options.get("network", "dcgan") == "dcgan"
    if _penalised(after) and normed and options.get(norm) == "batch":  # a penalty is per image
        change = change | {norm: "none" if norm == "d_norm" else "instance"}
    if after.get("smooth") and not OBJECTIVES[after["objective"]].binary:
        change = change | {"smooth": 0.0}
    return change


def _spelled(name: str, value: Any, spelling: str) -> str:
    if spelling == SPELLING:
        name = name.replace("_", "-")
    if value is True and spelling == SPELLING:
        return f"--{name}"
    text = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
    return spelling.format(name=name, value=text)
