"""Becoming what was saved, all of it or nothing."""

import copy
from collections.abc import Mapping
from typing import Any, Protocol

from feedalign_lab.checkpoints.file import Content
from feedalign_lab.checkpoints.keeper import Checkpoints

# Torch names every tensor that does not fit.
_LONGEST_REASON = 200


class Stateful(Protocol):
    """What can be saved and become again what it was."""

    def state(self) -> Mapping[str, Any]:
        """What `load_state` takes."""

    def load_state(self, state: Any) -> None:
        """Become what another one was."""


def resume(parts: Mapping[str, Stateful], checkpoints: Checkpoints) -> Content | None:
    """Become what was saved; where it does not fit after all, be as new, and say so.

    Args:
        parts: All that changes as a training goes on, by name.
        checkpoints: Of the training.

    Returns:
        What was gone on from; None where the training begins anew.
    """
    content = checkpoints.newest()
    if content is None:
        return None
    fresh = {name: copy.deepcopy(part.state()) for name, part in parts.items()}
    try:
        for name, part in parts.items():
            part.load_state(content[name])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        for name, part in parts.items():
            part.load_state(fresh[name])
        checkpoints.begin_anew(" ".join(str(error).split())[:_LONGEST_REASON])
        return None
    return content
