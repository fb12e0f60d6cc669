"""The Python examples of README.md and of every page in docs/ run as tests."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest
from sybil import Sybil
from sybil.integration.pytest import SybilItem
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser

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
    parsers=[PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE), SkipParser()],
    patterns=["README.md", "docs/*.md"],
    excludes=["docs/_build/*"],
    path=str(ROOT),
    setup=start_page,
    teardown=end_page,
).pytest()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the examples of one page in one process: they share their names."""
    for item in items:
        if isinstance(item, SybilItem):
            item.add_marker(pytest.mark.xdist_group(item.path.name))
