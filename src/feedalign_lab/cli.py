"""The `feedalign` command: parsing. What the commands do is imported once it is known that one will run."""

import errno
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated

_EXIT_USER_ERROR = 2
_EXIT_INTERRUPTED = 130
_EXIT_BROKEN_PIPE = 141
_COMMANDS = ("compare", "train", "tune", "language", "papers", "bench", "describe", "check", "monitor", "rules")

_ABOUT = """Train networks without backpropagating through them, and compare the rules that do so.

Examples:
  feedalign compare --data digits --rules all --trials 3
  feedalign rules
  feedalign --version
"""
_COMPARE = """Train one network under several rules and put error (or another metric), angles to backprop and cost side
by side.

A run that was cut, by Ctrl-C, a crash or kill -9, goes on in the trial where it was: the same command with --resume for
--out.

Examples:
  feedalign compare
  feedalign compare --data digits --rules all --trials 3
  feedalign compare --data mnist --network fc1-500 --epochs 10 --rules backprop,fa,dfa,drtp,shallow --out runs/mnist
  feedalign compare --data mnist --network fc1-500 --epochs 10 --rules backprop,fa,dfa,drtp,shallow --resume runs/mnist
  feedalign compare --data mnist --network mlp2-800 --rules backprop,dfa,dkp,fdfa
  feedalign compare --data cifar10 --network conv --flip --rules backprop,dfa --device cuda
  feedalign compare --data cifar10 --network cnn-bn --transfer --transfer-epochs 20 --rules backprop,dfa,fdfa
  feedalign compare --data libras --network gru-512 --rules dfa,backprop
  feedalign compare --data mackey-glass --network gru-50 --rules dfa,shallow,backprop
  feedalign compare --data cora --network gat --rules backprop,dfa,shallow --trials 5
  feedalign compare --data criteo:train.txt --network deepfm --rules backprop,dfa,shallow --trials 1
  feedalign compare --data nerf:my-scene --network nerf-tiny --rules backprop,dfa,shallow --trials 1
"""
_TRAIN = """Train one network under one rule and save its weights.

They are those after the last epoch or, where a field judges at the epoch with the best validation score, after that.
A run that was cut, by Ctrl-C, a crash or kill -9, goes on where it was: the same command with --resume for --out.

Examples:
  feedalign train --rule drtp
  feedalign train --data mnist --network fc2-1000 --rule dfa --epochs 10 --dropout 0.1 --out runs/dfa
  feedalign train --data mnist --network fc2-1000 --rule dfa --epochs 10 --dropout 0.1 --resume runs/dfa
  feedalign train --data mnist --network cnn-bn --rule fdfa --epochs 10
  feedalign train --data adult --network deepfm --rule dfa
"""
_TUNE = """Search a grid of networks, batch sizes, rates, weight decays and dropouts on the validation part of the data.

Where images, series or simulated data have no such part, a fifth of the training part is held out. Nothing is chosen by
test data. The candidate with the best mean after the last epoch wins, or, where a field judges at the epoch with the
best validation score, at that. A search that was cut goes on: the same command with --resume for --out.

Examples:
  feedalign tune --networks fc1-100 --rules dfa,backprop
  feedalign tune --data libras --networks gru-before-50,gru-before-512 --rules dfa,backprop --epochs 100 \
      --rates 0.0005 0.001 0.005 0.01 --batch-sizes 10 100 256 --clip 2 --trials 1
  feedalign tune --data cora --networks gcn --rules dfa --rates 0.005 0.01 --weight-decays 0 1e-4 --dropouts 0 0.1 0.5
"""
_LANGUAGE = """Train a Transformer to tell the next token of a text, under several rules, and show what it writes.

Perplexities, angles to backprop, samples and cost of each rule are put side by side. Ctrl-C keeps what was done.

Examples:
  feedalign language --text novels
  feedalign language --text my-folder --rules backprop,dfa-macro --epochs 3 --schedule plateau
  feedalign language --text shakespeare --rules dfa-macro,dfa-micro --lr 3e-4 1e-3 3e-3 --prompt "To be, or not"
  feedalign language --text wikitext103 --size paper --rules dfa-macro --epochs 20 --schedule plateau --device cuda
"""
_DESCRIBE = """Show what teaches each layer of a network under a rule.

Examples:
  feedalign describe --rule dfa
  feedalign describe --data mnist --network conv --rule fa
  feedalign describe --data cora --network gat --rule dfa
"""
_CHECK = """Tell, before any training, what a rule would teach in a model of your own, and what to change.

It prints which feedback points would be used, which layers exact backprop still reaches and through what, and which
layers nothing teaches; where the model cannot take the rule, why; and arguments for attach that were tried and work
better. MODULE:FACTORY is a function or class without arguments, in a file of this folder or an installed package, that
returns the model, or the model and example inputs: what it is called with in training. Models of transformers bring
inputs of their own. Nothing is trained and nothing is drawn.

Exit status: 0 the rule teaches all below the output, 1 it does not, 2 a wrong argument.

Examples:
  feedalign check my_models:make_resnet
  feedalign check my_package.nets:Transformer --rule dfa --output head --points "blocks.*.norm" emb
  feedalign check my_models:make_unet --rule dfa --positions shared
  feedalign check my_models:make_resnet --rule fa --json

with, in my_models.py:
  def make_resnet():
      return ResNet(), torch.randn(2, 3, 32, 32)
"""
_MONITOR = """Show what fa.measure.Monitor recorded of a training.

It prints a table of the latest numbers and draws all of them over the steps: a panel for each quantity, a line for each
layer. A training that still runs is not disturbed. What the numbers mean: docs/monitoring.md.

Examples:
  feedalign monitor runs/1
  feedalign monitor runs/1/monitor.jsonl --out angles.png --quantities angle_ewma,signal_angle_ewma
  feedalign monitor runs/1 --quantities all --overwrite

with, in the training loop:
  monitor = fa.measure.Monitor(handle, every=100, folder="runs/1")
  with monitor.step():
      loss = F.cross_entropy(model(x), y)
      loss.backward()
  optimizer.step()
"""
_RULES = """List the rules with what they need and what they are free of.

Examples:
  feedalign rules
  feedalign rules --json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The arguments after the command's name; None takes those of the process.

    Returns:
        The exit status: 0 done, 1 a trial diverged or a check found faults, 2 a wrong argument or bad input,
        130 interrupted, 141 nobody reads the output any more.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output, such as head, has left: what is still to be flushed goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_BROKEN_PIPE
    except OSError as error:
        # A full disk behind the standard output: errors at files that have names say so themselves.
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"feedalign: the output cannot be written: {error.strerror}.", file=sys.stderr)
        return _EXIT_USER_ERROR
    return status


def _main(arguments: list[str]) -> int:
    """Run the command, for a reader that stays to the end."""
    if arguments == ["--version"]:
        print(f"feedalign {metadata.version('feedalign')}")
        return 0
    if arguments and not arguments[0].startswith("-") and arguments[0] not in _COMMANDS:
        from feedalign_lab.errors import UnknownNameError

        print(f"feedalign: {UnknownNameError('command', arguments[0], _COMMANDS)}", file=sys.stderr)
        return _EXIT_USER_ERROR
    try:
        import tyro
    except ModuleNotFoundError:
        print("feedalign: the command needs the lab extra: pip install 'feedalign[lab]'.", file=sys.stderr)
        return _EXIT_USER_ERROR
    from tyro.conf import FlagCreatePairsOff, subcommand

    from feedalign_lab.bench.options import ABOUT as BENCH
    from feedalign_lab.bench.options import BenchOptions
    from feedalign_lab.language.options import LanguageOptions
    from feedalign_lab.options import (
        CheckOptions,
        CompareOptions,
        DescribeOptions,
        MonitorOptions,
        RulesOptions,
        TrainOptions,
        TuneOptions,
    )
    from feedalign_lab.papers.options import ABOUT as PAPERS
    from feedalign_lab.papers.options import PapersOptions

    try:
        options = tyro.cli(
            Annotated[CompareOptions, subcommand("compare", description=_COMPARE)]
            | Annotated[TrainOptions, subcommand("train", description=_TRAIN)]
            | Annotated[TuneOptions, subcommand("tune", description=_TUNE)]
            | Annotated[LanguageOptions, subcommand("language", description=_LANGUAGE)]
            | Annotated[PapersOptions, subcommand("papers", description=PAPERS)]
            | Annotated[BenchOptions, subcommand("bench", description=BENCH)]
            | Annotated[DescribeOptions, subcommand("describe", description=_DESCRIBE)]
            | Annotated[CheckOptions, subcommand("check", description=_CHECK)]
            | Annotated[MonitorOptions, subcommand("monitor", description=_MONITOR)]
            | Annotated[RulesOptions, subcommand("rules", description=_RULES)],
            prog="feedalign",
            description=_ABOUT,
            args=arguments,
            config=(FlagCreatePairsOff,),
        )
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else _EXIT_USER_ERROR
    try:
        from feedalign_lab.cli_commands import run

        return run(options)
    except KeyboardInterrupt:
        print("feedalign: interrupted.", file=sys.stderr)
        return _EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
