"""One of two processes that torchrun starts: trains with Accelerate and compares with one process alone."""

from __future__ import annotations

from accelerate import Accelerator
from torch.nn import functional as F

import feedalign as fa
from integration.plain_loop import (
    BATCH_SIZE,
    Run,
    assert_rule_was_on,
    assert_same_run,
    loader,
    sgd,
    train,
    under,
    x,
    y,
)

RULES: list[fa.Rule] = [fa.DFA(), fa.FA(), fa.DKP()]


def main() -> None:
    """Train under each rule; Accelerate deals the batches out in turn, so that two make one twice as large."""
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    pairs = list(zip(x.split(2 * BATCH_SIZE), y.split(2 * BATCH_SIZE), strict=True))
    for rule in RULES:
        model = under(rule)
        run = Run(model)
        prepared, optimizer, batches = accelerator.prepare(model, sgd(model), loader())
        for inputs, labels in batches:
            accelerator.backward(F.cross_entropy(prepared(inputs), labels))
            run.note()
            optimizer.step()
            optimizer.zero_grad()
        assert_same_run(run, train(under(rule), pairs), tolerance=1e-5)
        assert_rule_was_on(run)
        assert accelerator.unwrap_model(prepared) is model
        accelerator.free_memory()
    accelerator.end_training()


if __name__ == "__main__":
    main()
