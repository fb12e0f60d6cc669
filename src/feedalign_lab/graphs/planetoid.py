"""The citation graphs Cora, CiteSeer and PubMed, by PyTorch Geometric's own loader."""

import contextlib
import io
import pickle
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from torch_geometric.datasets import Planetoid

from feedalign_lab.data.location import Archive, locate
from feedalign_lab.data.restricted_pickle import as_array, read_restricted_pickle
from feedalign_lab.errors import CorruptFileError, MissingDataError
from feedalign_lab.graphs.graph import Graph, Split

_TITLES = {"cora": "Cora", "citeseer": "CiteSeer", "pubmed": "PubMed"}
# Of labelled, of test, and of all nodes but those: counts of words and one-hot classes.
_FEATURES, _LABELS = ("x", "tx", "allx"), ("y", "ty", "ally")
_GRAPH, _TEST = "graph", "test.index"
_URL = "https://github.com/kimiyoung/planetoid/raw/master/data"


class _Sparse:
    """Stands for a sparse matrix in a pickle."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def made(self) -> scipy.sparse.csr_matrix:
        """The matrix, if its parts go together."""
        parts = tuple(as_array(self.state[name]) for name in ("data", "indices", "indptr"))
        matrix = scipy.sparse.csr_matrix(parts, shape=self.state["_shape"])
        matrix.check_format(full_check=True)
        return matrix


class _NewDictionary:
    """Stands for `defaultdict`, of which the loader needs what any dictionary has."""

    __slots__ = ()

    def __call__(self, *arguments: object) -> dict[Any, Any]:
        del arguments
        return {}


_STAND_INS = {
    ("scipy.sparse.csr", "csr_matrix"): _Sparse,
    ("scipy.sparse._csr", "csr_matrix"): _Sparse,
    ("collections", "defaultdict"): _NewDictionary(),
    ("__builtin__", "list"): object(),
    ("builtins", "list"): object(),
}


def load_planetoid(name: str) -> Graph:
    """Load a citation graph with its public split.

    The loader runs whatever a pickle says, trusts the sizes in it and writes beside its raw files: it is given files of
    ours in a temporary folder, with what was read and checked here.

    Args:
        name: "cora", "citeseer" or "pubmed".

    Returns:
        The graph: features are counts of words, and links count in both directions.

    Raises:
        MissingDataError: A file is neither under the data folder nor in the cache.
        CorruptFileError: A file is truncated or damaged, or does not fit the others.
        UnsafePickleError: A pickle names something that no such file needs.
    """
    title = _TITLES[name]
    parts = {part: _part(_locate(title, f"ind.{name}.{part}"), part) for part in (*_FEATURES, *_LABELS, _GRAPH)}
    test = _test_nodes(_locate(title, f"ind.{name}.{_TEST}"))
    try:
        _refuse_unfitting(parts, test)
    except ValueError as error:
        raise _no_graph(title, error) from error
    with tempfile.TemporaryDirectory(prefix="feedalign-") as folder:
        raw = Path(folder) / title / "raw"
        raw.mkdir(parents=True)
        for part, content in parts.items():
            (raw / f"ind.{name}.{part}").write_bytes(pickle.dumps(content))
        (raw / f"ind.{name}.{_TEST}").write_text("".join(f"{node}\n" for node in test), encoding="ascii")
        data = _read(folder, title)
    split = Split(*(mask.nonzero().flatten() for mask in (data.train_mask, data.val_mask, data.test_mask)))
    num_classes = int(data.y.max()) + 1
    return Graph(
        name=name,
        features=data.x,
        edges=data.edge_index,
        labels=data.y,
        classes=tuple(str(number) for number in range(num_classes)),
        split=split,
        is_bag_of_words=True,
    )


def _locate(title: str, file: str) -> Path:
    """One file; each by itself, so that a sentence names the one that is missing."""
    return locate(Archive(f"{_URL}/{file}", None, f"planetoid/{title}/raw", (file,)))[0]


def _part(path: Path, part: str) -> Any:
    """A matrix, an array or the neighbors of each node, by themselves as they should be."""
    content = read_restricted_pickle(path, "latin1", _STAND_INS)
    try:
        if part in _FEATURES:
            if not isinstance(content, _Sparse):
                raise ValueError(f"a sparse matrix was expected, not {type(content).__name__}")
            return content.made()
        if part in _LABELS:
            if not isinstance(content, np.ndarray) or content.ndim != 2 or not content.shape[1]:
                raise ValueError(f"an array of a row per node was expected, not {type(content).__name__}")
            return content
        return _neighbors(content)
    except Exception as error:
        # What is wrong with a sparse matrix shows in scipy, in whatever way.
        raise CorruptFileError(f"{path} does not hold what it should: {error}. Fetch it again.") from error


def _neighbors(content: object) -> dict[int, list[int]]:
    """The neighbors of each node."""
    if not isinstance(content, dict) or not all(isinstance(found, list) for found in content.values()):
        raise ValueError("a list of neighbors for each node was expected")
    if not all(type(node) is int for nodes in (content, *content.values()) for node in nodes):
        raise ValueError("a node is no whole number")
    return content


def _test_nodes(path: Path) -> NDArray[np.int64]:
    """Numbers of the test nodes, as the file has them."""
    try:
        return np.array([int(word) for word in path.read_text(encoding="ascii").split()], dtype=np.int64)
    except OSError as error:
        raise MissingDataError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, OverflowError) as error:
        raise CorruptFileError(f"{path} is no list of whole numbers: {error}. Fetch it again.") from error


def _refuse_unfitting(parts: Mapping[str, Any], test: NDArray[np.int64]) -> None:
    """Raise ValueError if the files do not belong together: the loader would read past them, or make room for more."""
    for features, labels in zip(_FEATURES, _LABELS, strict=True):
        if parts[features].shape[0] != len(parts[labels]):
            raise ValueError(f"{features} has {parts[features].shape[0]} nodes and {labels} {len(parts[labels])}")
    for group in (_FEATURES, _LABELS):
        if len(widths := sorted({parts[part].shape[1] for part in group})) > 1:
            raise ValueError(f"{', '.join(group)} differ in width: {widths}")
    num_known, num_test = len(parts["ally"]), len(parts["ty"])
    if len(set(test.tolist())) != num_test or not num_test:
        raise ValueError(f"{_TEST} names {len(set(test.tolist()))} nodes, and ty has {num_test}")
    # In CiteSeer a few nodes among those for testing are in no file.
    if test.min() != num_known or test.max() >= num_known + 2 * num_test:
        raise ValueError(f"{_TEST} has nodes from {test.min()} to {test.max()}, and allx ends before {num_known}")
    nodes = {*parts[_GRAPH], *(node for neighbors in parts[_GRAPH].values() for node in neighbors)}
    if nodes and not 0 <= min(nodes) <= max(nodes) <= test.max():
        raise ValueError(f"{_GRAPH} has nodes from {min(nodes)} to {max(nodes)}, and the last one is {test.max()}")


def _no_graph(title: str, error: Exception) -> CorruptFileError:
    return CorruptFileError(
        f"The files of {title} do not make a graph: {str(error) or type(error).__name__}. Fetch them anew."
    )


def _read(folder: str, title: str) -> Any:
    """The library's own reading; every way this can fail ends in one sentence."""
    try:
        # The loader tells the standard error stream that it is at work.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            return Planetoid(folder, title)[0]
    except OSError:
        raise
    except Exception as error:
        raise _no_graph(title, error) from error
