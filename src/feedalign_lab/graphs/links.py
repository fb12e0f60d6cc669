"""A graph autoencoder: telling which nodes are linked from a graph that lacks some of its links."""

import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torch.nn import functional
from torch_geometric.utils import negative_sampling, to_undirected

from feedalign_lab.errors import SettingError
from feedalign_lab.graphs.graph import Graph
from feedalign_lab.graphs.inputs import features_of, inputs_of
from feedalign_lab.graphs.networks import build
from feedalign_lab.graphs.trial import GraphTrial
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.seeding import Stream, generator, stream_seed
from feedalign_lab.task import Metric, Scores, Task

VALIDATION_SHARE, TEST_SHARE = 0.05, 0.10
_FEWEST_EDGES = 20


@dataclass(frozen=True, eq=False)
class LinkSplit:
    """Edges to learn from and to be told.

    Attributes:
        train: `[2, E]`, in both directions: what messages pass along, and what is to be told in training.
        validation: `[2, V]`, held out, each edge once.
        validation_absent: `[2, V]`: pairs of nodes without an edge.
        test: `[2, T]`, held out, each edge once.
        test_absent: `[2, T]`: pairs of nodes without an edge.
    """

    train: Tensor
    validation: Tensor
    validation_absent: Tensor
    test: Tensor
    test_absent: Tensor


def split_links(graph: Graph, seed: int, trial: int) -> LinkSplit:
    """Hold out 5 % of all edges for validation and 10 % for the test, and draw as many pairs without an edge.

    Args:
        graph: The graph.
        seed: Seed of the run.
        trial: Number of the trial.

    Returns:
        The split, the same for all rules of a trial.

    Raises:
        SettingError: So many nodes are linked that too few pairs are left that are not.
    """
    edges = graph.edges[:, graph.edges[0] < graph.edges[1]]
    edges = edges[:, torch.randperm(edges.shape[1], generator=generator(seed, trial, "split")).to(edges.device)]
    num_validation = math.floor(VALIDATION_SHARE * edges.shape[1])
    num_test = math.floor(TEST_SHARE * edges.shape[1])
    validation, test, train = edges.split([num_validation, num_test, edges.shape[1] - num_validation - num_test], dim=1)
    absent = absent_pairs(graph.edges, graph.num_nodes, num_validation + num_test, stream_seed(seed, trial, "split"))
    if absent.shape[1] < num_validation + num_test:
        raise SettingError(
            f"{graph.name} links nearly all pairs of its nodes: of {num_validation + num_test} pairs without an edge "
            f"that are to be told from held-out edges, {absent.shape[1]} were found."
        )
    return LinkSplit(
        to_undirected(train, num_nodes=graph.num_nodes),
        validation,
        absent[:, :num_validation],
        test,
        absent[:, num_validation:],
    )


def absent_pairs(edges: Tensor, num_nodes: int, num_pairs: int, seed: int) -> Tensor:
    """Draw different pairs of nodes that have no edge between them, no matter in which order.

    Args:
        edges: `[2, E]`, in both directions.
        num_nodes: N.
        num_pairs: How many to draw.
        seed: Of the draw; Python's and torch's global random states are left as they were.

    Returns:
        `[2, num_pairs]`, on the device of the edges.
    """
    with _python_random(seed):
        # Asked for in both directions, of which one is kept.
        pairs: Tensor = negative_sampling(edges, num_nodes, 2 * num_pairs, force_undirected=True)
    return pairs[:, pairs[0] < pairs[1]][:, :num_pairs]


@contextmanager
def _python_random(seed: int) -> Iterator[None]:
    """Python's global generator at a seed of its own, and then as it was: the library draws from it."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


class LinkTrial(GraphTrial):
    """A graph autoencoder; the error that teaches the encoder is that of the latent rows Z, `dL/dZ`.

    Args:
        spec: Rule, rates and seeds.
        split: Edges to learn from and to be told.
        inputs: What the encoder is called with.
    """

    task = "regression"

    def __init__(self, spec: LearnerSpec, split: LinkSplit, inputs: tuple[Tensor, ...]) -> None:
        super().__init__(spec, inputs, 0)
        self.split = split
        self._seed = stream_seed(spec.seed, spec.trial, "order")

    def loss(self, output: Tensor, number: int) -> Tensor:
        """Return the binary cross-entropy of the training edges and of as many pairs without one, drawn anew.

        Args:
            output: Latent rows `[N, D]`.
            number: Of the epoch, which decides what pairs are drawn.

        Returns:
            A scalar: the mean over edges plus the mean over pairs.
        """
        edges, num_nodes = self.split.train, output.shape[0]
        with _python_random(self._seed + number):
            absent = negative_sampling(edges, num_nodes)
        return -(
            functional.logsigmoid(logits(output, edges)).mean() + functional.logsigmoid(-logits(output, absent)).mean()
        )

    def scores(self) -> Scores:
        """Return AUC and average precision on the held-out edges."""
        latent, split = self.output(), self.split
        auc, precision = _ranked(latent, split.test, split.test_absent)
        validation, _ = _ranked(latent, split.validation, split.validation_absent)
        return Scores(auc, validation, {"AP": precision})


class LinkTask(Task):
    """Link prediction by a graph autoencoder.

    Args:
        graph: The graph; classes are not used.
        network: Name of the network.
    """

    metric = Metric("AUC", better="higher", digits=4)
    others = (Metric("AP", better="higher", digits=4),)
    loss = "reconstruction"
    is_redrawn = True

    def __init__(self, graph: Graph, network: str) -> None:
        if graph.num_edges < _FEWEST_EDGES:
            raise SettingError(
                f"{graph.name} has {graph.num_edges} edges; at least {_FEWEST_EDGES} are needed to hold some out for "
                "validation and for the test."
            )
        self.data, self.network, self.graph, self.device = graph.name, network, graph, graph.features.device

    def data_facts(self) -> Mapping[str, Any]:
        """Return sizes of the graph and of its split."""
        split = split_links(self.graph, 0, 0)
        return {
            **self.graph.describe(),
            "split": "of edges: 85 % train, 5 % validation, 10 % test",
            "num_train": split.train.shape[1] // 2,
            "num_validation": split.validation.shape[1],
            "num_test": split.test.shape[1],
        }

    def network_facts(self) -> Mapping[str, Any]:
        """Return what the encoder consists of."""
        return build(self.network, self.graph.features.shape[1], 0, dropout=0.0, seed=0).facts()

    def trivial(self, seed: int, trial: int) -> Mapping[str, float]:
        """Return the AUC of what can be told without learning.

        Args:
            seed: Seed of the run.
            trial: Number of the trial.

        Returns:
            AUC by what is told: that of features in common, which is the decoder without an encoder.
        """
        split = split_links(self.graph, seed, trial)
        features = features_of(self.network, self.graph)
        return {"features in common": _ranked(features, split.test, split.test_absent)[0]}

    def trial(self, spec: LearnerSpec) -> LinkTrial:
        """Build a trial.

        Args:
            spec: Rule, rates and seeds.

        Returns:
            The trial, untrained.
        """
        split = split_links(self.graph, spec.seed, spec.trial)
        return LinkTrial(spec, split, inputs_of(self.network, self.graph, split.train))

    def streams(self) -> tuple[Stream, ...]:
        """Return the names of the streams of random numbers that a trial draws from."""
        return ("weights", "feedback", "order", "dropout", "split")


def logits(latent: Tensor, pairs: Tensor) -> Tensor:
    """Return how strongly pairs of nodes are linked: the inner product of their latent rows.

    Args:
        latent: `[N, D]`.
        pairs: `[2, P]`.

    Returns:
        `[P]`.
    """
    return (latent[pairs[0]] * latent[pairs[1]]).sum(1)


def _ranked(latent: Tensor, present: Tensor, absent: Tensor) -> tuple[float, float]:
    """AUC and average precision of telling present from absent edges."""
    truth = [1] * present.shape[1] + [0] * absent.shape[1]
    scores = logits(latent, torch.cat([present, absent], dim=1)).double().cpu().numpy()
    return float(roc_auc_score(truth, scores)), float(average_precision_score(truth, scores))
