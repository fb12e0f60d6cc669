"""A few steps on the digits under every rule, as checksums: `python -m faults.same_bits` prints them as JSON."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import nn
from torch.nn import functional as F

import feedalign as fa
from feedalign_lab.data.digits import load_digits

STEPS, BATCH = 3, 32


def checksums(seed: int = 0) -> dict[str, str]:
    """Of the weights, the feedback and all losses after a few steps, by rule.

    Args:
        seed: Of the weights, the feedback and the order of the data.
    """
    digits = load_digits()
    return {rule.name: _checksum(rule(), digits.x_train.flatten(1), digits.y_train, seed) for rule in fa.ALL_RULES}


def _checksum(rule: fa.Rule, x: torch.Tensor, y: torch.Tensor, seed: int) -> str:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(64, 20), nn.Tanh(), nn.Dropout(0.2), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 10)
    )
    fa.attach(model, rule, example_inputs=x[:BATCH], generator=torch.Generator().manual_seed(seed))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    digest = hashlib.sha256()
    for chosen in torch.randperm(len(x))[: STEPS * BATCH].split(BATCH):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[chosen]), y[chosen])
        loss.backward()
        optimizer.step()
        digest.update(loss.detach().numpy().tobytes())
    for value in model.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(checksums()))
