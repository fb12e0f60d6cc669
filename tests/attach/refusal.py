"""Refusals: a typed error, a sentence that says what was found and what to do, and a model left as it was."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

import feedalign as fa
from attach.model_state import left_as_it_was


def assert_refused(model: nn.Module, error: type[Exception], *words: str, rule: Any = None, **arguments: Any) -> None:
    """Attach and expect exactly this error, with these words in its sentence; the model must not have changed."""
    with left_as_it_was(model), pytest.raises(fa.errors.FeedalignError) as caught:
        fa.attach(model, fa.DFA() if rule is None else rule, **arguments)
    assert_says(caught.value, error, *words)


def assert_says(caught: BaseException, error: type[Exception], *words: str) -> None:
    """Expect exactly this error, and these words in its sentence."""
    assert type(caught) is error, f"{type(caught).__name__}: {caught}"
    missing = [word for word in words if word not in str(caught)]
    assert not missing, f"{missing} not in: {caught}"
