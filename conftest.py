"""The Python examples of README.md and of every page in docs/ run as tests."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser
from xdist.scheduler import LoadScopeScheduling

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


class PageScheduling(LoadScopeScheduling):
    """Under -n: the examples of one page stay in one process, since they share their names; tests go one by one."""

    def _split_scope(self, nodeid: str) -> str:
        """Return what a test is scheduled together with."""
        page = nodeid.partition("::")[0]
        return page if page.endswith(".md") else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> PageScheduling | None:
    """Schedule by page, unless another way was asked for."""
    return PageScheduling(config, log) if config.getvalue("dist") == "load" else None
