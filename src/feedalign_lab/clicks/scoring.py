"""New rows, scored by a network that `feedalign train` left behind."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from feedalign_lab.clicks.batches import ROWS_OF_MEASUREMENT
from feedalign_lab.clicks.names import NETWORK_NAMES
from feedalign_lab.clicks.networks import build_network
from feedalign_lab.clicks.row_encoder import ENCODER_NAME, RowEncoder
from feedalign_lab.errors import CorruptFileError, MissingDataError
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
        CorruptFileError: A file is damaged, or does not belong to the others.
    """
    for name in (RESULTS_NAME, WEIGHTS_NAME, ENCODER_NAME):
        if not (folder / name).is_file():
            raise MissingDataError(
                f"{folder} has no {name}; `feedalign train` leaves it for a click log, unless its trial diverged."
            )
    encoder = RowEncoder.load(folder / ENCODER_NAME)
    weights = _weights(folder / WEIGHTS_NAME)
    if encoder.num_categories > sum(entry.numel() for entry in weights.values()):
        raise CorruptFileError(
            f"{folder / ENCODER_NAME} has {encoder.num_categories} categories, more than there are numbers in "
            f"{WEIGHTS_NAME}: the two are of different trainings, or one is damaged. Train anew."
        )
    model = build_network(_network_name(folder / RESULTS_NAME), encoder.num_categories, len(encoder.sizes), seed=0)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CorruptFileError(
            f"{folder / WEIGHTS_NAME} does not fit the network and the encoder beside it ({error}): train anew."
        ) from error
    return Scorer(encoder, model)


def _network_name(path: Path) -> str:
    """The name of the network that was trained."""
    try:
        name = json.loads(path.read_text(encoding="utf-8"))["network"]["name"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptFileError(f"{path} does not tell which network was trained: train anew.") from error
    if name not in NETWORK_NAMES:
        raise CorruptFileError(
            f"{path} says that the network was {name!r}; those for click logs are {', '.join(NETWORK_NAMES)}. Train "
            "anew."
        )
    return str(name)


def _weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged file makes torch raise nearly anything.
        raise CorruptFileError(f"{path} cannot be read as weights ({error}): train anew.") from error
    if not isinstance(saved, dict) or not all(isinstance(entry, Tensor) for entry in saved.values()):
        raise CorruptFileError(f"{path} holds no weights by name: train anew.")
    return saved
