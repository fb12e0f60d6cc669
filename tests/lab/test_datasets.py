"""The data sets themselves: sizes, ranges, splits; the real files where they are at hand."""

import os

import pytest
import torch

from feedalign_lab import data
from feedalign_lab.data.augmentation import flip_horizontally
from feedalign_lab.errors import SettingError, UnknownNameError

needs_files = pytest.mark.skipif("FEEDALIGN_DATA" not in os.environ, reason="FEEDALIGN_DATA is not set")


def test_digits_split_is_stratified_and_fixed() -> None:
    first, second = data.load("digits"), data.load("digits")
    assert first.x_train.shape == (1297, 64)
    assert first.x_test.shape == (500, 64)
    assert torch.equal(first.x_test, second.x_test)
    assert float(first.x_train.min()) == 0
    assert float(first.x_train.max()) == 1
    shares = torch.bincount(first.y_test, minlength=10) / 500
    expected = torch.bincount(first.y_train, minlength=10) / 1297
    torch.testing.assert_close(shares, expected, atol=0.002, rtol=0)


def test_pixels_scaled_to_minus_one_and_one() -> None:
    own, symmetric = data.load("digits"), data.load("digits", inputs="symmetric")
    torch.testing.assert_close(symmetric.x_train, own.x_train * 2 - 1)
    torch.testing.assert_close(symmetric.x_test, own.x_test * 2 - 1)
    assert symmetric.normalization == "pixels / 8 - 1, in [-1, 1]"
    assert own.normalization == "pixels / 16, in [0, 1]"


def test_what_is_no_pixel_has_no_ends_to_scale() -> None:
    with pytest.raises(SettingError, match=r"are no pixels .* take --inputs own"):
        data.load("synthetic-regression", inputs="symmetric")


def test_synthetic_regression_follows_its_equation() -> None:
    dataset = data.load("synthetic-regression")
    assert dataset.x_train.shape == (5000, 256)
    assert dataset.y_test.shape == (1000, 10)
    assert (dataset.num_classes, dataset.num_outputs) == (None, 10)
    mean = dataset.x_test[3].mean()
    torch.testing.assert_close(dataset.y_test[3, 0], torch.cos(mean - torch.pi / 2))
    torch.testing.assert_close(dataset.y_test[3, 9], torch.cos(mean + torch.pi / 2))
    # The entries have unit variance around a center per example that covers -pi to pi.
    torch.testing.assert_close(dataset.x_train.std(dim=1).mean(), torch.tensor(1.0), atol=0.01, rtol=0)
    assert float(dataset.x_train.mean(dim=1).abs().max()) > 3


def test_synthetic_classification_has_the_stated_sizes() -> None:
    dataset = data.load("synthetic-classification")
    assert dataset.x_train.shape == (25_000, 256)
    assert dataset.x_test.shape == (5_000, 256)
    assert torch.bincount(dataset.y_train).shape == (10,)


def test_unknown_data_set_lists_the_near_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean mnist.*cifar100"):
        data.load("minst")


def test_one_hot_targets() -> None:
    dataset = data.load("digits")
    encoded = dataset.encode(torch.tensor([3, 0]))
    assert encoded.shape == (2, 10)
    assert encoded.argmax(1).tolist() == [3, 0]
    assert encoded.sum().item() == 2


def test_validation_split_comes_out_of_the_training_part_alone() -> None:
    dataset = data.load("digits")
    split = data.validation_split(dataset, fraction=0.2)
    assert split.x_train.shape[0] == 1038
    assert split.x_test.shape[0] == 259
    rows = {tuple(row) for row in dataset.x_train.tolist()}
    assert {tuple(row) for row in split.x_test.tolist()} <= rows
    together = torch.cat([split.y_train, split.y_test])
    assert torch.equal(torch.bincount(together), torch.bincount(dataset.y_train))


def test_flip_mirrors_about_half_of_the_images_whole() -> None:
    x = torch.arange(200 * 3 * 2 * 4, dtype=torch.float32).reshape(200, 3, 2, 4)
    flipped = flip_horizontally(x, torch.Generator().manual_seed(0))
    is_same = (flipped == x).flatten(1).all(1)
    is_mirrored = (flipped == x.flip(-1)).flatten(1).all(1)
    assert bool((is_same ^ is_mirrored).all())
    assert 70 < int(is_mirrored.sum()) < 130


@needs_files
@pytest.mark.parametrize(
    ("name", "shape", "mean"),
    [("mnist", (1, 28, 28), 0.1307), ("fashion-mnist", (1, 28, 28), 0.2860), ("cifar10", (3, 32, 32), 0.0)],
)
def test_real_files(name: str, shape: tuple[int, ...], mean: float) -> None:
    dataset = data.load(name)
    assert dataset.x_train.shape == (50_000 if name == "cifar10" else 60_000, *shape)
    assert dataset.x_test.shape == (10_000, *shape)
    assert abs(float(dataset.x_train.mean()) - mean) < 1e-3
    assert torch.bincount(dataset.y_test, minlength=10).min() > 850
    symmetric = data.load(name, inputs="symmetric").x_test
    assert (float(symmetric.min()), float(symmetric.max())) == (-1.0, 1.0)
    low, high = float(dataset.x_test[:, 0].min()), float(dataset.x_test[:, 0].max())
    torch.testing.assert_close(symmetric[:, 0], (dataset.x_test[:, 0] - low) / (high - low) * 2 - 1)
