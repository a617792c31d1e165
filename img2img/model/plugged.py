"""What a model or a run has of plug-ins, and of the program that trained it: names of tables beyond this package's."""

from collections.abc import Collection, Mapping
from typing import Any

from img2img import plugins
from img2img.core.objectives import OBJECTIVES
from img2img.errors import ConfigError, ModelFileError
from img2img.methods import PLACES
from img2img.networks import DISCRIMINATORS, FROM_NOISE, GENERATORS

TABLES: dict[str, plugins.Table[Any]] = {
    "method": PLACES,
    "generator": GENERATORS,
    "discriminator": DISCRIMINATORS,
    "network": FROM_NOISE,
    "objective": OBJECTIVES,
}
PASSED = ("generator", "discriminator", "network")  # options that take a class or function
TRAINING = ("discriminator", "objective")  # options that only training needs


def packages_of(method: str, options: Mapping[str, Any]) -> dict[str, str]:
    """Return the packages, with versions, that names are of: by option, without those of this package."""
    used = {"method": method, **options}
    found = {option: table.package(str(used[option])) for option, table in TABLES.items() if option in used}
    return {option: package for option, package in found.items() if package}


def refuse_absent(
    what: str,
    method: str,
    options: Mapping[str, Any],
    packages: Mapping[str, str],
    only: Collection[str] = tuple(TABLES),
) -> None:
    """Refuse a model or a run that needs what this program does not have.

    Args:
        what: the model or the run, for the error.
        method: its method.
        options: its options.
        packages: what `packages_of` returned when it was written.
        only: the options that matter.

    Raises:
        ModelFileError: naming the package to install, or what to pass.
    """
    used = {"method": method, **options}
    for option in (option for option in TABLES if option in only and isinstance(used.get(option), str)):
        name = used[option]
        if name in TABLES[option].own or plugins.known(f"{option}s", name):
            continue
        if option in packages:
            raise ModelFileError(
                f"{what} uses the {option} '{name}' of {packages[option]}, which is not installed here. Install that "
                "package."
            )
        if plugins.MARK in name:
            raise ModelFileError(f"{what} was trained otherwise than by names. {plugins.absent(option, name)}")


def without_training(options: Mapping[str, Any], packages: Mapping[str, str]) -> dict[str, Any]:
    """Return options without what only training needs, where it is not of this package."""
    return {
        name: x
        for name, x in options.items()
        if not (name in TRAINING and (name in packages or plugins.MARK in str(x)))
    }


def named(options: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of training with names in place of classes and functions, which are found by them from now on.

    Args:
        options: as they were passed.
        saved: those of the run that is resumed; empty for a new run.

    Raises:
        ConfigError: if something that was passed cannot make a network, or has no name.
    """
    return {
        name: plugins.take(name, x, str(saved.get(name, ""))) if name in PASSED and not isinstance(x, str | None) else x
        for name, x in options.items()
    }


def give(path: Any, options: Mapping[str, Any], passed: Mapping[str, Any]) -> None:
    """Find what was passed for a model by the names that its file has for it, from now on.

    Args:
        path: of the model, for errors.
        options: its options.
        passed: by option; None if not passed.

    Raises:
        ConfigError: if the file has no such name, or something that was passed cannot make a network.
    """
    for option, value in ((option, x) for option, x in passed.items() if x is not None):
        name = str(options.get(option, ""))
        if plugins.MARK not in name:
            own = f"has the {option} '{name}'" if name else f"has no {option}"
            raise ConfigError(f"{path} {own}, which needs nothing passed; leave {option}= out.")
        plugins.take(option, value)
        plugins.restore({(f"{option}s", name): value})


def passed_for(card: Any) -> dict[tuple[str, str], Any]:
    """Return what was passed for the model of a header, for `plugins.restore` in another process."""
    return plugins.passed({f"{option}s": str(card.config.get(option, "")) for option in PASSED})
