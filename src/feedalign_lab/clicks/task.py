"""Click logs as tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from feedalign_lab.clicks.log import ClickLog
from feedalign_lab.clicks.networks import build_network, network_size
from feedalign_lab.clicks.row_encoder import ENCODER_NAME
from feedalign_lab.clicks.sources import load_log, schema_path
from feedalign_lab.clicks.telling import how_read, what_to_know
from feedalign_lab.clicks.training import LOG_LOSS, ClickTrial
from feedalign_lab.errors import SettingError
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.task import Metric, ResultFile, Task, Tell, silent
from feedalign_lab.training import Schedule

AUC = Metric("AUC", better="higher", digits=4)


class ClickTask(Task):
    """A network on a click log.

    Args:
        log: The log.
        network: Name of the network.
        schedule: Batch size and decay of the learning rate.
        device: Where to train.

    Raises:
        UnknownNameError: There is no such network.
        SettingError: Batches would have a single row.
    """

    metric = AUC
    others = (Metric(LOG_LOSS, "nats", digits=4),)
    judged_at = "chosen"
    loss = "binary_cross_entropy_with_logits"

    def __init__(self, log: ClickLog, network: str, schedule: Schedule, device: torch.device) -> None:
        network_size(network)
        if schedule.batch_size is not None and schedule.batch_size < 2:
            raise SettingError(
                f"Batches need at least 2 rows, not {schedule.batch_size}: batch normalization has no variance to "
                "divide by in a single one."
            )
        self.log, self.data, self.network = log, log.name, network
        self.schedule, self.device = schedule, device

    def data_facts(self) -> Mapping[str, Any]:
        """See `Task`."""
        schema = self.log.schema
        return {
            "name": self.data,
            "parts": {name: {"rows": p.num_rows, "clicks": p.num_clicks} for name, p in self.log.parts.items()},
            "fields": [
                {"name": field.name, "kind": field.kind, "categories": size}
                for field, size in zip(schema.fields, self.log.sizes, strict=True)
            ],
            "encoding": schema.encoding,
            "min_count": schema.min_count,
            "bayes_auc": self.log.bayes_auc,
        }

    def reading(self) -> Sequence[str]:
        """See `Task`."""
        prefix, colon, path = self.data.partition(":")
        return how_read(self.log, schema_path(Path(path).expanduser()) if prefix == "clicks" and colon else None)

    def remarks(self) -> Sequence[str]:
        """See `Task`."""
        return what_to_know(self.log)

    def with_weights(self) -> Sequence[ResultFile]:
        """See `Task`: what makes categories of new rows."""
        return [(ENCODER_NAME, self.log.save_encoder)]

    def network_facts(self) -> Mapping[str, Any]:
        """See `Task`."""
        with torch.device("meta"):
            model = build_network(self.network, self.log.num_categories, len(self.log.sizes), seed=0)
        num_parameters = sum(parameter.numel() for parameter in model.parameters())
        return {"name": self.network, "num_parameters": num_parameters, **asdict(network_size(self.network))}

    def trivial(self, seed: int, trial: int) -> Mapping[str, float]:
        """See `Task`: the same probability for all rows puts no pair in order."""
        del seed, trial
        return {"the same probability for all": 0.5}

    def trial(self, spec: LearnerSpec) -> ClickTrial:
        """See `Task`."""
        return ClickTrial(spec, self.log, self.schedule, self.device)


def load(data: str, network: str, *, schedule: Schedule, device: torch.device, tell: Tell = silent) -> ClickTask:
    """Read a log and put a network to it.

    Args:
        data: "adult", "planted", "criteo:PATH" or "clicks:PATH".
        network: One of `NETWORK_NAMES`.
        schedule: Batch size and decay of the learning rate.
        device: Where to train.
        tell: Told how far reading is.

    Returns:
        The task.

    Raises:
        UnknownNameError: There are no such data or no such network.
        MissingDataError: There is no such file.
        CorruptFileError: A file is not what its format promises.
        OutputFolderError: The cache cannot be written.
        SettingError: A part has no rows, or none of one class; or batches would have a single row.
    """
    network_size(network)
    return ClickTask(load_log(data, tell), network, schedule, device)
