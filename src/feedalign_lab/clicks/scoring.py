"""New rows, scored by a network that `feedalign train` left behind."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from feedalign_lab.clicks.batches import ROWS_OF_MEASUREMENT
from feedalign_lab.clicks.networks import build_network
from feedalign_lab.clicks.row_encoder import ENCODER_NAME, RowEncoder
from feedalign_lab.errors import MissingDataError
from feedalign_lab.results import RESULTS_NAME, WEIGHTS_NAME
from feedalign_lab.running import evaluating


@dataclass(frozen=True, eq=False)
class Scorer:
    """A trained network, and what makes categories of rows for it.

    Attributes:
        encoder: Makes categories as they were made of the training rows.
        model: The network, without a rule: categories [N, F] to logits [N, 1].
    """

    encoder: RowEncoder
    model: nn.Module

    @torch.no_grad()
    def probabilities(self, rows: Sequence[Mapping[str, object]]) -> NDArray[np.float64]:
        """How probable clicks are.

        Args:
            rows: As in `RowEncoder.encode`.

        Returns:
            A probability for each row, [n].

        Raises:
            CorruptFileError: A row lacks a field, or has something else where a number is expected.
        """
        categories = torch.from_numpy(self.encoder.encode(rows)).long()
        with evaluating(self.model):
            logits = [self.model(some) for some in categories.split(ROWS_OF_MEASUREMENT) if len(some)]
        together = torch.cat([torch.empty(0, 1), *logits]).double().sigmoid().squeeze(1)
        found: NDArray[np.float64] = together.numpy()
        return found


def load_scorer(folder: Path) -> Scorer:
    """Read what a training left behind.

    Args:
        folder: Results of `feedalign train` on a click log.

    Returns:
        The scorer, on the CPU.

    Raises:
        MissingDataError: Something is not there.
        CorruptFileError: The encoder's file is damaged.
    """
    for name in (RESULTS_NAME, WEIGHTS_NAME, ENCODER_NAME):
        if not (folder / name).is_file():
            raise MissingDataError(
                f"{folder} has no {name}; `feedalign train` leaves it for a click log, unless its trial diverged."
            )
    encoder = RowEncoder.load(folder / ENCODER_NAME)
    name = json.loads((folder / RESULTS_NAME).read_text(encoding="utf-8"))["network"]["name"]
    model = build_network(name, encoder.num_categories, len(encoder.sizes), seed=0)
    model.load_state_dict(torch.load(folder / WEIGHTS_NAME, map_location="cpu", weights_only=True))
    return Scorer(encoder, model)
