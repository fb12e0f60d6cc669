"""The one child module that holds what a rule drew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from feedalign.handle import Handle

CHILD_NAME = "feedalign"

Held = Literal["buffers", "parameters"]


class FeedbackStore(nn.Module):
    """Feedback, fixed as buffers and learned as parameters.

    So `.to()`, `state_dict`, deep copies, optimizers and DistributedDataParallel see it. Its forward is the identity,
    for whoever runs over all children.
    """

    handle: Handle
    seed: Tensor
    counter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.has_clock = False

    def forward(self, activation: Tensor) -> Tensor:
        """Return the input as it is."""
        return activation

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load feedback, and refuse that of other points or rules even where `strict` is False: it would be lost."""
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        held = {prefix + key for key in (*self._parameters, *self._buffers)}
        foreign = [key for key in state_dict if key.startswith(prefix) and key not in held]
        if foreign:
            error_msgs.append(
                f"The checkpoint holds feedback that the attached rule has no place for: {', '.join(foreign[:4])}. "
                "Attach with the rule, points= and output= of the run that saved it; to load the weights alone, load "
                "them before attach."
            )

    def keep(self, key: str, feedback: Tensor) -> None:
        """Hold a fixed feedback matrix under a key."""
        self.register_buffer(key, feedback)

    def learn(self, key: str, feedback: Tensor) -> None:
        """Hold feedback that an optimizer trains."""
        self.register_parameter(key, nn.Parameter(feedback))

    def replace(self, key: str, feedback: Tensor) -> None:
        """Put another matrix in the place of a fixed one."""
        # A new tensor, not an in-place step: a graph may still hold the one before.
        setattr(self, key, feedback)

    def start_clock(self, seed: int) -> None:
        """Hold a seed and a count of forwards, from which random numbers are made."""
        self.has_clock = True
        self.register_buffer("seed", torch.tensor(seed, dtype=torch.int64))
        self.register_buffer("counter", torch.zeros((), dtype=torch.int64))

    def step(self) -> None:
        """Move on to the next draw."""
        if not self.has_clock:
            return
        # A new tensor, not an in-place step: a compiled backward that recomputes the draw reads the buffer again.
        counter = self.counter + 1
        if torch.compiler.is_compiling():
            self.counter = counter
        else:
            # What assigning does in the end, which asks a dozen questions first.
            self._buffers["counter"] = counter

    def clock(self) -> Tensor:
        """Return seed and count, int64 `[2]`."""
        return torch.stack([self.seed, self.counter])

    def feedback(self, key: str) -> Tensor:
        """Return the feedback held under a key."""
        held = self._buffers.get(key)
        return getattr(self, key) if held is None else held


def key_of(label: str, taken: set[str]) -> str:
    """Turn the name of a feedback point or layer into a buffer name that no other has."""
    key = label.replace(".", "_").replace("#", "__") or "model"
    while key in taken or hasattr(FeedbackStore(), key) or key in {"seed", "counter", "handle"}:
        key += "_"
    return key
