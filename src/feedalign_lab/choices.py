"""From the rule names a user types to rules."""

import feedalign as fa
from feedalign.rules import Rule
from feedalign_lab.data.dataset import Task
from feedalign_lab.errors import SettingError, UnknownNameError
from feedalign_lab.names import DATA_NAMES, REGRESSION_NAMES

ALL = "all"
_NEEDS_CLASSES = "needs classes"


def rule_names() -> tuple[str, ...]:
    """Names of all rules, in the library's order."""
    return tuple(rule.name for rule in fa.ALL_RULES)


def task_of(data: str) -> Task:
    """What a data set is for, known before it is loaded.

    Args:
        data: Name of the data set.

    Returns:
        The task.

    Raises:
        UnknownNameError: There is no data set of that name.
    """
    if data not in DATA_NAMES:
        raise UnknownNameError("data set", data, DATA_NAMES)
    return "regression" if data in REGRESSION_NAMES else "classification"


def rule_class(name: str) -> type[Rule]:
    """The rule of a name.

    Args:
        name: A name out of `rule_names()`.

    Returns:
        The class of the rule.

    Raises:
        UnknownNameError: There is no rule of that name.
    """
    for candidate in fa.ALL_RULES:
        if candidate.name == name:
            return candidate
    raise UnknownNameError("rule", name, rule_names())


def make_rule(name: str, task: Task) -> Rule:
    """The rule of a name with the options that a task needs.

    Args:
        name: A name out of `rule_names()`.
        task: What is learned; it decides how the sign rule finds the scale of the loss.

    Returns:
        The rule.

    Raises:
        SettingError: The rule does not suit the task.
    """
    if task == "regression" and name not in rule_names_for(task):
        raise SettingError(f"{name} needs class targets, so it cannot learn a regression task.")
    if task == "regression" and name == "sign-dfa":
        return fa.SignDFA(link="other")
    return rule_class(name)()


def rule_names_for(task: Task) -> tuple[str, ...]:
    """Names of the rules that can learn a task: DRTP projects class targets, so it has no regression."""
    return tuple(name for name in rule_names() if task == "classification" or name != "drtp")


def left_out(text: str, task: Task) -> dict[str, str]:
    """The rules that "all" does not stand for in a task.

    Args:
        text: What `parse_rule_names` is given.
        task: What is to be learned.

    Returns:
        Why each rule is left out, by its name; empty where the rules are named one by one.
    """
    if text.strip().lower() != ALL:
        return {}
    suited = rule_names_for(task)
    return {name: _NEEDS_CLASSES for name in rule_names() if name not in suited}


def parse_rule_names(text: str, task: Task) -> tuple[str, ...]:
    """Split a list of rule names.

    Args:
        text: Names with commas between them, or "all" for every rule that suits the task.
        task: What is to be learned.

    Returns:
        The names, each once, in the order given.

    Raises:
        SettingError: No name is given.
    """
    names = [part.strip().lower() for part in text.split(",") if part.strip()]
    if not names:
        raise SettingError(f"No rule is named: give {ALL!r} or some of {', '.join(rule_names())}.")
    if names == [ALL]:
        return rule_names_for(task)
    for name in names:
        rule_class(name)
        make_rule(name, task)
    return tuple(dict.fromkeys(names))
