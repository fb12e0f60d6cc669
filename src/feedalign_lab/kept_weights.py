"""The weights after the epoch that counts."""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from feedalign_lab.records import Better, EpochRecord, OnEpoch, best_of


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

    def watching(self, model: nn.Module, on_epoch: OnEpoch) -> OnEpoch:
        """Be told of epochs.

        Args:
            model: What is trained.
            on_epoch: Who else is told.

        Returns:
            What to call after each epoch.
        """

        def told(record: EpochRecord) -> None:
            score = record.validation_score
            if self.judged_at == "last" or score is None:
                self.epoch = record.epoch
            elif self._is_better(score):
                self.epoch, self._score = record.epoch, score
                self._copies = {name: entry.detach().clone() for name, entry in model.state_dict().items()}
            on_epoch(record)

        return told

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
