"""A graph in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

NO_LABEL = -1


@dataclass(frozen=True, eq=False)
class Split:
    """Which nodes are learned from, chosen by, and judged by.

    Attributes:
        train: Node numbers, int64.
        validation: Node numbers; empty where there are none.
        test: Node numbers.
    """

    train: Tensor
    validation: Tensor
    test: Tensor


@dataclass(frozen=True, eq=False)
class Graph:
    """An undirected graph of N nodes with features and, perhaps, classes.

    Attributes:
        name: What the user typed.
        features: `[N, F]`, float32.
        edges: `[2, E]`, int64: every edge in both directions, each once, no loops.
        labels: `[N]`, int64: the class of each node, `NO_LABEL` where it is not known.
        classes: Names of the classes.
        split: The nodes' own split; None where it has none.
        is_bag_of_words: Whether features are counts, which networks want as shares of their sum.
        facts: Further facts for `results.json`.
    """

    name: str
    features: Tensor
    edges: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    split: Split | None
    is_bag_of_words: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Graph":
        """Return the same graph on a device."""
        split = self.split and Split(*(part.to(device) for part in vars(self.split).values()))
        tensors = {name: getattr(self, name).to(device) for name in ("features", "edges", "labels")}
        return replace(self, split=split, **tensors)

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.features.shape[0]

    @property
    def num_edges(self) -> int:
        """Undirected edges: half of E."""
        return self.edges.shape[1] // 2

    @property
    def labelled(self) -> Tensor:
        """Numbers of all nodes whose class is known."""
        return (self.labels != NO_LABEL).nonzero().flatten()

    def remarks(self) -> list[str]:
        """Return what is unusual about the graph, in words."""
        if self.num_edges:
            return []
        return [f"{self.name} has no edges: no node learns anything of others"]

    def describe(self) -> dict[str, Any]:
        """Return sizes for `results.json`."""
        linked = torch.zeros(self.num_nodes, dtype=torch.bool, device=self.edges.device)
        linked[self.edges.flatten()] = True
        return {
            "num_nodes": self.num_nodes,
            "num_edges": self.num_edges,
            "num_isolated_nodes": int((~linked).sum()),
            "num_features": self.features.shape[1],
            "num_classes": len(self.classes),
            **self.facts,
        }
