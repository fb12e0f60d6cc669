"""What `feedalign check` does: find a model by the name of what makes it, and check it."""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from shlex import join
from types import ModuleType
from typing import Any, get_args

from torch import nn

import feedalign as fa
from feedalign.checking.verdict import Suggestion
from feedalign.points import near
from feedalign.rules.base import DirectRule, Positions, Rule
from feedalign.rules.local_greedy import LocalGreedy
from feedalign_lab.choices import make_rule
from feedalign_lab.errors import SettingError, UnknownNameError
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
    rule = _rule(options)
    points = [name for text in options.points for name in text.split(",") if name]
    # What a factory and a forward print is no part of the result.
    with redirect_stdout(sys.stderr):
        model, example_inputs = _load(options.target)
        _refuse_unknown(model, "--points", points)
        _refuse_unknown(model, "--output", [] if options.output is None else [options.output])
        found = fa.check(model, example_inputs, rule, points=points or None, output=options.output)
    _refuse_inputs(options.target, found, has_inputs=example_inputs is not None)
    if options.json:
        print(to_json(found.to_dict()).rstrip())
    else:
        print(found)
        print(*_tries(options, found.suggestions), sep="\n", end="")
    return _EXIT_FINE if found.ok else _EXIT_NOT_ALL_TAUGHT


def _rule(options: CheckOptions) -> Rule:
    rule = make_rule(options.rule, "classification")
    known: tuple[Positions, ...] = get_args(Positions)
    if options.positions is None:
        return rule
    if not isinstance(rule, (DirectRule, LocalGreedy)):
        raise SettingError(f"--positions: {options.rule} projects no error onto positions; leave it out.")
    for positions in known:
        if options.positions == positions:
            return replace(rule, positions=positions)
    raise UnknownNameError("choice of positions", options.positions, known)


def _refuse_inputs(target: str, found: fa.Check, *, has_inputs: bool) -> None:
    """What a factory returns is an argument of the command, so that inputs of a wrong kind are wrong usage."""
    name, _, sentence = (found.refusal or "").partition(": ")
    if name != "ExampleInputsError":
        return
    if has_inputs:
        raise SettingError(f"{target}: {sentence}")
    why = "and the model does not tell what it is called with"
    if found.notes:
        why = f"and was {found.notes[0]}: {sentence.partition('. Give inputs')[0]}"
    raise SettingError(
        f"{target} comes without example inputs, {why}. Let it be a function that returns (model, inputs): a batch as "
        "in training, as a tensor, a tuple of positional arguments or a dict of keyword arguments."
    )


def _tries(options: CheckOptions, suggestions: tuple[Suggestion, ...]) -> list[str]:
    """The first suggestion that the command can be given, as a command."""
    for suggestion in suggestions:
        positions = options.positions if suggestion.rule is None else getattr(suggestion.rule, "positions", None)
        if isinstance(suggestion.rule, Mapping):
            continue
        given = {"--rule": options.rule, "--positions": positions, "--output": suggestion.output or options.output}
        words = [word for name, value in given.items() if value is not None for word in (name, value)]
        points = options.points if suggestion.points is None else suggestion.points
        words += ["--points", *points] if points else []
        return [f"> here: {join(['feedalign', 'check', options.target, *words])}", ""]
    return []


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
            names = _factories(module) if found is module else [name for name in vars(found) if name[0] != "_"]
            hint = near(part, names) if names else "It defines no function, class or model."
            raise SettingError(f"{module_name} has no {attribute!r}. {hint}")
        found = getattr(found, part)
    return found


def _factories(module: ModuleType) -> list[str]:
    """What a module defines and could make a model, less what it imports from elsewhere."""
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    home = module.__name__
    own = [
        name
        for name, value in public.items()
        if callable(value) and f"{getattr(value, '__module__', '')}.".startswith(f"{home}.")
    ]
    models = [name for name, value in public.items() if isinstance(value, nn.Module)]
    return list(dict.fromkeys([*own, *models]))


def _import(name: str) -> ModuleType:
    if name.endswith(".py") and (os.sep in name or Path(name).exists()):
        module = name.removesuffix(".py").replace(os.sep, ".").strip(".")
        raise SettingError(f"{name!r} is a file; name its module, without .py: {module}:factory.")
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


def _refuse_unknown(model: nn.Module, option: str, names: list[str]) -> None:
    known = [name for name, _ in model.named_modules() if name]
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase):
            # The points of its layers, which exist while a rule is attached.
            known += [f"{name}.layer{layer}" for layer in range(module.num_layers)]
    for wanted in names:
        if not any(fnmatchcase(name, wanted) for name in known):
            raise SettingError(f"{option} {wanted}: no module of the model has this name. {near(wanted, known)}")
