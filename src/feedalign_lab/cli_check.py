"""What `feedalign check` does: find a model by the name of what makes it, and check it."""

import importlib
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

import feedalign as fa
from feedalign.points import near
from feedalign_lab.choices import make_rule
from feedalign_lab.errors import SettingError
from feedalign_lab.options import CheckOptions
from feedalign_lab.results import to_json

_EXIT_FINE, _EXIT_NOT_ALL_TAUGHT = 0, 1


def check_model(options: CheckOptions) -> int:
    """Check a model and print what was found.

    Args:
        options: Of the command.

    Returns:
        0: the verdict is fine; 1: it is not.

    Raises:
        SettingError: There is no such model, or a name that is given is none of its modules.
        UnknownNameError: There is no such rule.
    """
    rule = make_rule(options.rule, "classification")
    points = list(options.points) or None
    # What a factory and a forward print is no part of the result.
    with redirect_stdout(sys.stderr):
        model, example_inputs = _load(options.target)
        _refuse_unknown(model, "--points", options.points)
        _refuse_unknown(model, "--output", () if options.output is None else (options.output,))
        found = fa.check(model, example_inputs, rule, points=points, output=options.output)
    print(to_json(found.to_dict()).rstrip() if options.json else found)
    return _EXIT_FINE if found.ok else _EXIT_NOT_ALL_TAUGHT


def _load(target: str) -> tuple[nn.Module, Any]:
    """The model, and example inputs or None."""
    found = _look_up(target)
    made = found if isinstance(found, nn.Module) else _call(target, found)
    parts = made if isinstance(made, tuple) else (made, None)
    if len(parts) != 2 or not isinstance(parts[0], nn.Module):
        kinds = ", ".join(type(part).__name__ for part in parts) if isinstance(made, tuple) else type(made).__name__
        raise SettingError(
            f"{target} returns {kinds}; let it return a torch.nn.Module, or a tuple of it and example inputs."
        )
    return parts[0], parts[1]


def _look_up(target: str) -> Any:
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise SettingError(
            f"{target!r} names no factory: give package.module:factory, a function without arguments that returns "
            "the model, or the model and example inputs."
        )
    module = _import(module_name)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [name for name in vars(module) if not name.startswith("_")]
            raise SettingError(f"{module_name} has no {attribute!r}. {near(attribute, public)}")
        found = getattr(found, part)
    return found


def _import(name: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise SettingError(
                f"There is no module {error.name!r} in {here} or among the installed packages; run the command in the "
                "folder that holds it."
            ) from error
        raise SettingError(f"Importing {name} fails: {_told(error)}.") from error
    except Exception as error:
        raise SettingError(f"Importing {name} fails: {_told(error)}.") from error


def _call(target: str, factory: Callable[[], Any]) -> Any:
    if not callable(factory):
        raise SettingError(f"{target} is {type(factory).__name__}; give a function, a class or a torch.nn.Module.")
    try:
        return factory()
    except Exception as error:
        way_out = " Give a function that needs none." if isinstance(error, TypeError) else ""
        raise SettingError(f"{target} is called without arguments and fails: {_told(error)}.{way_out}") from error


def _told(error: Exception) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")


def _refuse_unknown(model: nn.Module, option: str, names: tuple[str, ...]) -> None:
    known = [name for name, _ in model.named_modules() if name]
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase):
            # The points of its layers, which exist while a rule is attached.
            known += [f"{name}.layer{layer}" for layer in range(module.num_layers)]
    for wanted in names:
        if not any(fnmatchcase(name, wanted) for name in known):
            raise SettingError(f"{option} {wanted}: no module of the model has this name. {near(wanted, known)}")
