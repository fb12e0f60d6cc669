"""Trainings killed with SIGKILL at any moment go on bit for bit."""

import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from cut_runs import Run, assert_same_run, run
from killed_runs import killed

from feedalign_lab import data
from feedalign_lab.choices import rule_names
from feedalign_lab.cli import main
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.progress import TrainingProgress
from feedalign_lab.task import Trial
from feedalign_lab.tensors import TensorTask
from feedalign_lab.training import Schedule

pytestmark = [
    pytest.mark.usefixtures("always_saving"),
    pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has torch loaded"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

COMMAND = ["train", "--network", "fc2-8", "--rule", "fdfa", "--dropout", "0.1", "--epochs", "4", "--batch-size", "400"]


def test_five_kills_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its 16 steps at most 15 are taken before the last kill."""
    from test_checkpoint_command import assert_same_files

    moments, folder = random.Random(0), tmp_path / "killed"
    folder.mkdir()
    command = [*COMMAND, "--resume", str(folder)]
    # First, so that the children find everything imported.
    assert main([*COMMAND, "--out", str(tmp_path / "undisturbed")]) == 0

    def train(step: Callable[..., None]) -> None:
        TrainingProgress.tell = step  # type: ignore[method-assign]
        main(command)

    for _ in range(5):
        assert killed(train, moments.randint(1, 3), moments)
    assert any(folder.iterdir())
    assert main(command) == 0
    assert_same_files(folder, tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_kills_are_a_hundred_exact_resumes(tmp_path: Path) -> None:
    """Of every rule in turn, on the whole of digits, each at a random step and a random while after it."""
    schedule = Schedule(3, 60, lr_decay=0.8, angles_every=2)
    dataset, moments = data.load("digits"), random.Random(0)
    task = TensorTask(dataset, "fc2-40", schedule)
    num_steps = schedule.epochs * -(-dataset.x_train.shape[0] // 60)
    undisturbed: dict[str, Run] = {}
    found: Counter[str] = Counter()
    for number in range(100):
        rule = rule_names()[number % len(rule_names())]
        feedback = {"feedback_learning_rate": 1e-3} if rule in {"dkp", "fdfa"} else {}
        spec = LearnerSpec(rule, "fc2-40", 1e-2, dropout=0.1, **feedback)
        if rule not in undisturbed:
            undisturbed[rule] = run(task, spec, schedule)
            assert undisturbed[rule][0].status == "finished"
        path = tmp_path / str(number) / "training.feedalign-checkpoint"

        def train(step: Callable[..., None], spec: LearnerSpec = spec, path: Path = path) -> None:
            def paced(trial: Trial) -> None:
                trial.tell = step

            run(task, spec, schedule, path, paced)

        assert killed(train, moments.randint(1, num_steps - 1), moments)
        left = sorted(one.name.removeprefix("training.feedalign-checkpoint") for one in path.parent.glob("*"))
        said: list[str] = []
        assert_same_run(run(task, spec, schedule, path, said=said), undisturbed[rule])
        found["exact resumes"] += 1
        found["began anew, killed before the first checkpoint"] += not said
        found["fell back to the one before"] += len(said) == 1 and ".before" in said[0]
        found["killed while a checkpoint was written"] += ".new" in left
    print(dict(found))
    assert found["exact resumes"] == 100
