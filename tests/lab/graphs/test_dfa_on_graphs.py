from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_graphs import communities
from torch import Tensor, nn
from torch.nn import functional

import feedalign as fa
from feedalign_lab.graphs.graph import Graph
from feedalign_lab.graphs.inputs import inputs_of
from feedalign_lab.graphs.names import NETWORK_NAMES
from feedalign_lab.graphs.networks import DNA, Network, build

Array = NDArray[np.float64]


def double_inputs(name: str, graph: Graph) -> tuple[Tensor, ...]:
    return inputs_of(name, replace(graph, features=graph.features.double()))


def attached(name: str, graph: Graph) -> tuple[Network, fa.Handle, tuple[Tensor, ...]]:
    model = build(name, graph.features.shape[1], len(graph.classes), dropout=0.0, seed=3).double()
    inputs = double_inputs(name, graph)
    handle = fa.attach(model, fa.DFA(), example_inputs=inputs, feedback="launay2020", strict=True)
    return model, handle, inputs


def loss_of(name: str, graph: Graph) -> Callable[[Tensor], Tensor]:
    """Cross-entropy over the training nodes; for the autoencoder that of some pairs."""
    assert graph.split is not None
    train = graph.split.train
    if name != "gae":
        return lambda output: functional.cross_entropy(output[train], graph.labels[train])
    pairs = graph.edges[:, ::2]
    return lambda latent: functional.softplus(-(latent[pairs[0]] * latent[pairs[1]]).sum(1)).mean()


def feedback_of(handle: fa.Handle, point: str) -> Tensor:
    matrix = handle.feedback_at(point)
    assert matrix is not None
    return matrix


def blocks(model: Network, inputs: tuple[Tensor, ...]) -> list[tuple[Tensor, list[nn.Parameter], str]]:
    """Each block's output with its own parameters and its feedback point, cut off from all blocks below."""
    x, *rest = inputs
    if isinstance(model, DNA):
        rows = [model.activations[0](model.lin1(x))]
        found = [(rows[0], list(model.lin1.parameters()), "activations.0")]
        for number, conv in enumerate(model.convs, start=1):
            below = torch.stack([row.detach() for row in rows], dim=1)
            rows.append(model.activations[number](conv(below, *rest)))
            found.append((rows[-1], list(conv.parameters()), f"activations.{number}"))
        return [*found, (model.lin2(rows[-1].detach()), list(model.lin2.parameters()), "output")]
    conv1, conv2 = model.get_submodule("conv1"), model.get_submodule("conv2")
    hidden = model.get_submodule("activation")(conv1(x, *rest))
    return [
        (hidden, list(conv1.parameters()), "activation"),
        (conv2(hidden.detach(), *rest), list(conv2.parameters()), "output"),
    ]


@pytest.mark.parametrize("name", NETWORK_NAMES)
def test_every_block_is_taught_by_the_error_through_its_own_matrix(name: str) -> None:
    graph = communities()
    model, handle, inputs = attached(name, graph)
    loss = loss_of(name, graph)
    loss(model(*inputs)).backward()
    matrices = {point: feedback_of(handle, point) for point in set(handle.points.values())}
    handle.remove()
    parts = blocks(model, inputs)
    (error,) = torch.autograd.grad(loss(parts[-1][0]), parts[-1][0], retain_graph=True)
    for output, parameters, point in parts:
        signal = error if point == "output" else error @ matrices[point]
        wanted = torch.autograd.grad(output, parameters, signal)
        for parameter, gradient in zip(parameters, wanted, strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-10)
            assert bool(gradient.any())


def renormalized(graph: Graph) -> Array:
    """`D^-1/2 (A + 1) D^-1/2` as a dense matrix."""
    adjacency = np.eye(graph.num_nodes)
    adjacency[graph.edges[0], graph.edges[1]] = 1
    scale = 1 / np.sqrt(adjacency.sum(1))
    matrix: Array = adjacency * scale[:, None] * scale
    return matrix


def error_of(output: Array, graph: Graph) -> Array:
    """Prediction minus target over the number of training nodes, and zero at all other nodes."""
    assert graph.split is not None
    error = np.zeros_like(output)
    for node in graph.split.train.tolist():
        exponential = np.exp(output[node])
        error[node] = (exponential / exponential.sum() - np.eye(3)[graph.labels[node]]) / len(graph.split.train)
    return error


def gradient_of(model: Network, name: str) -> Array:
    gradient = model.get_parameter(name).grad
    assert gradient is not None
    array: Array = gradient.numpy()
    return array


def test_the_gradients_of_the_graph_convolution_written_out_in_matrices() -> None:
    graph = communities()
    model, handle, inputs = attached("gcn", graph)
    loss_of("gcn", graph)(model(*inputs)).backward()
    A, X = renormalized(graph), inputs[0].to_dense().numpy()
    weights, biases = (
        [model.get_parameter(f"conv{number}.{name}").detach().numpy() for number in (1, 2)]
        for name in ("lin.weight", "bias")
    )
    pre = A @ X @ weights[0].T + biases[0]
    hidden = np.maximum(pre, 0)
    error = error_of(A @ hidden @ weights[1].T + biases[1], graph)
    delta = (error @ feedback_of(handle, "activation").numpy()) * (pre > 0)
    # The edges of the layer pass what a labelled node is told on to its neighbors' features.
    np.testing.assert_allclose(gradient_of(model, "conv1.lin.weight"), delta.T @ A @ X, atol=1e-10)
    np.testing.assert_allclose(gradient_of(model, "conv1.bias"), delta.sum(0), atol=1e-10)
    np.testing.assert_allclose(gradient_of(model, "conv2.lin.weight"), error.T @ A @ hidden, atol=1e-10)
    np.testing.assert_allclose(gradient_of(model, "conv2.bias"), error.sum(0), atol=1e-10)


def test_the_gradients_of_the_chebyshev_convolution_written_out_in_matrices() -> None:
    graph = communities()
    model, handle, inputs = attached("cheb", graph)
    loss_of("cheb", graph)(model(*inputs)).backward()
    adjacency = np.zeros((graph.num_nodes, graph.num_nodes))
    adjacency[graph.edges[0], graph.edges[1]] = 1
    degrees = adjacency.sum(1)
    scale = np.where(degrees > 0, 1 / np.sqrt(np.maximum(degrees, 1)), 0)
    # 2 (1 - A') / 2 - 1, with a largest eigenvalue of 2 taken for granted.
    L = -adjacency * scale[:, None] * scale
    X = inputs[0].to_dense().numpy()
    first, second = (
        [model.get_parameter(f"{conv}.lins.{number}.weight").detach().numpy().T for number in (0, 1)]
        for conv in ("conv1", "conv2")
    )
    pre = X @ first[0] + L @ X @ first[1] + model.get_parameter("conv1.bias").detach().numpy()
    hidden = np.maximum(pre, 0)
    output = hidden @ second[0] + L @ hidden @ second[1] + model.get_parameter("conv2.bias").detach().numpy()
    delta = (error_of(output, graph) @ feedback_of(handle, "activation").numpy()) * (pre > 0)
    np.testing.assert_allclose(gradient_of(model, "conv1.lins.0.weight"), delta.T @ X, atol=1e-10)
    np.testing.assert_allclose(gradient_of(model, "conv1.lins.1.weight"), delta.T @ L @ X, atol=1e-10)


@pytest.mark.parametrize("name", NETWORK_NAMES)
def test_the_rule_is_on_in_every_layer(name: str) -> None:
    graph = communities()
    model, handle, inputs = attached(name, graph)
    rows = handle.describe().rows
    assert not any(row.uncut for row in rows)
    taught = {row.layer.split(".")[0] for row in rows if row.signal.startswith("dfa")}
    assert taught == ({"lin1", "convs"} if name == "dna" else {"conv1"})
    num_outputs = 16 if name == "gae" else 3
    assert all(matrix.shape[0] == num_outputs for matrix in handle.store.buffers() if matrix.dim() == 2)
    handle.remove()
    assert fa.check(model, inputs).ok


@pytest.mark.parametrize("name", ["gcn", "spline", "gat"])
def test_sparse_and_dense_features_give_the_same_gradients(name: str) -> None:
    graph = communities()
    gradients = []
    for is_sparse in (True, False):
        model = build(name, graph.features.shape[1], 3, dropout=0.0, seed=3).double()
        x, *rest = double_inputs(name, graph)
        x = x.to_dense()
        inputs = (x.to_sparse().coalesce() if is_sparse else x, *rest)
        fa.attach(model, fa.DFA(), example_inputs=inputs, strict=True)
        loss_of(name, graph)(model(*inputs)).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
