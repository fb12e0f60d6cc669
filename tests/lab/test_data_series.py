"""Data sets of series: the parts put together, every trial's split, rows of images, and what no learning reaches."""

import itertools
import os
from pathlib import Path

import pytest
import torch

from feedalign_lab import data
from feedalign_lab.data import location
from feedalign_lab.data.dataset import Dataset, Part, pooled_dataset, validation_split
from feedalign_lab.data.series import read_pool
from feedalign_lab.data.trivial import trivial_errors
from feedalign_lab.errors import CorruptFileError, MissingDataError, SettingError

needs_files = pytest.mark.skipif("FEEDALIGN_DATA" not in os.environ, reason="FEEDALIGN_DATA is not set")


def write(path: Path, lines: list[str], labels: str = "1 2") -> Path:
    path.write_text(f"@univariate true\n@classLabel true {labels}\n@data\n" + "\n".join(lines) + "\n")
    return path


def pooled(num_examples: int = 50) -> Dataset:
    x = torch.arange(num_examples, dtype=torch.float32).reshape(-1, 1, 1).expand(-1, 3, 2).clone()
    return pooled_dataset("made", Part(x, torch.arange(num_examples) % 2), 2, "none")


def numbers(x: torch.Tensor) -> list[int]:
    return sorted(int(value) for value in x[:, 0, 0])


def test_both_parts_in_their_order(tmp_path: Path) -> None:
    pool, num_classes = read_pool(write(tmp_path / "a", ["1,2:2", "3,4:1"]), write(tmp_path / "b", ["5,6:1"]))
    assert pool.x.squeeze(2).tolist() == [[1, 2], [3, 4], [5, 6]]
    assert (pool.x.dtype, pool.y.tolist(), num_classes) == (torch.float32, [1, 0, 0], 2)


def test_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    first = write(tmp_path / "a", ["1,2:2"])
    with pytest.raises(CorruptFileError, match=r"has the classes 1, 2, but .* 2, 1"):
        read_pool(first, write(tmp_path / "b", ["1,2:2"], labels="2 1"))
    with pytest.raises(CorruptFileError, match=r"have 2 steps of 1 numbers, but those in .* 3 steps of 1"):
        read_pool(first, write(tmp_path / "c", ["1,2,3:2"]))


def test_missing_files_say_where_to_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDALIGN_DATA", str(tmp_path))
    monkeypatch.setattr(location, "cache_root", lambda: tmp_path / "cache")
    with pytest.raises(MissingDataError) as raised:
        data.load("libras")
    for part in ("Libras_TRAIN.ts", str(tmp_path / "ucr_uea"), "https://timeseriesclassification.com", "unpack"):
        assert part in str(raised.value)


def test_files_are_found_under_the_named_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDALIGN_DATA", str(tmp_path))
    (tmp_path / "ucr_uea").mkdir()
    for part in ("TRAIN", "TEST"):
        write(tmp_path / "ucr_uea" / f"ECG200_{part}.ts", ["1,2:2", "3,4:1", "5,6:1", "7,8:2", "9,0:1"])
    dataset = data.load("ecg200")
    assert (dataset.facts().num_train, dataset.facts().num_validation, dataset.facts().num_test) == (6, 2, 2)
    assert (dataset.name, dataset.input_shape, dataset.num_outputs) == ("ecg200", (2, 1), 2)
    with pytest.raises(SettingError, match="are no pixels"):
        data.load("ecg200", inputs="symmetric")


def test_every_trial_splits_all_examples_anew() -> None:
    dataset = pooled()
    splits = [dataset.of_trial(seed, trial) for seed, trial in ((0, 0), (0, 1), (1, 0))]
    for split in splits:
        assert split.validation is not None
        parts = [numbers(x) for x in (split.x_train, split.validation.x, split.x_test)]
        assert [len(part) for part in parts] == [30, 10, 10]
        assert sorted(itertools.chain(*parts)) == list(range(50))
        # Inputs and targets stay together.
        assert torch.equal(split.y_test, split.x_test[:, 0, 0].long() % 2)
    tests = [numbers(split.x_test) for split in splits]
    assert tests[0] != tests[1] != tests[2] != tests[0]
    assert torch.equal(dataset.of_trial(0, 1).x_train, splits[1].of_trial(0, 1).x_train)
    assert torch.equal(dataset.x_train, splits[0].x_train)


def test_parts_of_a_set_without_a_pool_stay() -> None:
    digits = data.load("digits")
    assert digits.of_trial(0, 1) is digits
    assert (digits.facts().num_validation, digits.facts().is_redrawn) == (0, False)


def test_validation_part_is_what_settings_are_chosen_on() -> None:
    dataset = pooled()
    split = validation_split(dataset)
    assert dataset.validation is not None
    assert torch.equal(split.x_test, dataset.validation.x)
    assert torch.equal(split.x_train, dataset.x_train)
    assert split.validation is None
    assert split.of_trial(0, 5) is split


def test_moving_takes_all_parts_along() -> None:
    moved = pooled().to("meta")
    assert moved.validation is not None
    assert moved.pool is not None
    parts = (moved.x_train, moved.y_test, moved.validation.x, moved.validation.y, moved.pool.x, moved.pool.y)
    assert {part.device.type for part in parts} == {"meta"}


def test_most_frequent_class_is_that_of_the_training_part() -> None:
    y_train, y_test = torch.tensor([1, 1, 0]), torch.tensor([0, 0, 0, 1])
    dataset = Dataset("made", torch.zeros(3, 2), y_train, torch.zeros(4, 2), y_test, 2, "classification", "none")
    assert trivial_errors(dataset) == {"most frequent class": 75.0}


def test_trivial_forecasts() -> None:
    x, y = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[2.0], [4.0]]])
    dataset = Dataset("made", x, y, x, y + 2, None, "forecasting", "none")
    assert trivial_errors(dataset) == {"mean": 5.0, "value last seen": 12.5}


def test_mean_of_values_is_that_of_each_output() -> None:
    y = torch.tensor([[0.0, 10.0], [2.0, 10.0]])
    dataset = Dataset("made", y, y, y, y, None, "regression", "none")
    assert trivial_errors(dataset) == {"mean": 0.5}


@needs_files
@pytest.mark.parametrize(
    ("name", "shape", "num_examples", "counts"),
    [
        ("libras", (45, 2), 360, [24] * 15),
        ("ecg200", (96, 1), 200, [67, 133]),
        ("strawberry", (235, 1), 983, [351, 632]),
    ],
)
def test_real_series(name: str, shape: tuple[int, ...], num_examples: int, counts: list[int]) -> None:
    dataset = data.load(name)
    assert dataset.pool is not None
    assert dataset.pool.x.shape == (num_examples, *shape)
    assert torch.bincount(dataset.pool.y).tolist() == counts
    assert dataset.x_train.shape[0] == num_examples - 2 * round(0.2 * num_examples)
    if "variance 1" in dataset.normalization:
        torch.testing.assert_close(dataset.pool.x.std(1), torch.ones(num_examples, 1), atol=1e-3, rtol=0)
    else:
        assert 0 <= float(dataset.pool.x.min()) < float(dataset.pool.x.max()) <= 1


@needs_files
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_a_step_is_a_row_of_the_image(name: str) -> None:
    images, rows = data.load(name), data.load(f"row-{name}")
    assert rows.x_test.shape == (10_000, 28, 28)
    row, scaled = images.x_test[5, 0, 9], rows.x_test[5, 9]
    torch.testing.assert_close(scaled, (row - images.x_train.mean()) / images.x_train.std(), atol=1e-3, rtol=0)
    assert abs(float(rows.x_train.mean())) < 1e-3
    assert abs(float(rows.x_train.std()) - 1) < 1e-3
    assert rows.name == f"row-{name}"
    assert float(data.load(f"row-{name}", inputs="symmetric").x_test.min()) == -1
