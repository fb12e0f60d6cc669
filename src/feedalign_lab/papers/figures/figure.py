"""A figure of a paper: what it shows, what is claimed of it, and what makes it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from feedalign_lab.environment import describe_environment
from feedalign_lab.errors import SettingError
from feedalign_lab.papers.figures.drawing import Check, Drawing, Panel
from feedalign_lab.papers.store import TrialStore
from feedalign_lab.records import EpochRecord, OnEpoch, Watch
from feedalign_lab.results import ResultsFolder
from feedalign_lab.task import Tell, silent

PICTURE, DATA = ".png", ".json"


def unwatched(what: str, trial: int, epochs: int) -> OnEpoch:
    """Watch no trial."""
    del what, trial, epochs

    def ignore(record: EpochRecord) -> None:
        del record

    return ignore


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        epochs: Passes over the training data; 0 where nothing is trained.
        trials: Runs, or what else is averaged over.
    """

    epochs: int
    trials: int


@dataclass(frozen=True)
class Run:
    """What a recipe is to make, and with what.

    Attributes:
        paper: Name of the paper.
        figure: Name of the figure, which names the file of its records.
        store: Where records are.
        size: How much to run.
        whole: What the paper ran.
        watch: Told of every trial and its epochs.
        tell: Told how far something long is.
        device: Where to train.
    """

    paper: str
    figure: str
    store: TrialStore
    size: Size
    whole: Size
    watch: Watch = unwatched
    tell: Tell = silent
    device: str = "cpu"


@dataclass(frozen=True)
class Made:
    """What a recipe made.

    Attributes:
        panels: What is to be drawn.
        done: The size of it, which falls short of what was asked where trials are missing.
        remarks: What went wrong, and the like, sentence by sentence.
    """

    panels: tuple[Panel, ...]
    done: Size
    remarks: tuple[str, ...] = ()


class Recipe(Protocol):
    """How a figure comes about."""

    def make(self, run: Run) -> Made:
        """Train or measure what is not yet on file, and put panels together."""


CheckMaker = Callable[[Drawing], Check]


@dataclass(frozen=True)
class Figure:
    """A figure of a paper.

    Attributes:
        paper: Name of the paper.
        name: What a user types: "fig2".
        title: What it shows, in a line.
        caption: What is drawn; what differs from the paper.
        recipe: What makes it.
        whole: What the paper ran.
        usual: What is run where nothing is asked; None: what the paper ran.
        checks: What the paper claims of it, each as a function of the drawing.
        counted: What a trial is called: "trials", "examples".
    """

    paper: str
    name: str
    title: str
    caption: str
    recipe: Recipe
    whole: Size
    usual: Size | None = None
    checks: tuple[CheckMaker, ...] = ()
    counted: str = "trials"

    def run(
        self,
        store: TrialStore,
        folder: Path,
        *,
        trials: int | None = None,
        epochs: int | None = None,
        watch: Watch = unwatched,
        tell: Tell = silent,
        device: str = "cpu",
    ) -> list[Path]:
        """Make the figure and write it.

        Args:
            store: Where trials are read and put on file; what is there is not trained again.
            folder: Where picture and data go; made if it is not there. An older figure is replaced, unless it was made
                with more.
            trials: Runs of everything; None takes the usual number.
            epochs: Passes over the training data; None takes the usual number.
            watch: Told of every trial and its epochs.
            tell: Told how far something long is.
            device: Where to train.

        Returns:
            The picture and its data, "NAME.png" and "NAME.json".

        Raises:
            SettingError: A number is out of range.
            OutputFolderError: Records or figure cannot be written, or a figure of more epochs or trials is there.
        """
        # Imported late: the one reads figures, and of the other matplotlib takes a second.
        from feedalign_lab.papers.figures.on_file import refuse_less, refuse_to_lose
        from feedalign_lab.papers.figures.picture import draw

        refuse_less(self, folder, self.size(trials=trials, epochs=epochs))
        out = ResultsFolder.open(folder, overwrite=True)
        drawing = self.draw(store, trials=trials, epochs=epochs, watch=watch, tell=tell, device=device)
        refuse_to_lose(self, folder, drawing)
        # Data first: of a picture alone nobody knows what it was made with.
        data = out.write_bytes(f"{self.name}{DATA}", drawing.to_json().encode())
        return [out.write_bytes(f"{self.name}{PICTURE}", draw(drawing)), data]

    def draw(
        self,
        store: TrialStore,
        *,
        trials: int | None = None,
        epochs: int | None = None,
        watch: Watch = unwatched,
        tell: Tell = silent,
        device: str = "cpu",
    ) -> Drawing:
        """Make the figure, as data; see `run`."""
        size = self.size(trials=trials, epochs=epochs)
        made = self.recipe.make(Run(self.paper, self.name, store, size, self.whole, watch, tell, device))
        label = self.label(made.done)
        drawing = Drawing(
            paper=self.paper,
            figure=self.name,
            title=self.title,
            caption=" ".join([self.caption, *made.remarks]),
            label=label,
            panels=made.panels,
            environment=describe_environment(torch.device(device)),
            epochs=made.done.epochs,
            trials=made.done.trials,
        )
        return self.checked(drawing)

    def checked(self, drawing: Drawing) -> Drawing:
        """A drawing with its statements measured anew: they are read off its series, and off nothing else."""
        return replace(drawing, checks=tuple(check(drawing) for check in self.checks))

    def size(self, *, trials: int | None = None, epochs: int | None = None) -> Size:
        """What is run where a user asks for so much.

        Args:
            trials: As asked; None for the usual number.
            epochs: As asked; None for the usual number.

        Returns:
            Both numbers.

        Raises:
            SettingError: One is below 1, or there are no epochs to choose.
        """
        usual = self.usual or self.whole
        for what, number in (("trials", trials), ("epochs", epochs)):
            if number is not None and number < 1:
                raise SettingError(f"The number of {what} must be at least 1, not {number}.")
        if epochs is not None and epochs > self.whole.epochs > 0:
            raise SettingError(f"{self.name} of {self.paper} has {self.whole.epochs} epochs: ask for no more.")
        if epochs is not None and not self.whole.epochs:
            raise SettingError(f"Nothing is trained for {self.name} of {self.paper}: leave --epochs out.")
        return Size(usual.epochs if epochs is None else epochs, usual.trials if trials is None else trials)

    def label(self, done: Size) -> str:
        """What a run lacks of the paper's.

        Args:
            done: What was run.

        Returns:
            Such as "20 of 500 epochs, 2 of 10 trials"; empty for nothing.
        """
        asked: Sequence[tuple[str, int, int]] = (
            ("epochs", done.epochs, self.whole.epochs),
            (self.counted, done.trials, self.whole.trials),
        )
        return ", ".join(f"{ours} of {theirs} {what}" for what, ours, theirs in asked if ours < theirs)
