from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_graphs import EDGES, NODES, write_folder, write_ring

from feedalign_lab.errors import CorruptFileError, MissingDataError, MissingPackageError, UnknownNameError
from feedalign_lab.graphs.folder import load_folder
from feedalign_lab.graphs.names import NETWORK_NAMES
from feedalign_lab.graphs.task import load
from feedalign_lab.learner import LearnerSpec


def test_a_folder_is_read_as_it_was_written(tmp_path: Path) -> None:
    graph = load_folder(write_folder(tmp_path), "graph:mine")
    assert graph.name == "graph:mine"
    assert graph.features.tolist() == [[1, 0], [0, 1], [0.5, 0.25], [-1, pytest.approx(0.2)], [3, 4]]
    assert graph.classes == ("blue", "red")
    assert graph.labels.tolist() == [1, 0, 1, 0, -1]
    assert graph.labelled.tolist() == [0, 1, 2, 3]
    # The edge that is there in both directions counts once.
    assert graph.edges.T.tolist() == [[0, 2], [1, 3], [2, 0], [3, 1]]
    assert graph.num_edges == 2
    assert graph.split is not None
    assert [part.tolist() for part in vars(graph.split).values()] == [[0, 1], [2], [3]]


def test_nodes_without_edges_are_allowed_and_counted(tmp_path: Path) -> None:
    assert load_folder(write_folder(tmp_path), "mine").describe()["num_isolated_nodes"] == 1
    empty = load_folder(write_folder(tmp_path / "empty", edges="source,target\n"), "mine")
    assert empty.edges.shape == (2, 0)
    assert empty.describe()["num_isolated_nodes"] == 5


def test_columns_in_any_order_byte_order_mark_spaces_and_empty_lines(tmp_path: Path) -> None:
    nodes = "\ufefff1,split, node ,label\n\n1, train ,a, x \n2,test,b,x\n3,train,c,y\n"
    graph = load_folder(write_folder(tmp_path, nodes, "source,target\n\na, b\n"), "mine")
    assert graph.features.tolist() == [[1], [2], [3]]
    assert graph.num_edges == 1


def test_classes_that_are_numbers_are_in_their_order(tmp_path: Path) -> None:
    nodes = "node,label,split,f\n" + "".join(f"n{label},{label},train,1\n" for label in (10, 2, 1)) + "t,2,test,1\n"
    assert load_folder(write_folder(tmp_path, nodes, "source,target\n"), "mine").classes == ("1", "2", "10")


def test_without_labels_there_is_no_split(tmp_path: Path) -> None:
    graph = load_folder(write_folder(tmp_path, "node,f\na,1\nb,2\nc,3\nd,4\n"), "mine")
    assert graph.split is None
    assert graph.classes == ()


@pytest.mark.parametrize(
    ("nodes", "edges", "sentence"),
    [
        (NODES, EDGES + "d,d\n", r"edges\.csv, line 5: the edge leads from 'd' to itself"),
        (NODES, EDGES + "a,z\n", r"edges\.csv, line 5: nodes\.csv has no node 'z'"),
        (NODES, EDGES + "b,d\n", r"line 5: the edge from 'b' to 'd' was there in line 4 already"),
        (NODES, EDGES + "b\n", r"edges\.csv, line 5, has 1 columns, and its header has 2"),
        (NODES, "from,to\na,c\n", r"must begin with the header source,target, and its first line reads 'from,to'"),
        (NODES, "", r"edges\.csv must begin with the header source,target"),
        (NODES + "f,,train,1,1\n", EDGES, r"nodes\.csv, line 7: the node is in the split 'train' and has no label"),
        (NODES + "f,red,dev,1,1\n", EDGES, r"line 7: the split is 'dev'; it is to be train, validation, test"),
        (NODES + "a,red,train,1,1\n", EDGES, r"line 7: the node 'a' was there in line 2 already"),
        (NODES + "f,red,train,1,x\n", EDGES, r"line 7: the feature 'f2' is 'x', no finite number"),
        (NODES + "f,red,train,1,inf\n", EDGES, r"line 7: the feature 'f2' is 'inf', no finite number"),
        (NODES + "f,red,train,1\n", EDGES, r"nodes\.csv, line 7, has 4 columns, and its header has 5"),
        (
            "node,label,split,f\na,x,train,1\nb,x,test,1\n",
            "source,target\n",
            r"all nodes have the label 'x', and with a single",
        ),
        (NODES.replace("label,split", "label,part"), EDGES, r"Every column but node, label and split is a feature"),
        (NODES + "f,green,test,1,1\n", EDGES, r"the class 'green' has no node in the split 'train'"),
        (NODES.replace(",test,", ",,"), EDGES, r"no node is in the split 'test'"),
        (NODES.replace("node,", "name,"), EDGES, r"a header that has the column 'node'"),
        (NODES.replace("f2", "f1"), EDGES, r"more than one column of the name 'f1'"),
        ("node,label,split\na,x,train\n", EDGES, r"has no features, only node,label,split"),
        ("node,label,split,f\n", EDGES, r"nodes\.csv has no nodes"),
        ("", EDGES, r"a header that has the column 'node'"),
        (NODES + '"f,red,train,1,1\n', EDGES, r"nodes\.csv is no table of comma-separated values"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, nodes: str, edges: str, sentence: str) -> None:
    folder = write_folder(tmp_path / "graph", nodes, edges)
    with pytest.raises(CorruptFileError, match=sentence):
        load_folder(folder, "mine")
    assert sorted(path.name for path in folder.iterdir()) == ["edges.csv", "nodes.csv"]


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "edges.csv").write_bytes(b"source,target\n\xff\xfe\n")
    with pytest.raises(CorruptFileError, match=r"edges\.csv is no table of comma-separated values in UTF-8"):
        load_folder(folder, "mine")


@pytest.mark.parametrize("missing", ["nodes.csv", "edges.csv"])
def test_a_missing_file_is_named_with_what_it_should_hold(tmp_path: Path, missing: str) -> None:
    folder = write_folder(tmp_path)
    (folder / missing).unlink()
    with pytest.raises(MissingDataError, match=rf"There is no .*{missing}: a graph is a folder with nodes\.csv"):
        load_folder(folder, "mine")


@pytest.mark.parametrize("network", NETWORK_NAMES)
def test_every_network_trains_on_a_users_graph(tmp_path: Path, network: str) -> None:
    write_ring(tmp_path)
    task = load(f"graph:{tmp_path}", network)
    trial = task.trial(LearnerSpec("dfa", network, 0.01))
    assert trial.train_epoch(1) != trial.train_epoch(2)
    assert torch.isfinite(torch.tensor(trial.scores().test))
    assert task.data == f"graph:{tmp_path}"


def test_names_that_do_not_exist() -> None:
    with pytest.raises(UnknownNameError, match=r"no graph called 'corra'\. Did you mean cora\?"):
        load("corra", "gcn")
    with pytest.raises(UnknownNameError, match=r"no network for graphs called 'gcnn'\. Did you mean gcn\?"):
        load("cora", "gcnn")


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feedalign_lab.graphs.task.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"package torch_geometric, .*pip install 'feedalign\[graphs\]'"):
        load("cora", "gcn")
