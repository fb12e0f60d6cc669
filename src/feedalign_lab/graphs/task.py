"""From what a user types to a task on a graph."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from feedalign_lab.errors import MissingPackageError, UnknownNameError
from feedalign_lab.graphs.names import AUTOENCODER_NAMES, DATA_NAMES, DATA_PREFIXES, NETWORK_NAMES
from feedalign_lab.task import Task, Tell, silent

if TYPE_CHECKING:
    from feedalign_lab.graphs.graph import Graph
    from feedalign_lab.training import Schedule

_PACKAGES = ("torch_geometric", "scipy")


def load(
    data: str,
    network: str,
    *,
    schedule: "Schedule | None" = None,
    device: torch.device | str = "cpu",
    tell: Tell = silent,
) -> Task:
    """Read a graph and make a task of it.

    Args:
        data: "cora", "citeseer", "pubmed" or "graph:PATH", the path of a folder with nodes.csv and edges.csv.
        network: "cheb", "gcn", "spline", "gat" or "dna" for the classes of nodes; "gae" for missing edges.
        schedule: Not used: an epoch is one step on the whole graph.
        device: Where the graph is to live.
        tell: Told of the reading.

    Returns:
        The task.

    Raises:
        UnknownNameError: There is no data or network of that name.
        MissingPackageError: PyTorch Geometric is not installed.
    """
    del schedule
    if network not in NETWORK_NAMES:
        raise UnknownNameError("network for graphs", network, NETWORK_NAMES)
    for package in _PACKAGES:
        if find_spec(package) is None:
            raise MissingPackageError(
                f"Graphs need the package {package}, which is not installed: pip install 'feedalign[graphs]'."
            )
    tell(f"reading {data}", 0.0)
    graph = _read(data).to(torch.device(device))
    tell(f"reading {data}", 1.0)
    if network in AUTOENCODER_NAMES:
        from feedalign_lab.graphs.links import LinkTask

        return LinkTask(graph, network)
    from feedalign_lab.graphs.nodes import NodeTask

    return NodeTask(graph, network)


def _read(data: str) -> "Graph":
    """The graph, by name or by path; loaders are imported late because PyTorch Geometric takes seconds."""
    if data in DATA_NAMES:
        from feedalign_lab.graphs.planetoid import load_planetoid

        return load_planetoid(data)
    for prefix in DATA_PREFIXES:
        if data.startswith(prefix):
            from feedalign_lab.graphs.folder import load_folder

            return load_folder(Path(data.removeprefix(prefix)).expanduser(), data)
    raise UnknownNameError("graph", data, (*DATA_NAMES, *(f"{prefix}PATH" for prefix in DATA_PREFIXES)))
