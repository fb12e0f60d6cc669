"""A Monitor: what a rule does inside, every so many training steps, on file while the training runs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from feedalign.errors import AttachError, MonitorError
from feedalign.handle import Handle, handle_of
from feedalign.measure.attached import attached
from feedalign.measure.monitor_file import RecordFile, path_in
from feedalign.measure.monitor_numbers import record_of
from feedalign.measure.monitor_records import MonitorRecord, read_records
from feedalign.measure.monitor_step import MeasuredStep


class ScalarWriter(Protocol):
    """What a Monitor needs of TensorBoard's `SummaryWriter`."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any:
        """Add one number."""
        ...


class Monitor:
    """Records what a rule does, every `every` training steps.

    In a loop::

        monitor = fa.measure.Monitor(handle, every=100, folder="runs/1")
        for x, y in loader:
            optimizer.zero_grad()
            with monitor.step():
                loss = F.cross_entropy(model(x), y)
                loss.backward()
            optimizer.step()

    Steps 1, 1 + every, 1 + 2 * every, ... are measured. In such a step the Monitor watches the forward and the backward
    as they run, and at the end of the block runs the model once more without the rule, on the same inputs and random
    numbers, with the error that the loss has just sent to what the model returned: that makes backprop's gradients of
    the same step, at the price of one forward and one backward. Parameters, `.grad`, buffers and random states are what
    they would be without it. Between measured steps there is nothing on the model.

    Args:
        handle: The handle, or a model with a rule attached to it or to a part of it. Attach `fa.Backprop()` to record
            the control.
        every: Steps from one record to the next; 0: never.
        folder: Records are added to `monitor.jsonl` there, a line each; made if there is none. None: no file.
        tensorboard: True: write to TensorBoard too, in the same folder (needs the package tensorboard). Or a writer
            with `add_scalar(tag, value, step)`, such as a `SummaryWriter` of yours. False: not.
        start: Steps that the run has made before, where it is resumed from a checkpoint: the next one is `start + 1`,
            and moving averages go on from what the file has up to `start`.
        momentum: Of the moving averages: the weight of the average so far. 0.95 is that of Frenkel et al. 2021, Fig. 2.

    Raises:
        AttachError: No rule is attached or it was removed, or an argument is of the wrong kind.
        WrappedModelError: The model is sharded.
        MonitorError: The package tensorboard is missing, the folder is no path or cannot be written, or holds a file
            that no Monitor wrote.

    Attributes:
        model: The attached model.
        steps: Number of the latest step.
        last: The latest record, if any.
    """

    def __init__(
        self,
        handle: Handle | nn.Module,
        *,
        every: int = 100,
        folder: str | Path | None = None,
        tensorboard: bool | ScalarWriter = False,
        start: int = 0,
        momentum: float = 0.95,
    ) -> None:
        _, handle = attached(handle)
        model = handle.model
        _refuse_arguments(every, start, momentum)
        self.model, self.every, self.momentum, self.steps = model, every, momentum, start
        self.last: MonitorRecord | None = None
        self._points = dict(handle.points)
        self._averages: dict[tuple[str, str], float] = {}
        self._has_seen = self._is_owed = self._is_promised = self._is_open = False
        self._measured: MeasuredStep | None = None
        path = path_in(folder)
        self._writes = every > 0 and _is_first_rank()
        self._file = RecordFile(path) if path is not None and self._writes else None
        self._writer = _writer(tensorboard, path, start) if self._writes else None
        self._owns_writer = tensorboard is True
        if path is not None and path.is_file() and start > 0:
            self._resume(path)

    def step(self, number: int | None = None) -> AbstractContextManager[None]:
        """Return the context of one training step: the forward and `loss.backward()`.

        Several forwards and several backwards in it, as in gradient accumulation, are one step. A step in which the
        model does not run is not measured, and the next one is in its place.

        Args:
            number: The step's number, from 1. None: one more than the last.

        Returns:
            The context. If it is left by an exception, nothing is recorded.

        Raises:
            MonitorError: A step is open, or was asked for without `with`. At the end of the context: in the first step
                to be measured the model did not run or no error came back to it; weights changed inside the step; the
                model cannot be run again; another Monitor or process writes to the file. Gradients are whole even then.

        Warns:
            UserWarning: A record could not be written (a full disk, a folder that is gone): nothing is written from
                there on, and the training goes on.
        """
        if self._is_promised:
            raise MonitorError("monitor.step() was called and not entered; write `with monitor.step():`.")
        self._is_promised = True
        return self._step(number)

    @contextmanager
    def _step(self, number: int | None) -> Iterator[None]:
        self._is_promised = False
        self.begin(number)
        try:
            yield
        except BaseException:
            self.abandon()
            raise
        self.end()

    def begin(self, number: int | None = None) -> None:
        """Begin a step; for trainers that have a callback in the place of the context.

        Args:
            number: As for `step`.

        Raises:
            MonitorError: A step is open.
        """
        if self._is_open:
            raise MonitorError(
                "A step of this Monitor is open already: end it with end() or abandon() before the next one begins."
            )
        number = self.steps + 1 if number is None else number
        if type(number) is not int or number < 1:
            raise MonitorError(f"The step's number is {number!r}; give whole numbers from 1.")
        before, self.steps = self.steps, number
        self._is_open = True
        if self.every > 0 and (self._is_owed or (number - 1) // self.every != (before - 1) // self.every):
            handle = self._handle()
            self._points = self._points if handle is None else dict(handle.points)
            self._measured = MeasuredStep(self.model, handle, self._points)

    def end(self) -> None:
        """End the step, and measure if it is one to be measured; without effect where none is open.

        Raises:
            MonitorError: As for `step`.
        """
        measured, self._measured = self._measured, None
        self._is_open = False
        if measured is None:
            return
        try:
            self._measure(measured)
        finally:
            measured.close()

    def abandon(self) -> None:
        """End the step without measuring; the next one is measured in its place."""
        measured, self._measured = self._measured, None
        self._is_open = False
        if measured is not None:
            measured.close()
            self._is_owed = True

    @property
    def is_open(self) -> bool:
        """Whether a step has begun and not ended."""
        return self._is_open

    def close(self) -> None:
        """Close the TensorBoard writer that the Monitor made; the file of records is closed after every line."""
        if self._measured is not None:
            self.abandon()
        if self._owns_writer and self._writer is not None:
            getattr(self._writer, "close", lambda: None)()
            self._writer = None

    def _handle(self) -> Handle | None:
        """The handle of whatever rule is attached by now; None: it was removed."""
        try:
            return handle_of(self.model)
        except AttachError:
            return None

    def _measure(self, measured: MeasuredStep) -> None:
        if not self._has_seen:
            _refuse_blind(measured)
        self._is_owed = not measured.forwards
        if self._is_owed:
            return
        measured.replay()
        self._has_seen = True
        self.last = record_of(measured, self.steps, self._points, self._averages, self.momentum)
        if self._writes:
            try:
                self._write(self.last)
            except OSError as error:
                # A training is worth more than its records.
                self._writes = False
                warnings.warn(
                    f"The Monitor could not write the record of step {self.steps} ({error}); the training goes on, "
                    "and no record is written any more. Make room, then make a new Monitor with "
                    f"start={self.steps} to go on recording.",
                    stacklevel=2,
                )

    def _write(self, record: MonitorRecord) -> None:
        if self._file is not None:
            self._file.append(record)
        if self._writer is not None:
            for tag, value in record.scalars():
                self._writer.add_scalar(tag, value, record.step)
            getattr(self._writer, "flush", lambda: None)()

    def _resume(self, path: Path) -> None:
        """Take the moving averages from the file, as they were after the last step that counts."""
        for record in read_records(path):
            for row in record.layers if record.step <= self.steps else ():
                for kind, found in (("angle", row.angle_ewma), ("signal_angle", row.signal_angle_ewma)):
                    if found is not None:
                        self._averages[row.layer, kind] = found


def _is_first_rank() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized() and distributed.get_rank() > 0)


def _refuse_arguments(every: object, start: object, momentum: object) -> None:
    for name, value in (("every", every), ("start", start)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise AttachError(f"{name}={value!r}: give a whole number of steps, not below 0.")
    if not isinstance(momentum, (int, float)) or not 0 <= momentum < 1:
        raise AttachError(f"momentum={momentum!r}: give a number from 0 to below 1.")


def _refuse_blind(measured: MeasuredStep) -> None:
    """At the first step that is measured, what is missing is a mistake in the loop; later it is a finding."""
    if not measured.forwards:
        raise MonitorError(
            "The monitored model did not run with gradients inside the first step to be measured: call it inside "
            "`with monitor.step():`, and give the Monitor the model that the loop trains, not a copy of it."
        )
    if not measured.errors:
        raise MonitorError(
            "No error came back to what the monitored model returned inside the first step to be measured: call "
            "loss.backward() inside `with monitor.step():` too, on a loss of what the model returned."
        )


def _writer(tensorboard: bool | ScalarWriter, path: Path | None, start: int) -> ScalarWriter | None:
    if tensorboard is False or tensorboard is None:
        return None
    if tensorboard is not True:
        if not callable(getattr(tensorboard, "add_scalar", None)):
            raise AttachError(
                f"tensorboard= is {type(tensorboard).__name__}; give True, False or a writer with add_scalar(tag, "
                "value, step), such as torch.utils.tensorboard.SummaryWriter."
            )
        return tensorboard
    if path is None:
        raise AttachError("tensorboard=True writes to the folder of the records; give folder= too.")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MonitorError(
            f"tensorboard=True needs the package tensorboard, which cannot be imported ({error}): pip install "
            "tensorboard, or leave tensorboard= out; the records in the folder have the same numbers."
        ) from error
    writer: ScalarWriter = SummaryWriter(str(path.parent), purge_step=start + 1 if start else None)
    return writer
