"""The citation graphs Cora, CiteSeer and PubMed, by PyTorch Geometric's own loader."""

import contextlib
import io
import os
import pickletools
import tempfile
import warnings
from pathlib import Path
from typing import Any

from torch_geometric.datasets import Planetoid

from feedalign_lab.data.location import Archive, locate
from feedalign_lab.errors import CorruptFileError, UnsafePickleError
from feedalign_lab.graphs.graph import Graph, Split

_TITLES = {"cora": "Cora", "citeseer": "CiteSeer", "pubmed": "PubMed"}
_PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
_URL = "https://github.com/kimiyoung/planetoid/raw/master/data"
# What pickles of sparse matrices, arrays and lists of neighbors name; the loader runs whatever else they name.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("scipy.sparse.csr", "csr_matrix"),
    ("scipy.sparse._csr", "csr_matrix"),
    ("collections", "defaultdict"),
    ("__builtin__", "list"),
    ("builtins", "list"),
    ("_codecs", "encode"),
}


def load_planetoid(name: str) -> Graph:
    """Load a citation graph with its public split.

    The loader writes beside its raw files, which may not be allowed: it works on links to them in a temporary folder.

    Args:
        name: "cora", "citeseer" or "pubmed".

    Returns:
        The graph: features are counts of words, and links count in both directions.

    Raises:
        MissingDataError: A file is neither under the data folder nor in the cache.
        CorruptFileError: A file is truncated or damaged.
        UnsafePickleError: A pickle names something that no such file needs.
    """
    title = _TITLES[name]
    with tempfile.TemporaryDirectory(prefix="feedalign-") as folder:
        raw = Path(folder) / title / "raw"
        raw.mkdir(parents=True)
        for part in _PARTS:
            file = f"ind.{name}.{part}"
            path = _locate(title, file)
            if part != "test.index":
                refuse_unsafe(path)
            os.symlink(path.absolute(), raw / file)
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


def _read(folder: str, title: str) -> Any:
    """The library's own reading; every way this can fail ends in one sentence."""
    try:
        # The loader tells the standard error stream that it is at work.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            # Pickles of old versions of scipy and numpy name modules by names that are deprecated.
            warnings.simplefilter("ignore")
            return Planetoid(folder, title)[0]
    except (UnsafePickleError, OSError):
        raise
    except Exception as error:
        # A damaged pickle may raise nearly anything, and the loader trusts what it reads.
        detail = str(error) or type(error).__name__
        raise CorruptFileError(f"The files of {title} do not make a graph: {detail}. Fetch them anew.") from error


def refuse_unsafe(path: Path) -> None:
    """Refuse a pickle that would call anything but what rebuilds arrays, sparse matrices and lists.

    Args:
        path: The pickle; it is not run.

    Raises:
        UnsafePickleError: It names something else.
        CorruptFileError: It is truncated or damaged.
    """
    try:
        with path.open("rb") as stream:
            for operation, argument, _ in pickletools.genops(stream):
                if operation.name in {"STACK_GLOBAL", "INST", "PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4"}:
                    raise UnsafePickleError(f"{path} uses {operation.name}, which no file of this kind needs: refused.")
                if operation.name == "GLOBAL" and tuple(str(argument).split(" ")) not in _ALLOWED:
                    raise UnsafePickleError(
                        f"{path} asks for {argument} and was refused: only arrays, sparse matrices and lists are read."
                    )
    except (UnsafePickleError, OSError):
        raise
    except Exception as error:
        detail = str(error) or type(error).__name__
        raise CorruptFileError(f"{path} is not a whole pickle: {detail}.") from error
