"""The Python examples of README.md and of every page in docs/ run as tests; how tests are spread over processes."""

from __future__ import annotations

import doctest
import gc
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser
from xdist.scheduler import LoadFileScheduling

ROOT = Path(__file__).parent


def start_page(namespace: dict[str, Any]) -> None:
    """Give every page the same random numbers, whichever ran before."""
    import torch

    namespace["_random_state"] = torch.get_rng_state()
    torch.manual_seed(0)


def end_page(namespace: dict[str, Any]) -> None:
    """Put the random state back."""
    import torch

    torch.set_rng_state(namespace["_random_state"])


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)],
    patterns=["README.md", "docs/*.md", "docs/trainers/*.md", "docs/decisions/*.md"],
    excludes=["docs/_build/*"],
    path=str(ROOT),
    setup=start_page,
    teardown=end_page,
).pytest()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """Keep the tests of a file in one process, unless another way was asked for.

    The examples of a page share their names. Tests of one file share fixtures and what they compile, which would
    otherwise be made in every process.
    """
    return LoadFileScheduling(config, log) if config.getvalue("dist") == "load" else None


class Survivors:
    """What is alive between tests (modules, tests, compiled code), kept out of the reach of searches for garbage.

    Trainers and compilers search often, and each search would go through a million objects. What a test makes is
    collected as ever.
    """

    MANY_MODULES = 20

    def __init__(self) -> None:
        self.num_modules = 0

    def set_aside(self) -> None:
        """Collect what is garbage and set the rest aside."""
        gc.collect()
        gc.freeze()
        self.num_modules = len(sys.modules)

    def are_many_after(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        """Whether a file ends here or a test imported much; what the examples of a page share must stay in reach."""
        is_last = nextitem is not None and nextitem.path != item.path
        return is_last or (item.path.suffix == ".py" and len(sys.modules) > self.num_modules + self.MANY_MODULES)


SURVIVORS = Survivors()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import the test files without searching for garbage among what they bring, since nearly all of it stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        SURVIVORS.set_aside()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Clean up where it is worth it."""
    result = yield
    if SURVIVORS.are_many_after(item, nextitem):
        SURVIVORS.set_aside()
    return result
