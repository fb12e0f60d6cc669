"""Telling the class of every node of a graph, from the classes of a few."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from sklearn.model_selection import StratifiedKFold
from torch import Tensor
from torch.nn import functional

from feedalign_lab.errors import SettingError
from feedalign_lab.graphs.graph import Graph, Split
from feedalign_lab.graphs.inputs import inputs_of
from feedalign_lab.graphs.names import DATA_NAMES
from feedalign_lab.graphs.networks import build
from feedalign_lab.graphs.pictures import Scatter, draw_scatters
from feedalign_lab.graphs.trial import GraphTrial
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.seeding import Stream, stream_seed
from feedalign_lab.task import Metric, ResultFile, Scores, Task

_NUM_FOLDS = 5
# numpy's generators, which scikit-learn draws from, take 32 bits.
_SEEDS = 2**32


class NodeTrial(GraphTrial):
    """A node classifier: cross-entropy over the training nodes, which leaves all others without an error.

    Args:
        spec: Rule, rates and seeds.
        graph: The graph.
        split: Which nodes are trained and tested on.
        inputs: What the network is called with.
        pictures: Where the first trials leave what the task draws side by side.
    """

    def __init__(
        self,
        spec: LearnerSpec,
        graph: Graph,
        split: Split,
        inputs: tuple[Tensor, ...],
        notes: dict[str, Any],
    ) -> None:
        super().__init__(spec, inputs, len(graph.classes))
        self.graph, self.split, self._notes = graph, split, notes

    def loss(self, output: Tensor, number: int) -> Tensor:
        """Return the cross-entropy over the training nodes.

        Args:
            output: `[N, C]`.
            number: Not used: every epoch has the same nodes.

        Returns:
            A scalar.
        """
        del number
        return functional.cross_entropy(output[self.split.train], self.graph.labels[self.split.train])

    def measured_loss(self, output: Tensor) -> Tensor:
        """Return the cross-entropy over all nodes whose class is known, as the paper measures."""
        known = self.graph.labelled
        return functional.cross_entropy(output[known], self.graph.labels[known])

    def scores(self) -> Scores:
        """Return the percentage of nodes in the right class."""
        is_right = self.output().argmax(1) == self.graph.labels
        validation = _percent(is_right[self.split.validation]) if len(self.split.validation) else None
        return Scores(_percent(is_right[self.split.test]), validation)

    def results(self) -> Sequence[ResultFile]:
        """Return the alignment, and a picture of the hidden activations."""
        scatter = Scatter.of_activations(self.hidden(), self.graph.labels)
        self._notes[self.spec.rule] = torch.from_numpy(scatter.positions), torch.from_numpy(scatter.labels)
        draw = partial(draw_scatters, {self.spec.rule: scatter}, self.graph.classes)
        return [*super().results(), ("hidden.png", draw)]


class NodeTask(Task):
    """Node classification.

    Args:
        graph: The graph, with a split of its own.
        network: Name of the network.
    """

    metric = Metric("accuracy", "%", "higher")
    loss = "cross_entropy"
    # The paper's code keeps the test accuracy of the first epoch with the best validation accuracy.
    judged_at: Literal["last", "chosen"] = "chosen"

    def __init__(self, graph: Graph, network: str) -> None:
        if graph.split is None:
            raise SettingError(
                f"{graph.name} does not say which nodes to learn from: give nodes.csv the columns label and split, or "
                "take the network gae, which needs neither."
            )
        self.data, self.network, self.graph, self._split = graph.name, network, graph, graph.split
        self._can_choose = bool(len(graph.split.validation))
        if not self._can_choose:
            self.judged_at = "last"
        self.device = graph.features.device
        # The paper's folds, for the graphs that it splits so.
        self.is_redrawn = network == "dna" and graph.name in DATA_NAMES
        self.inputs = inputs_of(network, graph)
        self._notes: dict[str, Any] = {}

    def data_facts(self) -> Mapping[str, Any]:
        """Return sizes of the graph and of its split."""
        split = self.split(0, 0)
        return {
            **self.graph.describe(),
            "split": "stratified folds: 1 train, 1 validation, 3 test" if self.is_redrawn else "the graph's own",
            "num_train": len(split.train),
            "num_validation": len(split.validation),
            "num_test": len(split.test),
        }

    def remarks(self) -> list[str]:
        """Return what is unusual about the graph and its split."""
        no_choice = [] if self._can_choose else [f"{self.data} has no validation nodes: the last epoch counts"]
        return [*self.graph.remarks(), *no_choice]

    def network_facts(self) -> Mapping[str, Any]:
        """Return what the network consists of."""
        network = build(self.network, self.inputs[0].shape[1], len(self.graph.classes), dropout=0.0, seed=0)
        return network.facts()

    def split(self, seed: int, trial: int) -> Split:
        """Return which nodes a trial trains and tests on.

        Args:
            seed: Seed of the run.
            trial: Number of the trial.

        Returns:
            The graph's own split or, for dna on the citation graphs, one of five folds of all nodes to train, one to
            validate, and three to test, another for every trial.
        """
        if not self.is_redrawn:
            return self._split
        folds = StratifiedKFold(_NUM_FOLDS, shuffle=True, random_state=stream_seed(seed, trial, "split") % _SEEDS)
        labels = self.graph.labels.cpu().numpy()
        parts = [torch.from_numpy(part).to(self.device) for _, part in folds.split(labels, labels)]
        return Split(parts[0], parts[1], torch.cat(parts[2:]))

    def trivial(self, seed: int, trial: int) -> Mapping[str, float]:
        """Return the best accuracy of telling one class for all nodes.

        It is that of the test part's largest class: training nodes, of which each class has as many, name none.

        Args:
            seed: Seed of the run.
            trial: Number of the trial.

        Returns:
            Percent, by what is told.
        """
        labels = self.graph.labels[self.split(seed, trial).test]
        return {"largest class": _percent(labels == labels.bincount().argmax())}

    def trial(self, spec: LearnerSpec) -> NodeTrial:
        """Build a trial.

        Args:
            spec: Rule, rates and seeds.

        Returns:
            The trial, untrained.
        """
        return NodeTrial(spec, self.graph, self.split(spec.seed, spec.trial), self.inputs, self._notes)

    def notes(self) -> dict[str, Any]:
        """Return where each rule's nodes lie in the plane, and their classes; see `Task`."""
        return self._notes

    def results(self) -> Sequence[ResultFile]:
        """Return the hidden activations of all rules side by side."""
        if len(self._notes) < 2:
            return ()
        pictures = {rule: Scatter(*(one.numpy() for one in noted)) for rule, noted in self._notes.items()}
        return [("hidden.png", partial(draw_scatters, pictures, self.graph.classes))]

    def streams(self) -> tuple[Stream, ...]:
        """Return the names of the streams of random numbers that a trial draws from."""
        drawn: tuple[Stream, ...] = ("weights", "feedback", "dropout")
        return (*drawn, "split") if self.is_redrawn else drawn


def _percent(is_right: Tensor) -> float:
    return 100 * float(is_right.double().mean())
