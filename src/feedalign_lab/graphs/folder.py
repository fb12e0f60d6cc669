"""A user's own graph: a folder with `nodes.csv` and `edges.csv`."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feedalign_lab.errors import CorruptFileError, MissingDataError
from feedalign_lab.graphs.graph import NO_LABEL, Graph, Split

NODES, EDGES = "nodes.csv", "edges.csv"
_EDGE_COLUMNS = ["source", "target"]
_NODE, _LABEL, _SPLIT = "node", "label", "split"
_PARTS = ("train", "validation", "test")


class _Line(NamedTuple):
    """One line of a table."""

    number: int
    cells: Sequence[str]


@dataclass(frozen=True, eq=False)
class _Nodes:
    """What `nodes.csv` says."""

    names: dict[str, int]
    features: NDArray[np.float32]
    labels: list[str]
    parts: list[str]
    lines: list[int]


def load_folder(folder: Path, name: str) -> Graph:
    """Read a user's graph.

    `nodes.csv` has a header and a line per node: `node`, a name of its own; `label`, its class, which may be empty;
    `split`, one of train, validation, test or empty; and any other columns, which are features: numbers. Without the
    columns `label` and `split` only the autoencoder can be trained. `edges.csv` has the header `source,target` and a
    line per edge, by the names of its nodes. Edges have no direction: a line for each direction counts as one edge.

    Args:
        folder: The folder.
        name: What the user typed.

    Returns:
        The graph. Nodes without edges are allowed, and counted in its facts.

    Raises:
        MissingDataError: The folder or one of the files is not there.
        CorruptFileError: A line is not what it should be; the sentence names the file and the line.
    """
    nodes = _read_nodes(_file(folder, NODES))
    edges = _read_edges(_file(folder, EDGES), nodes.names)
    classes = tuple(sorted({label for label in nodes.labels if label}, key=_by_number))
    numbers = {label: number for number, label in enumerate(classes)}
    labels = torch.tensor([numbers.get(label, NO_LABEL) for label in nodes.labels])
    return Graph(
        name=name,
        features=torch.from_numpy(nodes.features),
        edges=edges,
        labels=labels,
        classes=classes,
        split=_split(folder / NODES, nodes, labels, classes),
    )


def _by_number(label: str) -> tuple[float, str]:
    """Sort 2 before 10, and words behind numbers."""
    return (float(label), label) if label.isdecimal() else (float("inf"), label)


def _file(folder: Path, name: str) -> Path:
    """A file of the folder."""
    path = folder / name
    if not path.is_file():
        raise MissingDataError(
            f"There is no {path}: a graph is a folder with {NODES} (node,label,split and features) and {EDGES} "
            "(source,target)."
        )
    return path


def _lines(path: Path, columns: int | None = None) -> Iterator[_Line]:
    """The header and the lines of a table, all of one width; empty lines are passed over.

    Yields:
        Each line with its number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            for cells in reader:
                if not cells:
                    continue
                columns = len(cells) if columns is None else columns
                if len(cells) != columns:
                    raise CorruptFileError(
                        f"{path}, line {reader.line_num}, has {len(cells)} columns, and its header has {columns}."
                    )
                yield _Line(reader.line_num, [cell.strip() for cell in cells])
    except (csv.Error, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{path} is no table of comma-separated values in UTF-8: {error}.") from error


def _read_nodes(path: Path) -> _Nodes:
    """The nodes, in the order of the file."""
    lines = _lines(path)
    header = next(lines, _Line(1, [])).cells
    _check_header(path, header)
    feature_columns = [number for number, column in enumerate(header) if column not in {_NODE, _LABEL, _SPLIT}]
    place = {column: header.index(column) for column in (_NODE, _LABEL, _SPLIT) if column in header}
    names: dict[str, int] = {}
    rows: list[NDArray[np.float32]] = []
    labels: list[str] = []
    parts: list[str] = []
    numbers: list[int] = []
    for number, cells in lines:
        name = cells[place[_NODE]]
        if name in names:
            raise CorruptFileError(
                f"{path}, line {number}: the node {name!r} was there in line {numbers[names[name]]} already."
            )
        names[name] = len(names)
        numbers.append(number)
        rows.append(_features(path, number, header, cells, feature_columns))
        labels.append(cells[place[_LABEL]] if _LABEL in place else "")
        parts.append(_part(path, number, cells[place[_SPLIT]]) if _SPLIT in place else "")
    if not names:
        raise CorruptFileError(f"{path} has no nodes: give a line for each below the header.")
    return _Nodes(names, np.stack(rows), labels, parts, numbers)


def _check_header(path: Path, header: Sequence[str]) -> None:
    """Refuse a first line that does not name the columns."""
    if _NODE not in header:
        raise CorruptFileError(
            f"{path} must begin with a header that has the column {_NODE!r}, and its first line reads "
            f"{','.join(header)[:60]!r}."
        )
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise CorruptFileError(f"{path} has more than one column of the name {twice[0]!r}.")
    if len(header) == sum(column in header for column in (_NODE, _LABEL, _SPLIT)):
        raise CorruptFileError(
            f"{path} has no features, only {','.join(header)}: add columns of numbers, if need be one that is 1 "
            "everywhere."
        )


def _features(
    path: Path, number: int, header: Sequence[str], cells: Sequence[str], columns: Sequence[int]
) -> NDArray[np.float32]:
    """The numbers of one node."""
    row = np.empty(len(columns), dtype=np.float32)
    for place, column in enumerate(columns):
        try:
            row[place] = float(cells[column])
        except ValueError:
            row[place] = np.nan
        if not np.isfinite(row[place]):
            raise CorruptFileError(
                f"{path}, line {number}: the feature {header[column]!r} is {cells[column]!r}, no finite number. Every "
                f"column but {_NODE}, {_LABEL} and {_SPLIT} is a feature."
            )
    return row


def _part(path: Path, number: int, part: str) -> str:
    """The split's name, if it is one."""
    if part not in {"", *_PARTS}:
        raise CorruptFileError(
            f"{path}, line {number}: the split is {part!r}; it is to be train, validation, test, or empty for a node "
            "that is neither."
        )
    return part


def _split(path: Path, nodes: _Nodes, labels: Tensor, classes: Sequence[str]) -> Split | None:
    """The split, if the file has one: every node in it has a label, and every class can be learned."""
    if not any(nodes.parts):
        return None
    for node, (part, label) in enumerate(zip(nodes.parts, nodes.labels, strict=True)):
        if part and not label:
            raise CorruptFileError(
                f"{path}, line {nodes.lines[node]}: the node is in the split {part!r} and has no label; give it one, "
                "or leave its split empty."
            )
    parts = [
        torch.tensor([node for node, own in enumerate(nodes.parts) if own == part], dtype=torch.long) for part in _PARTS
    ]
    for part, members in zip(_PARTS, parts, strict=True):
        if part != "validation" and not len(members):
            raise CorruptFileError(f"{path}: no node is in the split {part!r}, which at least one has to be.")
    if len(classes) < 2:
        raise CorruptFileError(
            f"{path}: all nodes have the label {classes[0]!r}, and with a single class there is nothing to tell."
        )
    lacking = set(range(len(classes))) - set(labels[parts[0]].tolist())
    if lacking:
        raise CorruptFileError(
            f"{path}: the class {classes[min(lacking)]!r} has no node in the split 'train', so it cannot be learned; "
            "put one there, or leave the label of its nodes empty."
        )
    return Split(*parts)


def _read_edges(path: Path, names: dict[str, int]) -> Tensor:
    """The edges in both directions, `[2, E]`."""
    lines = _lines(path, columns=2)
    header = next(lines, _Line(1, [])).cells
    if list(header) != _EDGE_COLUMNS:
        raise CorruptFileError(
            f"{path} must begin with the header source,target, and its first line reads {','.join(header)[:60]!r}."
        )
    found: dict[tuple[int, int], int] = {}
    for number, cells in lines:
        for cell in cells:
            if cell not in names:
                raise CorruptFileError(f"{path}, line {number}: {NODES} has no node {cell!r}.")
        source, target = names[cells[0]], names[cells[1]]
        if source == target:
            raise CorruptFileError(
                f"{path}, line {number}: the edge leads from {cells[0]!r} to itself; leave it out, networks that need "
                "such loops add them to every node."
            )
        if (source, target) in found:
            raise CorruptFileError(
                f"{path}, line {number}: the edge from {cells[0]!r} to {cells[1]!r} was there in line "
                f"{found[source, target]} already; give every edge once."
            )
        found[source, target] = number
    both = sorted({*found, *((target, source) for source, target in found)})
    return torch.tensor(both, dtype=torch.long).reshape(-1, 2).T.contiguous()
