"""Small networks of each kind whose cost is counted, and independent counts of it."""

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import feedalign as fa
from feedalign.rules.base import LayerwiseRule, WeightRule
from problems import draw

# Widths of the perceptron, and samples.
WIDTHS, ROWS = (12, 20, 16, 14, 5), 8

Made = tuple[nn.Module, Tensor, Tensor]


@dataclass(frozen=True)
class Counted:
    """A network, and how its step is run where it can be counted."""

    make: Callable[[], Made]
    points: str | None = None
    within: Callable[[], AbstractContextManager[object]] = nullcontext

    def attach(self, rule: fa.Rule) -> tuple[fa.Handle, Tensor, Tensor]:
        model, x, labels = self.make()
        # Rules without points refuse to be told of them.
        cuts = not isinstance(rule, (fa.Backprop, LayerwiseRule, WeightRule))
        points = self.points if cuts and self.points else None
        return fa.attach(model, rule, example_inputs=x, **({} if points is None else {"points": points})), x, labels


def perceptron() -> Made:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 14), nn.Tanh(), nn.Linear(14, 5)
    )
    return model, draw(8, 12, seed=1, dtype=torch.float32), torch.arange(8) % 5


def convolutional() -> Made:
    torch.manual_seed(0)
    first = [nn.Conv2d(4, 6, 3, padding=1, stride=2), nn.BatchNorm2d(6), nn.Tanh()]
    second = [nn.Conv2d(6, 8, 3, dilation=2), nn.Tanh(), nn.MaxPool2d(2)]
    model = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(32, 10), nn.Tanh(), nn.Linear(10, 5))
    return model, draw(8, 4, 16, 16, seed=1, dtype=torch.float32), torch.arange(8) % 5


class Blocks(nn.Module):
    """Two Transformer blocks of torch's, read at their mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.emb = nn.Embedding(11, 8)
        kept = {"batch_first": True, "dropout": 0.0, "activation": nn.GELU()}
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, **kept) for _ in range(2))
        self.points = nn.ModuleList(fa.FeedbackPoint() for _ in range(2))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.emb(x)
        for block, point in zip(self.blocks, self.points, strict=True):
            h = point(block(h))
        return self.head(h.mean(1))


def transformer() -> Made:
    return Blocks(), torch.arange(24).reshape(4, 6) % 11, torch.arange(4)


class Reader(nn.Module):
    """A recurrent module whose last state is read."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = kind(4, 7, **options), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        states = self.rnn(x)[0]
        return self.head(states[:, -1] if self.rnn.batch_first else states[-1])


def recurrent(kind: type[nn.RNNBase]) -> Callable[[], Made]:
    return lambda: (Reader(kind, batch_first=True), draw(3, 6, 4, seed=1, dtype=torch.float32), torch.arange(3))


def materialised_attention() -> AbstractContextManager[object]:
    """Scores as products of their own, which torch's counter knows on a CPU; the fused kernel it does not."""
    return sdpa_kernel(SDPBackend.MATH)


PERCEPTRON, CONVOLUTIONAL = Counted(perceptron), Counted(convolutional)
TRANSFORMER = Counted(transformer, "points.*", materialised_attention)
RNN, GRU, LSTM = (Counted(recurrent(kind)) for kind in (nn.RNN, nn.GRU, nn.LSTM))


def counted_by_torch(model: nn.Module, x: Tensor, labels: Tensor) -> int:
    """MACs of a real step, by torch's own counter, which leaves out products in place."""
    in_place = {torch.ops.aten.addmm_: lambda out, left, right, **_: 2 * left[0] * left[1] * right[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        F.cross_entropy(model(x), labels).backward()
    total = counter.get_total_flops()
    assert total % 2 == 0
    return total // 2


def kept_by_torch(model: nn.Module, x: Tensor) -> int:
    """Bytes that autograd has saved and still holds after a forward, without parameters and buffers."""
    held: weakref.WeakSet[_Saved] = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Saved:
        saved = _Saved(tensor.detach())
        held.add(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        output = model(x)
    theirs = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    memories = {saved.tensor.untyped_storage().data_ptr(): saved.tensor.untyped_storage().nbytes() for saved in held}
    assert output.requires_grad
    return sum(size for memory, size in memories.items() if memory not in theirs)


class _Saved:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
