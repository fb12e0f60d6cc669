"""Perplexity of a model on a part of a text."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedalign_lab.running import evaluating

_TOKENS_AT_ONCE = 8192


@torch.no_grad()
def mean_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Mean cross-entropy of a token, in nats.

    Args:
        model: The Transformer; switched to evaluation for the measurement and back.
        inputs: Token numbers, `[N, T]`.
        targets: The token behind each of them, `[N, T]`.

    Returns:
        The mean over all tokens, each counted once.
    """
    total = 0.0
    chunks_at_once = max(1, _TOKENS_AT_ONCE // inputs.shape[1])
    with evaluating(model):
        for x, y in zip(inputs.split(chunks_at_once), targets.split(chunks_at_once), strict=True):
            total += float(F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum"))
    return total / targets.numel()


def token_counts(targets: Tensor, vocab_size: int) -> Tensor:
    """Count tokens.

    Args:
        targets: Token numbers, `[N, T]`.
        vocab_size: Number of tokens there are.

    Returns:
        How often each occurs, `[vocab_size]`.
    """
    return torch.bincount(targets.flatten(), minlength=vocab_size)


def loss_by_counts(counts: Tensor, targets: Tensor) -> float:
    """Mean cross-entropy of a token told by nothing but how often each occurs, one added to every count.

    Args:
        counts: Counts in the training part, `[vocab_size]`.
        targets: Token numbers, `[N, T]`.

    Returns:
        The mean, in nats.
    """
    log_shares = (counts.double() + 1).log() - (counts.sum().double() + counts.numel()).log()
    return -float(log_shares[targets.flatten()].mean())


def perplexity(loss: float) -> float:
    """Return the perplexity of a mean cross-entropy in nats; infinite where it is too large for a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
