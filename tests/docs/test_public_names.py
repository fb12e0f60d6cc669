"""Every public name is documented."""

from __future__ import annotations

import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import feedalign as fa

ROOT = Path(__file__).parents[2]
DIRECTIVE = re.compile(r"^\.\. auto(\w+):: feedalign\.([\w.]+)(?:\(\))?$", re.MULTILINE)
LINK = re.compile(r"\{py:\w+\}`~?feedalign\.([\w.]+)`")


def documented() -> set[str]:
    names: set[str] = set()
    for page in (ROOT / "docs").glob("*.md"):
        for kind, name in DIRECTIVE.findall(page.read_text(encoding="utf-8")):
            names |= {f"{name}.{own}" for own in classes_of(look_up(name))} if kind == "module" else {name}
    return names


def classes_of(module: object) -> list[str]:
    return [name for name, value in vars(module).items() if inspect.isclass(value)]


def objects() -> list[str]:
    """Public names of classes and functions, those of the modules `errors`, `measure` and `nn` included."""
    names = [name for name in fa.__all__ if not inspect.ismodule(getattr(fa, name)) and name != "ALL_RULES"]
    names += [f"measure.{name}" for name in fa.measure.__all__]
    names += [f"nn.{name}" for name in fa.nn.__all__]
    names += [f"errors.{name}" for name in classes_of(fa.errors)]
    return names


def look_up(name: str) -> object:
    return pkgutil.resolve_name(f"feedalign.{name}")


@pytest.mark.parametrize("name", objects())
def test_has_a_docstring_of_its_own(name: str) -> None:
    value = look_up(name)
    # A dataclass without one is given its signature as a docstring.
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name.rpartition('.')[2]}(")


@pytest.mark.parametrize("name", objects())
def test_is_in_the_reference(name: str) -> None:
    assert name in documented()


def test_the_pages_name_nothing_that_is_not_there() -> None:
    linked = {name for page in (ROOT / "docs").glob("*.md") for name in LINK.findall(page.read_text(encoding="utf-8"))}
    assert linked
    for name in documented() | linked:
        assert look_up(name) is not None


def test_all_rules_and_modules_are_named_in_the_reference() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for name in ("ALL_RULES", "measure", "nn", "errors"):
        assert f"`fa.{name}`" in page


def test_every_name_in_all_exists() -> None:
    for name in fa.__all__:
        assert hasattr(fa, name)
