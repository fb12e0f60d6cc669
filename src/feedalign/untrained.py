"""Notices an optimizer that trains the model and leaves out the feedback that the rule learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from feedalign.errors import UntrainedFeedbackError
from feedalign.store import FeedbackStore

# Steps of the others before it is certain: weights are also changed by hand, or loaded, between two forwards.
_PATIENCE = 10
# Looking waits for a GPU; an optimizer shows in the first few steps.
_MOST_LOOKS = 64


class FeedbackWatch:
    """Looks at the first forwards whether the output layer moves while the learned feedback never does.

    Values are compared: torch's fused optimizers leave a tensor's version as it was.

    Args:
        model: The attached model.
        store: Its feedback.
        averages: Names in the store of feedback that moves in the forward, in training mode.
        witnesses: Names of parameters that every optimizer step moves, those of the output layer.
        delay: Backward passes after which the first gradient of the feedback arrives.
    """

    def __init__(
        self,
        model: nn.Module,
        store: FeedbackStore,
        averages: Sequence[str],
        witnesses: Sequence[str],
        delay: int = 0,
    ) -> None:
        self.model, self.store = model, store
        self.averages, self.witnesses = tuple(averages), tuple(witnesses)
        self.num_looks = self.num_stale = 0
        self.patience, self.most_looks = _PATIENCE + delay, _MOST_LOOKS + delay
        self.is_over = not averages and not any(True for _ in store.parameters())
        self.witness: Tensor | None = None
        self.feedback: list[Tensor] = []

    def __getstate__(self) -> dict[str, Any]:
        """A copy begins to look anew."""
        return {**self.__dict__, "witness": None, "feedback": [], "num_looks": 0, "num_stale": 0}

    def look(self) -> None:
        """Look; call it where a forward begins, in eager code.

        Raises:
            UntrainedFeedbackError: The output layer moved several times, and the feedback never.
        """
        if self.is_over:
            return
        parameters: dict[str, Tensor] = dict(self.model.named_parameters())
        seen = [parameters[name] for name in self.witnesses if name in parameters]
        learned = [p.detach() for p in self.store.parameters() if p.requires_grad]
        learned += [self.store.feedback(key) for key in self.averages]
        # Under functional_call other tensors stand in the places of the parameters.
        if not seen or not learned or not all(isinstance(tensor, nn.Parameter) for tensor in seen):
            return
        self._compare(min(seen, key=Tensor.numel).detach(), learned)

    def _compare(self, witness: Tensor, learned: list[Tensor]) -> None:
        self.num_looks += 1
        # A model may be sharded between two forwards: what was seen in full is a piece then.
        if self.witness is None or type(witness) is not type(self.witness):
            self.witness, self.feedback = witness.clone(), [matrix.clone() for matrix in learned]
        elif not torch.equal(witness, self.witness):
            self.witness = witness.clone()
            self.num_stale += 1
            has_moved = len(learned) != len(self.feedback) or not all(map(torch.equal, learned, self.feedback))
            self.is_over = has_moved
        if self.num_looks >= self.most_looks or self.is_over:
            self.is_over, self.witness, self.feedback = True, None, []
        elif self.num_stale >= self.patience:
            self.num_stale = 0
            raise UntrainedFeedbackError(_ASLEEP if self.averages else _LEFT_OUT)


_LEFT_OUT = (
    "The optimizer moves the model's weights but not the feedback that the rule learns: it was built before attach() "
    "or from a list of parameters that lacks them, or their learning rate is 0. Build it after attach, from "
    "model.parameters() or handle.parameter_groups(lr=..., feedback_lr=...). To keep the feedback as it is on purpose, "
    "for good or for a time: handle.store.requires_grad_(False)."
)
_ASLEEP = (
    "The optimizer moves the model's weights but the feedback stands still: it is an average that moves in the forward "
    "in training mode, and the model is in evaluation mode. Call model.train(), and put what is to stay in evaluation "
    "mode, such as frozen normalizations, back with .eval()."
)
