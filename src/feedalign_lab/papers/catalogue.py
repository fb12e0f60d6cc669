"""The five papers by name; each is read when it is asked for."""

import importlib
from collections.abc import Mapping
from typing import cast

from feedalign_lab.errors import UnknownNameError
from feedalign_lab.papers.cells import Paper

_PACKAGES: Mapping[str, str] = {
    "drtp": "drtp",
    "dirdfa": "dirdfa",
    "fdfa": "fdfa",
    "dfa-scales": "dfa_scales",
    "rnn-dfa": "rnn_dfa",
}

PAPER_NAMES = tuple(_PACKAGES)


def all_papers() -> tuple[Paper, ...]:
    """Every paper, with its tables."""
    return tuple(paper_named(name) for name in PAPER_NAMES)


def paper_named(name: str) -> Paper:
    """The paper of a name.

    Args:
        name: What a user typed.

    Returns:
        The paper.

    Raises:
        UnknownNameError: There is none.
    """
    if name not in _PACKAGES:
        raise UnknownNameError("paper", name, PAPER_NAMES)
    return cast("Paper", importlib.import_module(f"feedalign_lab.papers.{_PACKAGES[name]}").PAPER)
