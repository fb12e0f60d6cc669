"""Which cases can be trained in lock-step."""

from feedalign_lab.learner import LearnerSpec
from feedalign_lab.limits import parse_limits
from feedalign_lab.models import parse_network_name
from feedalign_lab.task import Task
from feedalign_lab.tensors import TensorTask


def lack_of_lockstep(task: Task, spec: LearnerSpec) -> str | None:
    """Why the trials of a case are trained one after the other.

    Args:
        task: Data and a network.
        spec: One of the trials.

    Returns:
        What keeps them from being one stacked model, in words; None where nothing does.
    """
    if not isinstance(task, TensorTask):
        return "the data is not a set of tensors that all trials share"
    network = parse_network_name(task.network)
    if network.has_batch_norm:
        return f"{task.network} normalizes over batches, and keeps averages of its own"
    if network.family not in {"fc", "mlp"}:
        return f"{task.network} has layers that are no faster stacked"
    if spec.dropout > 0:
        return "dropout draws from one stream after the other"
    if parse_limits(spec.limits).limits.delay:
        return "a delayed error waits in each model by itself"
    return None
