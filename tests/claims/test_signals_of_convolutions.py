"""In convolution layers signals stay at right angles to backprop's, while those of the layer above come nearer.

Frenkel et al. 2021 have it on MNIST (Supp. Fig. 3); here a smaller network of the same kind learns scikit-learn's
digits.
"""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa

NUM_TRAIN, NUM_STEPS, BATCH_SIZE = 1200, 200, 50


def digits() -> tuple[Tensor, Tensor]:
    """Images `[N, 1, 16, 16]` between -1 and 1, and one-hot targets `[N, 10]`."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32) / 8 - 1
    return images.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None], F.one_hot(
        torch.tensor(found.target)
    ).float()


def network() -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 5, padding=2), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(512, 100), nn.Tanh(), nn.Linear(100, 10), nn.Sigmoid(),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            bound = (parameter[0].numel() if parameter.dim() > 1 else 100) ** -0.5
            parameter.uniform_(-bound, bound, generator=generator)
    return model


@pytest.mark.parametrize("rule", [fa.FA(), fa.DFA(), fa.DRTP()], ids=lambda rule: rule.name)
def test_the_convolution_is_not_aligned_and_the_layer_above_it_is(rule: fa.Rule) -> None:
    images, targets = digits()
    model = network()
    fa.attach(model, rule, example_inputs=images[:2], generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = torch.Generator().manual_seed(2)
    held_out = images[NUM_TRAIN:], targets[NUM_TRAIN:]
    seen = []
    for step in range(1, NUM_STEPS + 1):
        chosen = torch.randint(NUM_TRAIN, (BATCH_SIZE,), generator=batches)
        optimizer.zero_grad()
        F.binary_cross_entropy(model(images[chosen]), targets[chosen]).backward()
        optimizer.step()
        if step % (NUM_STEPS // 2) == 0:
            convolution, hidden, _ = fa.measure.alignment(model, F.binary_cross_entropy, held_out).layers
            seen.append((convolution.signal, hidden.delta))
    assert all(abs(of_convolution - 90) < 2 for of_convolution, _ in seen)
    assert seen[-1][1] < 75
    with torch.no_grad():
        wrong = model(held_out[0]).argmax(1) != held_out[1].argmax(1)
    assert float(wrong.float().mean()) < 0.2
