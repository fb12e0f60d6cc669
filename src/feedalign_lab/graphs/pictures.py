"""Pictures of what hidden layers make of nodes: t-SNE in two dimensions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from feedalign_lab.graphs.graph import NO_LABEL
from feedalign_lab.plots import as_png

PERPLEXITY, LEARNING_RATE, SEED = 20.0, 100.0, 0
_WIDTH, _HEIGHT = 4.4, 4.2
_MOST_CLASSES_NAMED = 12
_SMALLEST_POINT, _LARGEST_POINT = 2.0, 6.0
_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#000000", "#f0c400", "#9b1fe8", "#7f7f7f")


@dataclass(frozen=True, eq=False)
class Scatter:
    """Points in the plane.

    Attributes:
        positions: `[N, 2]`.
        labels: `[N]`, the class of each.
    """

    positions: NDArray[np.float32]
    labels: NDArray[np.int64]

    @classmethod
    def of_activations(cls, activations: Tensor, labels: Tensor) -> "Scatter":
        """Place nodes in the plane by t-SNE, with the same settings whatever made the activations.

        Args:
            activations: `[N, D]`.
            labels: `[N]`.

        Returns:
            The points of all nodes whose class is known.

        Source: perplexity and rate are those of Launay et al. 2020, Fig. 2.
        """
        from sklearn.manifold import TSNE

        known = labels != NO_LABEL
        rows: NDArray[np.float32] = activations[known].float().cpu().numpy()
        numbers: NDArray[np.int64] = labels[known].cpu().numpy()
        if not rows.std(axis=0).any():
            # Units that are all dead say the same of every node.
            return cls(np.zeros((len(rows), 2), dtype=np.float32), numbers)
        tsne: Any = TSNE(
            perplexity=min(PERPLEXITY, max(1.0, (len(rows) - 1) / 3)),
            learning_rate=LEARNING_RATE,
            init="pca",
            random_state=SEED,
        )
        return cls(tsne.fit_transform(rows), numbers)


def draw_scatters(scatters: Mapping[str, Scatter], classes: Sequence[str], path: Path) -> None:
    """Draw the nodes, a panel per rule and a color per class.

    Args:
        scatters: Points by rule.
        classes: Names of the classes.
        path: The PNG file.
    """
    figure = Figure(figsize=(_WIDTH * len(scatters), _HEIGHT), layout="constrained")
    for number, (rule, scatter) in enumerate(scatters.items(), start=1):
        axes = figure.add_subplot(1, len(scatters), number)
        size = min(_LARGEST_POINT, max(_SMALLEST_POINT, 100 / len(scatter.labels) ** 0.5))
        for label, name in enumerate(classes):
            x, y = scatter.positions[scatter.labels == label].T
            axes.plot(x, y, ".", markersize=size, color=_COLORS[label % len(_COLORS)], label=name)
        axes.set(title=rule, xticks=[], yticks=[])
        if number == 1 and len(classes) <= _MOST_CLASSES_NAMED:
            axes.legend(fontsize="x-small", markerscale=3, loc="best", title="class", title_fontsize="x-small")
    path.write_bytes(as_png(figure))
