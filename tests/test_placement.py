"""How an error meets an activation: every layout against loops over samples, positions and features."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from feedalign.errors import AmbiguousShapeError, FeedbackShapeError
from feedalign.placement import FeatureAxis, Placement, Signature, features_last, place
from problems import draw


def settle(
    error: tuple[int, ...],
    activation: tuple[int, ...],
    positions: str = "auto",
    *,
    axis: FeatureAxis = "last",
    error_axis: FeatureAxis = "last",
) -> Placement:
    return place(Signature(error, error_axis), Signature(activation, axis), positions, "act1")


def rows(placement: Placement, vector: Tensor) -> Tensor:
    return placement.rows(features_last(vector, placement.error_axis))


def signal(placement: Placement, vector: Tensor, feedback: Tensor, shape: tuple[int, ...]) -> Tensor:
    return placement.deliver(rows(placement, vector) @ feedback, shape)


# Error, activation, its feature axis, the error's, the option; then layout, C and D.
SETTLED = [
    ((6, 3), (6, 7), "last", "last", "auto", "full", 3, 7),
    ((6, 3), (6, 7), "unknown", "unknown", "auto", "full", 3, 7),
    ((6,), (6, 7), "last", "last", "auto", "full", 1, 7),
    ((6,), (6,), "last", "last", "auto", "full", 1, 1),
    ((6, 3), (6, 4, 5, 5), "second", "last", "auto", "full", 3, 100),
    ((6, 3), (6, 4, 5), "second", "last", "auto", "full", 3, 20),
    ((6, 3), (6, 4, 5, 5), "second", "last", "shared", "repeated", 3, 4),
    ((6, 3), (6, 5, 7), "last", "last", "auto", "repeated", 3, 7),
    ((6,), (6, 5, 7), "last", "last", "auto", "repeated", 1, 7),
    ((6, 3), (6, 5, 7), "last", "last", "full", "full", 3, 35),
    ((6, 5, 3), (6, 5, 7), "last", "last", "auto", "shared", 3, 7),
    ((6, 5, 3), (6, 5, 7), "last", "last", "full", "full", 15, 35),
    ((6, 5, 3), (6, 5, 4, 2), "last", "last", "auto", "shared", 3, 8),
    ((6, 4, 5, 3), (6, 4, 5, 7), "last", "last", "auto", "shared", 3, 7),
    ((6, 3, 5, 4), (6, 7, 5, 4), "second", "second", "shared", "shared", 3, 7),
    ((6, 3, 5, 4), (6, 7, 9, 8), "second", "second", "full", "full", 60, 504),
]


@pytest.mark.parametrize(
    ("error", "activation", "axis", "error_axis", "positions", "layout", "num_outputs", "num_features"), SETTLED
)
def test_shapes_tell_the_layout(
    error: tuple[int, ...],
    activation: tuple[int, ...],
    axis: FeatureAxis,
    error_axis: FeatureAxis,
    positions: str,
    layout: str,
    num_outputs: int,
    num_features: int,
) -> None:
    placement = settle(error, activation, positions, axis=axis, error_axis=error_axis)
    assert (placement.layout, placement.num_outputs, placement.num_features) == (layout, num_outputs, num_features)
    vector, feedback = draw(*error, seed=1), draw(num_outputs, num_features, seed=2)
    assert rows(placement, vector).shape == (placement.num_rows(activation), num_outputs)
    delivered = signal(placement, vector, feedback, activation)
    assert delivered.shape == activation
    # Whatever the layout, each entry of the error reaches each entry that it should reach equally often.
    total = vector.sum()
    ones = signal(placement, vector, torch.ones_like(feedback), activation).sum()
    repeats = math.prod(activation) / (placement.num_rows(activation) * num_features)
    torch.testing.assert_close(ones, total * num_features * repeats)


# Error, activation, feature axis, error's feature axis, option.
AMBIGUOUS = [
    ((6, 3, 5, 4), (6, 7, 5, 4), "second", "second", "auto"),
    ((6, 3), (6, 5, 7), "unknown", "last", "auto"),
    ((6, 5, 3), (6, 4, 7), "last", "last", "auto"),
    ((6, 5, 3), (6, 7), "last", "last", "auto"),
    ((6, 3), (2, 5, 7), "last", "last", "auto"),
    ((30, 3), (6, 5, 7), "last", "last", "auto"),
    ((6, 3), (12, 7), "last", "last", "full"),
    ((6, 3, 5, 4), (6, 7, 9, 8), "second", "second", "shared"),
    ((6, 5, 3), (6, 7, 5, 4), "second", "last", "shared"),
]


@pytest.mark.parametrize(("error", "activation", "axis", "error_axis", "positions"), AMBIGUOUS)
def test_shapes_that_do_not_tell_are_refused_with_the_options_named(
    error: tuple[int, ...], activation: tuple[int, ...], axis: FeatureAxis, error_axis: FeatureAxis, positions: str
) -> None:
    options = r"act1.*positions=\"shared\".*positions=\"full\""
    with pytest.raises(AmbiguousShapeError, match=options if error[0] == activation[0] else "act1.*first sizes"):
        settle(error, activation, positions, axis=axis, error_axis=error_axis)


sizes = st.integers(1, 4)


@given(n=sizes, c=sizes, d=sizes, t=sizes, u=sizes)
def test_a_shared_matrix_meets_each_position_with_the_error_of_that_position(
    n: int, c: int, d: int, t: int, u: int
) -> None:
    vector, feedback = draw(n, t, u, c, seed=1), draw(c, d, seed=2)
    placement = settle((n, t, u, c), (n, t, u, d), "shared")
    found = signal(placement, vector, feedback, (n, t, u, d))
    for i, j, k in itertools.product(range(n), range(t), range(u)):
        torch.testing.assert_close(found[i, j, k], vector[i, j, k] @ feedback)


@given(n=sizes, c=sizes, d=sizes, h=sizes, w=sizes)
def test_a_shared_matrix_meets_each_pixel_with_the_error_of_that_pixel(n: int, c: int, d: int, h: int, w: int) -> None:
    vector, feedback = draw(n, c, h, w, seed=1), draw(c, d, seed=2)
    placement = settle((n, c, h, w), (n, d, h, w), "shared", axis="second", error_axis="second")
    found = signal(placement, vector, feedback, (n, d, h, w))
    for i, j, k in itertools.product(range(n), range(h), range(w)):
        torch.testing.assert_close(found[i, :, j, k], vector[i, :, j, k] @ feedback)


@given(n=sizes, c=sizes, d=sizes, t=st.integers(2, 4))
def test_an_error_without_positions_is_repeated_over_them(n: int, c: int, d: int, t: int) -> None:
    vector, feedback = draw(n, c, seed=1), draw(c, d, seed=2)
    found = signal(settle((n, c), (n, t, d)), vector, feedback, (n, t, d))
    for i, j in itertools.product(range(n), range(t)):
        torch.testing.assert_close(found[i, j], vector[i] @ feedback)


@given(n=sizes, c=sizes, d=sizes, h=sizes, w=sizes)
def test_an_error_without_positions_is_repeated_over_pixels(n: int, c: int, d: int, h: int, w: int) -> None:
    vector, feedback = draw(n, c, seed=1), draw(c, d, seed=2)
    placement = settle((n, c), (n, d, h, w), "shared", axis="second")
    found = signal(placement, vector, feedback, (n, d, h, w))
    for i, j, k in itertools.product(range(n), range(h), range(w)):
        torch.testing.assert_close(found[i, :, j, k], vector[i] @ feedback)


@given(n=sizes, c=sizes, d=sizes, h=sizes, w=sizes)
def test_full_feedback_counts_every_entry_of_the_activation_as_a_feature(
    n: int, c: int, d: int, h: int, w: int
) -> None:
    vector, feedback = draw(n, c, seed=1), draw(c, d, h, w, seed=2)
    placement = settle((n, c), (n, d, h, w), axis="second")
    found = signal(placement, vector, feedback.flatten(1), (n, d, h, w))
    torch.testing.assert_close(found, torch.einsum("nc,cdhw->ndhw", vector, feedback))


def test_full_feedback_of_an_image_has_a_row_for_every_entry_of_the_error_in_its_own_order() -> None:
    vector, feedback = draw(2, 3, 4, 5, seed=1), draw(3, 4, 5, 7, seed=2)
    placement = settle((2, 3, 4, 5), (2, 7), "full", error_axis="second")
    found = signal(placement, vector, feedback.reshape(60, 7), (2, 7))
    torch.testing.assert_close(found, torch.einsum("nchw,chwd->nd", vector, feedback))


def test_features_that_the_activation_has_beyond_the_errors_positions_are_all_features() -> None:
    """Attention heads, `[N, T, heads, D]`, under an error `[N, T, C]`."""
    vector, feedback = draw(2, 3, 4, seed=1), draw(4, 5, 6, seed=2)
    found = signal(settle((2, 3, 4), (2, 3, 5, 6)), vector, feedback.flatten(1), (2, 3, 5, 6))
    torch.testing.assert_close(found, torch.einsum("ntc,chd->nthd", vector, feedback))


@pytest.mark.parametrize(
    ("error", "activation", "axis", "error_axis", "positions", "layout", "num_outputs", "num_features"), SETTLED
)
def test_collecting_is_the_adjoint_of_delivering(
    error: tuple[int, ...],
    activation: tuple[int, ...],
    axis: FeatureAxis,
    error_axis: FeatureAxis,
    positions: str,
    layout: str,
    num_outputs: int,
    num_features: int,
) -> None:
    """Two numbers that agree for all signals only if each entry comes from where it is delivered to."""
    placement = settle(error, activation, positions, axis=axis, error_axis=error_axis)
    projected, tensor = draw(placement.num_rows(activation), num_features, seed=1), draw(*activation, seed=2)
    collected = placement.collect(tensor)
    assert collected.shape == projected.shape
    delivered = (placement.deliver(projected, activation) * tensor).sum()
    torch.testing.assert_close((projected * collected).sum(), delivered)
    repeats = math.prod(activation) // (placement.num_rows(activation) * num_features)
    assert placement.num_repeats(activation) == repeats


@pytest.mark.parametrize(
    ("placement", "shape"),
    [
        (settle((6, 3), (6, 7)), (2, 7)),
        (settle((6, 5, 3), (6, 5, 7)), (2, 9, 7)),
        (settle((6, 3), (6, 5, 7)), (2, 9, 7)),
        (settle((6, 3), (6, 4, 5, 5), "shared", axis="second"), (2, 4, 8, 9)),
    ],
)
def test_other_batches_and_positions_still_fit(placement: Placement, shape: tuple[int, ...]) -> None:
    placement.check(shape, "act1")


@pytest.mark.parametrize(
    ("placement", "shape", "num_found"),
    [
        (settle((6, 3), (6, 7)), (6, 8), 8),
        (settle((6, 5, 3), (6, 5, 7)), (6, 5, 8), 8),
        (settle((6, 3), (6, 5, 7)), (6, 5, 8), 8),
        (settle((6, 3), (6, 4, 5, 5), axis="second"), (6, 4, 6, 6), 144),
        (settle((6, 3), (6, 4, 5, 5), "shared", axis="second"), (6, 5, 5, 5), 5),
    ],
)
def test_an_activation_of_another_number_of_features_is_refused(
    placement: Placement, shape: tuple[int, ...], num_found: int
) -> None:
    with pytest.raises(FeedbackShapeError, match=rf"act1.*that is {num_found} features.*drawn for "):
        placement.check(shape, "act1")
