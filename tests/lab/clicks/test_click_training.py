"""Click logs as tasks: batches, measurements, the simulated law, and training under each rule."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_logs import criteo_file
from torch import Tensor

import feedalign as fa
from feedalign_lab.clicks import batches as batches_module
from feedalign_lab.clicks import log as log_module
from feedalign_lab.clicks import planted
from feedalign_lab.clicks.batches import shuffled_batches
from feedalign_lab.clicks.cosines import sample_cosines
from feedalign_lab.clicks.evaluation import measure
from feedalign_lab.clicks.log import ClickLog, Source, encode
from feedalign_lab.clicks.names import NETWORK_NAMES
from feedalign_lab.clicks.planted import PlantedLog, bayes_auc, write_planted
from feedalign_lab.clicks.schema import CRITEO
from feedalign_lab.clicks.settings import TUNED, default_network, lack, rule_setting, run_setting
from feedalign_lab.clicks.sources import load_log
from feedalign_lab.clicks.store import PartInMemory
from feedalign_lab.clicks.task import ClickTask, load
from feedalign_lab.clicks.training import ClickTrial, loss_function
from feedalign_lab.errors import DivergedError, SettingError, UnknownNameError
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.task import silent
from feedalign_lab.training import Schedule, run_trial

CPU = torch.device("cpu")
DEEP = ("deepfm-small", "deepcross-small", "afn-small")
_WITHOUT_SIGNALS = {"backprop", "shallow", "fg-w"}


@pytest.fixture(scope="module")
def log() -> ClickLog:
    return encode("planted", [Source(PlantedLog(1500), "whole")], CRITEO, silent)


def trial(log: ClickLog, network: str, rule: str, **changes: object) -> ClickTrial:
    spec = replace(LearnerSpec(rule, network, 1e-3), **changes)  # type: ignore[arg-type]
    if rule in {"dkp", "fdfa"}:
        spec = replace(spec, feedback_learning_rate=1e-3)
    return ClickTask(log, network, Schedule(1, 256), CPU).trial(spec)


def numbered(count: int) -> PartInMemory:
    """Rows that can be told from each other."""
    return PartInMemory(np.arange(count, dtype=np.int32)[:, None], np.arange(count).astype(np.uint8) % 2)


# Batches.


@pytest.mark.parametrize("count", [10, 96, 97, 1000])
def test_every_row_once_in_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(batches_module, "_ROWS_OF_BLOCK", 16)
    monkeypatch.setattr(batches_module, "_BLOCKS_AT_ONCE", 3)
    order = torch.Generator().manual_seed(0)
    epochs = []
    for _ in range(2):
        found = list(shuffled_batches(numbered(count), 12, order, CPU))
        assert all(len(x) == 12 for x, _ in found[:-1])
        assert all(torch.equal(x % 2, y.long()) for x, y in found)
        epochs.append(torch.cat([x for x, _ in found]).squeeze(1).tolist())
    # A last batch of one row is left out.
    assert all(len(set(epoch)) == len(epoch) == count - (count % 12 == 1) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert epochs[0] != sorted(epochs[0])


def test_rows_of_a_small_part_are_shuffled_among_all(log: ClickLog) -> None:
    first = next(iter(shuffled_batches(numbered(60_000), 1000, torch.Generator().manual_seed(0), CPU)))[0]
    assert np.histogram(first.numpy(), bins=6, range=(0, 60_000))[0].min() > 100


# Measurements.


class Fixed(torch.nn.Module):
    """A network that returns known logits."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, categories: Tensor) -> Tensor:
        return self.logits[categories]


def test_auc_and_log_loss_by_hand() -> None:
    part = PartInMemory(np.arange(5, dtype=np.int32)[:, None], np.array([0, 1, 0, 1, 1], np.uint8))
    logits = [-1.0, 0.5, 0.5, 2.0, -2.0]
    found = measure(Fixed(logits), part, CPU)
    # Six pairs: (0.5, -1), (2, -1), (2, 0.5) in order, (0.5, 0.5) a tie, -2 below both.
    assert found.auc == pytest.approx(3.5 / 6)
    signs = [1, -1, 1, -1, -1]
    assert found.log_loss == pytest.approx(
        np.mean([np.log1p(np.exp(s * z)) for s, z in zip(signs, logits, strict=True)])
    )


def test_signs_of_mean_zero_are_the_same_rows_under_another_law() -> None:
    half, zero = PlantedLog(2_000), PlantedLog(2_000, mean_of_signs=0.0)
    (rows,), (others,) = list(half.chunks()), list(zero.chunks())
    assert rows.columns == others.columns
    (_, probabilities), (_, of_parity) = next(half.probabilities()), next(zero.probabilities())
    assert not np.array_equal(probabilities, of_parity)
    # A triple's product: with a mean of m it moves with its first sign by m squared.
    random = np.random.default_rng(0)
    for mean in (0.0, 0.5):
        signs = random.choice([-1.0, 1.0], size=(200_000, 3)) + mean
        product = planted._interactions(signs, [(0, 1, 2)], mean)
        scale = np.sqrt((1 + mean**2) ** 3 - mean**6)
        assert float(product @ (signs[:, 0] - mean) / len(signs)) == pytest.approx(mean**2 / scale, abs=0.01)


def test_large_logits_still_have_an_order() -> None:
    part = PartInMemory(np.arange(4, dtype=np.int32)[:, None], np.array([0, 1, 0, 1], np.uint8))
    assert measure(Fixed([100.0, 200.0, 50.0, 150.0]), part, CPU).auc == 1.0


# The simulated log.


def test_bayes_auc_is_that_of_all_pairs() -> None:
    p = np.array([0.1, 0.5, 0.5, 0.9, 0.3])
    pairs = [(a * (1 - b), 1.0 if a > b else 0.5 if a == b else 0.0) for a in p for b in p]
    assert bayes_auc(p) == pytest.approx(sum(w * s for w, s in pairs) / sum(w for w, _ in pairs))


def test_true_probabilities_reach_the_auc_that_is_stated() -> None:
    from sklearn.metrics import roc_auc_score

    rows = PlantedLog(40_000, seed=1)
    p = np.concatenate([some for _, some in rows.probabilities()])
    clicks = np.concatenate([chunk.labels for chunk in rows.chunks()])
    # The standard error of an AUC of 0.88 from 40,000 rows is below 0.002.
    assert roc_auc_score(clicks, p) == pytest.approx(bayes_auc(p), abs=0.006)
    assert clicks.mean() == pytest.approx(p.mean(), abs=0.01)


def test_no_sum_of_fields_and_pairs_stands_for_a_triple() -> None:
    """What is left of a product of three signs when all that two of them tell is taken away."""
    random = np.random.default_rng(0)
    signs = random.choice([-1.0, 1.0], size=(20_000, 3)) + planted.MEAN_OF_SIGNS
    product = signs.prod(axis=1)
    pairs = np.stack([signs[:, i] * signs[:, j] for i, j in ((0, 1), (0, 2), (1, 2))], axis=1)
    design = np.concatenate([np.ones((20_000, 1)), signs, pairs], axis=1)
    left = product - design @ np.linalg.lstsq(design, product, rcond=None)[0]
    assert left.var() / product.var() == pytest.approx(1 / 1.94, abs=0.02)


def test_a_longer_log_begins_with_a_shorter_one(tmp_path: Path) -> None:
    write_planted(tmp_path / "short.txt", 50)
    write_planted(tmp_path / "long.txt", 12_000)
    short = (tmp_path / "short.txt").read_text()
    assert (tmp_path / "long.txt").read_text().startswith(short)
    write_planted(tmp_path / "other.txt", 50, seed=1)
    assert (tmp_path / "other.txt").read_text() != short
    assert all(line.count("\t") == 39 for line in short.splitlines())
    assert not list(tmp_path.glob("*.part"))


def test_the_file_is_the_log_that_is_simulated(tmp_path: Path, log: ClickLog) -> None:
    path = criteo_file(tmp_path, 1500)
    found = load_log(f"criteo:{path}")
    assert found.sizes == log.sizes
    for name, part in log.parts.items():
        expected, labels = part.read(0, part.num_rows)
        assert np.array_equal(found.parts[name].read(0, part.num_rows)[0], expected)
        assert np.array_equal(found.parts[name].read(0, part.num_rows)[1], labels)


def test_writing_that_is_broken_off_leaves_nothing(tmp_path: Path) -> None:
    def stop(what: str, share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_planted(tmp_path / "log.txt", 30_000, tell=stop)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("num_rows", [0, -5])
def test_no_rows_to_simulate(tmp_path: Path, num_rows: int) -> None:
    with pytest.raises(SettingError, match="at least one row"):
        write_planted(tmp_path / "log.txt", num_rows)
    assert not list(tmp_path.iterdir())


# Training.


def test_batches_of_one_row_are_refused(log: ClickLog) -> None:
    with pytest.raises(SettingError, match="at least 2 rows"):
        ClickTask(log, "deepfm-small", Schedule(1, 1), CPU)


@pytest.mark.parametrize("network", DEEP)
def test_rules_learn(log: ClickLog, network: str) -> None:
    for rule in ("backprop", "dfa", "shallow"):
        one = trial(log, network, rule, learning_rate=5e-3)
        before = one.untrained_loss()
        losses = [one.train_epoch(number) for number in range(1, 7)]
        assert losses[-1] < min(before, losses[0]) - 0.01, rule


@pytest.mark.parametrize("network", [*DEEP, "fm"])
def test_every_rule_that_does_not_lack_anything_takes_an_epoch(log: ClickLog, network: str) -> None:
    for rule in (kind.name for kind in fa.ALL_RULES if lack("planted", network, kind.name) is None):
        one = trial(log, network, rule)
        assert np.isfinite(one.train_epoch(1)), rule
        assert 0 < one.scores().test < 1, rule
        # Rules without signals at the points have no cosines to leave behind.
        names = [name for name, _ in one.results()]
        assert names == ([] if rule in _WITHOUT_SIGNALS or network == "fm" else ["cosines.json"]), rule
    if network != "fm":
        layer_wise = {"fa", "usf", "brsf", "frsf"} if network == "afn-small" else set()
        assert {k.name for k in fa.ALL_RULES if lack("planted", network, k.name) is not None} == {"drtp"} | layer_wise


def test_same_seed_same_numbers(log: ClickLog) -> None:
    def numbers(**changes: object) -> list[float]:
        spec = replace(LearnerSpec("dfa", "afn-small", 1e-3, dropout=0.2), **changes)  # type: ignore[arg-type]
        schedule = Schedule(2, 300)
        result = run_trial(ClickTask(log, "afn-small", schedule, CPU).trial(spec), spec, schedule)
        return [number for epoch in result.epochs for number in (epoch.train_loss, epoch.test_score)]

    first = numbers()
    torch.rand(3)
    assert numbers() == first
    assert numbers(seed=1) != first
    assert numbers(trial=1) != first


def test_the_decay_of_the_rate_is_after_each_epoch(log: ClickLog) -> None:
    one = ClickTask(log, "fm", Schedule(2, 600, lr_decay=0.5), CPU).trial(LearnerSpec("backprop", "fm", 0.1))
    one.train_epoch(1)
    one.train_epoch(2)
    assert one.optimizer.param_groups[0]["lr"] == pytest.approx(0.025)


def test_gradients_are_clipped(log: ClickLog) -> None:
    one = trial(log, "deepcross-small", "backprop", clip=1e-4)
    x, y = one.fixed_rows()
    one._update(loss_function(one.model(x), y))
    norm = torch.cat([p.grad.flatten() for p in one.model.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_rate_that_is_too_large_is_said_to_diverge(log: ClickLog) -> None:
    one = trial(log, "afn-small", "backprop", learning_rate=1e30)
    with pytest.raises(DivergedError, match=r"backprop: .* no longer finite at step .* of epoch 1"):
        one.train_epoch(1)


def test_epochs_tell_how_far_they_are(log: ClickLog) -> None:
    one = trial(log, "fm", "backprop")
    shares: list[float] = []
    one.tell = lambda what, share: shares.append(share)
    one.train_epoch(1)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


def test_a_log_in_files_trains_as_one_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: ClickLog) -> None:
    monkeypatch.setattr(log_module, "cache_root", lambda: tmp_path / "cache")
    monkeypatch.setattr(log_module, "LARGEST_IN_MEMORY", 0)
    task = load(f"criteo:{criteo_file(tmp_path, 1500)}", "deepfm-small", schedule=Schedule(1, 256), device=CPU)
    one, other = task.trial(LearnerSpec("dfa", "deepfm-small", 1e-3)), trial(log, "deepfm-small", "dfa")
    assert one.train_epoch(1) == other.train_epoch(1)
    assert one.scores() == other.scores()


# Alignment.


def rows_of(cosines: dict[str, Tensor]) -> Iterator[Tensor]:
    return iter(cosines.values())


def test_cosines_of_single_samples(log: ClickLog) -> None:
    one = trial(log, "deepcross-small", "dfa")
    x, y = one.fixed_rows()
    gradients = [p.grad for p in one.model.parameters()]
    found = sample_cosines(one.model, loss_function, x, y)
    assert [p.grad for p in one.model.parameters()] == gradients
    assert "cross.layers.0.point" in found
    assert all(cosines.shape == (512,) and (cosines.abs() <= 1 + 1e-6).all() for cosines in rows_of(found))
    # By hand, at the stack: both signals are the error times a row, so that all samples agree.
    weight = one.model.get_parameter("head.weight").detach().squeeze(0)
    names = {name: buffer for name, buffer in one.model.named_buffers() if "feedalign" in name}
    stack = next(buffer for name, buffer in names.items() if name.endswith("stack") or buffer.shape[1] == len(weight))
    expected = torch.nn.functional.cosine_similarity(stack.squeeze(0), weight, dim=0)
    torch.testing.assert_close(found["stack"], expected.expand(512), rtol=1e-4, atol=1e-5)


def test_angles_of_the_layers_that_the_error_itself_teaches_are_zero(log: ClickLog) -> None:
    angles = {layer.layer: layer.weight for layer in trial(log, "afn-small", "dfa").alignment()}
    assert angles["head"] == pytest.approx(0.0, abs=1e-3)
    assert angles["linear.weight"] == pytest.approx(0.0, abs=1e-3)
    assert 1 < angles["logarithmic"] < 179
    assert 1 < angles["embedding"] < 179


# Tasks and settings.


def test_facts_of_a_task(log: ClickLog) -> None:
    task = ClickTask(replace(log, bayes_auc=0.88), "deepfm-small", Schedule(1, 256), CPU)
    facts = task.data_facts()
    assert facts["bayes_auc"] == 0.88
    assert [field["name"] for field in facts["fields"]][::13] == ["I1", "C1", "C14"]
    model = task.trial(LearnerSpec("backprop", "deepfm-small", 1e-3)).model
    assert task.network_facts()["num_parameters"] == sum(p.numel() for p in model.parameters())
    assert task.trivial(0, 0) == {"the same probability for all": 0.5}
    assert (task.metric.name, task.metric.better, task.judged_at) == ("AUC", "higher", "chosen")


@pytest.mark.parametrize("network", NETWORK_NAMES)
def test_every_network_has_a_setting_for_every_rule(network: str) -> None:
    for data in ("adult", "planted", "criteo:/x", "clicks:/y.csv"):
        assert run_setting(data, network).batch_size
        for kind in fa.ALL_RULES:
            setting = rule_setting(data, network, kind.name)
            assert setting.learning_rate > 0
            assert setting.source
            assert (setting.feedback_learning_rate is not None) == (kind.name in {"dkp", "fdfa"})


def test_the_papers_settings() -> None:
    dfa = rule_setting("criteo:/x", "deepfm", "dfa")
    assert (dfa.learning_rate, dfa.dropout, dfa.source) == (5e-5, 0.5, "Launay et al. 2020, appendix C")
    assert rule_setting("criteo:/x", "afn", "backprop").dropout == 0.3
    assert rule_setting("criteo:/x", "afn", "shallow").source == "the public code of Launay et al. 2020"
    assert "untuned" in rule_setting("criteo:/x", "afn-small", "dfa").source
    run = run_setting("criteo:/x", "deepcross")
    assert (run.batch_size, run.clip) == (512, 100.0)
    assert rule_setting("adult", "deepfm-small", "dfa").source == TUNED
    assert "untuned" in rule_setting("clicks:/y", "deepfm-small", "dfa").source
    assert default_network("criteo:/x") == "deepfm"


@pytest.mark.parametrize(
    ("data", "network", "rule"), [("adults", "fm", "dfa"), ("adult", "fmm", "dfa"), ("adult", "fm", "dfaa")]
)
def test_names_that_there_are_not(data: str, network: str, rule: str) -> None:
    for ask in (rule_setting, lack):
        with pytest.raises(UnknownNameError):
            ask(data, network, rule)
