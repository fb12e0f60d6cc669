"""Area under the ROC curve and log loss of a network on held-out rows."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import log_loss, roc_auc_score
from torch import nn

from feedalign_lab.clicks.batches import batches_in_order
from feedalign_lab.clicks.store import Part
from feedalign_lab.running import evaluating


@dataclass(frozen=True)
class Quality:
    """How good predictions are.

    Attributes:
        auc: Of all pairs of rows, one clicked and one not, the share that the predictions put in order.
        log_loss: Mean negative logarithm of the probability given to what happened, in nats.
    """

    auc: float
    log_loss: float


@torch.no_grad()
def measure(model: nn.Module, part: Part, device: torch.device) -> Quality:
    """Measure a network on a part; twelve bytes are held for each row.

    Args:
        model: The network; switched to evaluation for the measurement and back.
        part: The rows, clicks and others among them.
        device: Where the network is.

    Returns:
        Its quality; nan in both where an output is not finite.
    """
    logits = np.empty(part.num_rows)
    labels = np.empty(part.num_rows, dtype=np.uint8)
    start = 0
    with evaluating(model):
        for x, y in batches_in_order(part, device):
            stop = start + len(y)
            logits[start:stop] = model(x).squeeze(1).double().cpu().numpy()
            labels[start:stop] = y.squeeze(1).cpu().numpy()
            start = stop
    if not np.isfinite(logits).all():
        return Quality(float("nan"), float("nan"))
    # In float64 and by logits: where probabilities round to 0 or 1, ties would tell nothing.
    probabilities = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
    return Quality(float(roc_auc_score(labels, logits)), float(log_loss(labels, probabilities)))
