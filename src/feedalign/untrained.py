"""Notices an optimizer that trains the model and leaves out the feedback that the rule learns."""

from __future__ import annotations

from torch import Tensor, nn

from feedalign.errors import UntrainedFeedbackError
from feedalign.store import FeedbackStore

# Steps of the others before it is certain: weights are also changed by hand, or loaded, between two forwards.
_PATIENCE = 3


class FeedbackWatch:
    """Looks at each forward whether the model's weights moved while the learned feedback never did.

    Args:
        model: The attached model.
        store: Its feedback.
    """

    def __init__(self, model: nn.Module, store: FeedbackStore) -> None:
        self.model, self.store = model, store
        self.num_stale = 0
        self.is_trained = not any(True for _ in store.parameters())
        self.seen: tuple[int, int] | None = None

    def look(self) -> None:
        """Look; call it where a forward begins, in eager code.

        Raises:
            UntrainedFeedbackError: The weights moved several times, and the feedback never.
        """
        if self.is_trained:
            return
        held: list[Tensor] = list(self.model.parameters())
        # Under functional_call other tensors stand in the places of the parameters.
        if not all(isinstance(tensor, nn.Parameter) for tensor in held):
            return
        learned = {id(p) for p in self.store.parameters() if p.requires_grad}
        versions = [0, 0]
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                versions[id(parameter) in learned] += parameter._version
        others, own = versions
        before, self.seen = self.seen, (others, own)
        if before is None or not learned:
            return
        if own != before[1]:
            self.is_trained = True
        elif others != before[0]:
            self.num_stale += 1
        if self.num_stale >= _PATIENCE:
            self.num_stale = 0
            raise UntrainedFeedbackError(
                "The optimizer moves the model's weights but not the feedback that the rule learns, so it was built "
                "before attach() or from a list of parameters that lacks them. Build it after attach, from "
                "model.parameters() or handle.parameter_groups(lr=..., feedback_lr=...). To keep the feedback as it is "
                "on purpose: handle.store.requires_grad_(False)."
            )
