"""Peak memory of a step."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def peak_memory(step: Callable[[], object]) -> int:
    """Return the most memory that a call holds at any moment, beyond what was held when it began.

    On the CPU the allocator's events are summed up; where CUDA has been used, its own counter is taken and the
    larger of the two returned.

    Args:
        step: What to run, once; e.g. forward, backward and optimizer step.

    Returns:
        Bytes.
    """
    # Kineto announces every start and stop of the profiler on stderr otherwise.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    on_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    if on_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    level = peak = 0
    events = profiled.profiler.kineto_results.events() if profiled.profiler else []
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        if event.device_type() == torch.profiler.DeviceType.CPU:
            level += event.nbytes()
            peak = max(peak, level)
    if on_cuda:
        torch.cuda.synchronize()
        peak = max(peak, torch.cuda.max_memory_allocated() - before)
    return peak
