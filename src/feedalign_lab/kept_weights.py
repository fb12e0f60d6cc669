"""The weights after the epoch that counts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from feedalign_lab.records import Better, EpochRecord, best_of


@dataclass
class KeptWeights:
    """Watches a trial: where the epoch with the best validation score counts, its weights are copied.

    Attributes:
        judged_at: The epoch that counts.
        better: Which way scores are better.
        epoch: Of the weights; 0 before the first.
    """

    judged_at: Literal["last", "chosen"]
    better: Better
    epoch: int = 0
    _score: float | None = None
    _copies: dict[str, Tensor] = field(default_factory=dict)

    def see(self, model: nn.Module, record: EpochRecord) -> None:
        """Be told of an epoch.

        Args:
            model: What is trained, as it is after the epoch.
            record: Of the epoch.
        """
        score = record.validation_score
        if self.judged_at == "last" or score is None:
            self.epoch = record.epoch
        elif self._is_better(score):
            self.epoch, self._score = record.epoch, score
            self._copies = {name: entry.detach().clone() for name, entry in model.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """What `load_state` takes."""
        return {"epoch": self.epoch, "score": self._score, "copies": self._copies}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Keep what another one kept."""
        self.epoch, self._score, self._copies = state["epoch"], state["score"], dict(state["copies"])

    def _is_better(self, score: float) -> bool:
        before = [] if self._score is None else [(self._score, False)]
        return best_of([*before, (score, True)], self.better) is True

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the weights of the epoch that counts.

        Args:
            model: What was trained, without its rule.

        Returns:
            As its `state_dict`.
        """
        return {name: self._copies.get(name, entry) for name, entry in model.state_dict().items()}
