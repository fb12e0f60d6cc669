"""Settings of "Direct Feedback Alignment for Recurrent Neural Networks" (appendix B): RNN and GRU on four data sets.

Adam at a constant rate, every gradient clipped at 2, five runs. Width, rate and batch size were chosen in a grid search
on the validation part, by data set, cell and rule.

Differs from the paper:

* The paper's GRU resets the state before it multiplies it: "gru-before" here. "gru" is torch's, which resets after it,
  with the settings borrowed.
* "clip = 2" does not say of what. Here it is the norm of the gradient of all weights together; the authors' code scales
  the update of every parameter to norm 1 and then clips its entries.
* The updates of the GRU are the derivatives of its step, not those printed in appendix A, which has slips.
* The paper does not say after which epoch the test accuracy was taken; the authors' code takes the best of all epochs
  on the test part. Here it is the last epoch, or the one with the best validation error.
* Row-MNIST keeps MNIST's own test images and trains on the 60,000 others, where the paper splits all 70,000 at random;
  its number of epochs is not stated.
* Inputs are scaled as the data sets have them, which the paper says nothing of; pixels to mean 0 and variance 1.
* Libras has 45 steps of 2 coordinates; the paper's "length 90" counts both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from feedalign_lab.models import NetworkName

APPENDIX_B = "DFA for recurrent networks, appendix B"
CLIP = 2.0
EPOCHS: Mapping[str, int] = {"libras": 900, "strawberry": 300, "ecg200": 500}
GRID_WIDTHS = (50, 512)
GRID_RATES = (0.0005, 0.001, 0.005, 0.01)
GRID_BATCH_SIZES = (10, 100, 256)

Cell = Literal["rnn", "gru"]


@dataclass(frozen=True)
class Chosen:
    """What the paper's grid search chose for one data set, cell and rule."""

    width: int
    rate: float
    batch_size: int


CHOSEN: Mapping[tuple[str, Cell], Mapping[str, Chosen]] = {
    ("libras", "rnn"): {"dfa": Chosen(512, 0.0005, 10), "backprop": Chosen(512, 0.0005, 10)},
    ("libras", "gru"): {"dfa": Chosen(512, 0.0005, 10), "backprop": Chosen(512, 0.01, 10)},
    ("strawberry", "rnn"): {"dfa": Chosen(512, 0.0005, 100), "backprop": Chosen(50, 0.0005, 256)},
    ("strawberry", "gru"): {"dfa": Chosen(50, 0.0005, 10), "backprop": Chosen(50, 0.005, 10)},
    ("ecg200", "rnn"): {"dfa": Chosen(50, 0.0005, 256), "backprop": Chosen(50, 0.0005, 256)},
    ("ecg200", "gru"): {"dfa": Chosen(50, 0.01, 256), "backprop": Chosen(50, 0.0005, 256)},
    ("row-mnist", "rnn"): {"dfa": Chosen(512, 0.005, 100), "backprop": Chosen(50, 0.0005, 10)},
    ("row-mnist", "gru"): {"dfa": Chosen(512, 0.005, 100), "backprop": Chosen(512, 0.0005, 100)},
}
"""The settings of appendix B."""

_CELLS: Mapping[str, Cell] = {"rnn": "rnn", "gru-before": "gru"}


def of_paper(data: str, network: NetworkName, rule: str) -> Chosen | None:
    """The paper's own setting, where it trained that network on that data with that rule; else None."""
    cell = _CELLS.get(network.family)
    if cell is None or network.num_hidden > 1:
        return None
    chosen = CHOSEN.get((data, cell), {}).get(rule)
    return chosen if chosen is not None and chosen.width == network.width else None


def nearest(data: str, network: NetworkName, rule: Literal["dfa", "backprop"]) -> Chosen | None:
    """The setting of the nearest cell, of whatever width; None for data that the paper does not have."""
    return CHOSEN.get((data, "rnn" if network.family == "rnn" else "gru"), {}).get(rule)


def batch_size_of(data: str, network: NetworkName) -> tuple[int, bool] | None:
    """Examples per step.

    Args:
        data: Name of the data set.
        network: A recurrent network.

    Returns:
        The number, and whether the paper trained that network with some rule, which decides it: no two rules have the
        same width and batches of different sizes. None for data that the paper does not have.
    """
    for rule in ("dfa", "backprop"):
        if (chosen := of_paper(data, network, rule)) is not None:
            return chosen.batch_size, True
    near = nearest(data, network, "dfa")
    return None if near is None else (near.batch_size, False)
