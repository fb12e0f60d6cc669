"""Small graphs for tests: in memory, in the raw format of Planetoid, and in a user's folder."""

from __future__ import annotations

import pickle
from collections import defaultdict
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from feedalign_lab.graphs.graph import Graph, Split


def both_ways(pairs: list[tuple[int, int]]) -> Tensor:
    edges = sorted({*pairs, *((target, source) for source, target in pairs)})
    return torch.tensor(edges, dtype=torch.long).reshape(-1, 2).T.contiguous()


def communities(num_nodes: int = 60, num_classes: int = 3, num_features: int = 24, seed: int = 0) -> Graph:
    """Nodes mostly linked within their class, mostly with words of their class; the last is isolated."""
    draws = np.random.default_rng(seed)
    labels = np.arange(num_nodes) % num_classes
    chances = np.where(labels[:, None] == labels, 0.15, 0.01)
    linked = np.triu(draws.random((num_nodes, num_nodes)) < chances, k=1)
    linked[:, -1] = False
    pairs = [(int(source), int(target)) for source, target in zip(*linked.nonzero(), strict=True)]
    own = np.arange(num_features) % num_classes == labels[:, None]
    words = (draws.random((num_nodes, num_features)) < np.where(own, 0.2, 0.01)).astype(np.float32)
    nodes = torch.arange(num_nodes)
    return Graph(
        name="cora",
        features=torch.from_numpy(words),
        edges=both_ways(pairs),
        labels=torch.from_numpy(labels).long(),
        classes=tuple("abcdefgh"[:num_classes]),
        split=Split(nodes[: 4 * num_classes], nodes[4 * num_classes : 8 * num_classes], nodes[8 * num_classes :]),
        is_bag_of_words=True,
    )


def write_planetoid(folder: Path, name: str, *, num_test: int = 60, missing: tuple[int, ...] = ()) -> dict[str, object]:
    """Write a graph as `ind.NAME.*`; returns what it consists of.

    Of the 20 labelled, 520 unlabelled and `num_test` test nodes, those in `missing`, counted among the test nodes, are
    in no file, as in CiteSeer. The order of the test nodes is shuffled.
    """
    draws = np.random.default_rng(0)
    num_labelled, num_other, num_features, num_classes = 20, 520, 12, 3
    num_known = num_labelled + num_other
    num_nodes = num_known + num_test
    words = (draws.random((num_nodes, num_features)) < 0.3).astype(np.float32)
    labels = draws.integers(num_classes, size=num_nodes)
    one_hot = np.eye(num_classes, dtype=np.int32)[labels]
    present = [node for node in range(num_known, num_nodes) if node - num_known not in missing]
    order = [present[place] for place in draws.permutation(len(present))]
    neighbors: defaultdict[int, list[int]] = defaultdict(list)
    for node in range(num_nodes - 1):
        neighbors[node].append(node + 1)
        neighbors[node + 1].append(node)
    neighbors[3] += [3, 5, 5]
    neighbors[5] += [3]
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "x": scipy.sparse.csr_matrix(words[:num_labelled]),
        "y": one_hot[:num_labelled],
        "allx": scipy.sparse.csr_matrix(words[:num_known]),
        "ally": one_hot[:num_known],
        "tx": scipy.sparse.csr_matrix(words[order]),
        "ty": one_hot[order],
        "graph": neighbors,
    }
    for part, content in contents.items():
        (folder / f"ind.{name}.{part}").write_bytes(pickle.dumps(content, protocol=2))
    (folder / f"ind.{name}.test.index").write_text("".join(f"{node}\n" for node in order), encoding="ascii")
    return {"words": words, "labels": labels, "num_nodes": num_nodes, "test": sorted(order)}


NODES = """node,label,split,f1,f2
a,red,train,1,0
b,blue,train,0,1
c,red,validation,0.5,0.25
d,blue,test,-1,2e-1
e,,,3,4
"""
EDGES = """source,target
a,c
c,a
b,d
"""


def write_folder(folder: Path, nodes: str = NODES, edges: str = EDGES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nodes.csv").write_text(nodes, encoding="utf-8")
    (folder / "edges.csv").write_text(edges, encoding="utf-8")
    return folder


def write_ring(folder: Path, num_nodes: int = 30) -> Path:
    """A user's graph of two classes around a ring."""
    nodes = ["node,label,split,f1,f2"]
    for number in range(num_nodes):
        part = ("train", "validation", "test")[number % 3]
        nodes.append(f"n{number},{'xy'[number // 3 % 2]},{part},{number % 5},{-number}")
    steps = [(number, (number + step) % num_nodes) for number in range(num_nodes - 1) for step in (1, 7)]
    edges = ["source,target", *(f"n{source},n{target}" for source, target in steps)]
    return write_folder(folder, "\n".join(nodes), "\n".join(edges))
