"""The options of `feedalign language`; imports nothing heavy, so that help is quick."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

_OF_SIZE = "(default: that of --size)"
_OF_SCHEDULE = "(default: depends on size, schedule and rule)"
_TEXT = (
    "Text: novels (folder books/ in the data folder, split by book), shakespeare, wikitext2, wikitext103, "
    "wikitext2-heldout (for those without WikiText-2's training file); or the path of a text file or folder."
)
_RULES = (
    "Rules with commas between them; `feedalign rules` lists them. Behind a rule that acts at feedback points, -macro "
    "says that there is one after each block, -micro that there are three in each: after both normalizations and the "
    "activation of the feed-forward part."
)
_SIZE = (
    "small: 4 layers, 4 heads, width 128, 512 inner units, 2048 tokens, 16 chunks per step, for a CPU; paper: 6 "
    "layers, 8 heads, 512, 2048, 32000 tokens, 64 chunks per step."
)
_ATTENTION = (
    "standard; dense-synthesizer (scores made of each position alone); random-synthesizer (scores are parameters); "
    "fixed (four patterns that nothing learns; needs 4 heads)."
)
_ERROR = (
    "Where the error is taken that rules send back: hidden (before the vocabulary projection, as in the paper's code; "
    "the projection then learns by its own gradient and hands the error on) or logits (after it)."
)
RESUME = (
    "Go on, bit for bit, with the run of this folder, which was cut at any moment; all other options have to be what "
    "they were, but for --out."
)
"""What --resume does, wherever there is one."""
_RATE = "Learning rate, or several: each rule is trained at each, and the best on the validation part counts. "
_SCHEDULE = (
    "constant; plateau (times 0.2 after two evaluations in a row that are no better); noam (that of Vaswani et al., "
    "2017; --lr is then a factor)."
)


@dataclass(frozen=True)
class LanguageOptions:
    """Options of `feedalign language`."""

    text: Annotated[str, arg(metavar="NAME|PATH", help=_TEXT)] = "novels"
    rules: Annotated[str, arg(metavar="NAMES", help=_RULES)] = "backprop,dfa-macro,dfa-micro,shallow"
    size: Annotated[str, arg(metavar="NAME", help=_SIZE)] = "small"
    layers: Annotated[int | None, arg(metavar="N", help_behavior_hint=_OF_SIZE)] = None
    """Blocks."""
    heads: Annotated[int | None, arg(metavar="N", help_behavior_hint=_OF_SIZE)] = None
    """Heads of attention."""
    width: Annotated[int | None, arg(metavar="N", help_behavior_hint=_OF_SIZE)] = None
    """Numbers per position."""
    inner_width: Annotated[int | None, arg(metavar="N", help_behavior_hint=_OF_SIZE)] = None
    """Units between the two layers of a block's feed-forward part."""
    context: Annotated[int, arg(metavar="N")] = 128
    """Tokens in a chunk of text, which is as far as the model sees."""
    attention: Annotated[str, arg(metavar="NAME", help=_ATTENTION)] = "standard"
    dropout: Annotated[float, arg(metavar="P")] = 0.1
    """Probability of dropping."""
    error: Annotated[str, arg(metavar="PLACE", help=_ERROR)] = "hidden"
    vocab_size: Annotated[int | None, arg(metavar="N", help_behavior_hint=_OF_SIZE)] = None
    """Byte-pair tokens to learn from the training part."""
    tokenizer: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: one is learned)")] = None
    """JSON file of the tokenizers library, to use as it is."""
    lowercase: bool = False
    """Put text in lower case."""
    epochs: Annotated[int, arg(metavar="N")] = 1
    """Passes over the training part."""
    steps: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: all epochs)")] = None
    """Steps after which training ends, even within an epoch."""
    evaluations: Annotated[int, arg(metavar="N")] = 4
    """Evaluations in each epoch; a plateau is looked for after each."""
    batch_size: Annotated[int | None, arg(metavar="N", help_behavior_hint=_OF_SIZE)] = None
    """Chunks per step."""
    lr: Annotated[tuple[float, ...], arg(metavar="RATE ...", help=_RATE, help_behavior_hint=_OF_SCHEDULE)] = ()
    optimizer: Annotated[str, arg(metavar="NAME")] = "adam"
    """adam, or radam (which needs no warm-up)."""
    beta1: Annotated[float, arg(metavar="B")] = 0.9
    """Decay of the mean of gradients."""
    beta2: Annotated[float, arg(metavar="B")] = 0.999
    """Decay of the mean of squared gradients."""
    schedule: Annotated[str, arg(metavar="NAME", help=_SCHEDULE)] = "constant"
    warmup: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: 4000)")] = None
    """With noam: steps over which the rate grows."""
    clip: Annotated[float, arg(metavar="NORM")] = math.inf
    """Largest norm of the gradient of all weights together, at each step; inf leaves it as it is."""
    prompt: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="(default: from the validation part)")] = None
    """What the trained models go on with."""
    sample_tokens: Annotated[int, arg(metavar="N")] = 64
    """Tokens for each trained model to write; 0 for none."""
    temperature: Annotated[float, arg(metavar="T")] = 0.8
    """Of these samples: small values keep to the most likely tokens."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of weights, feedback, data order and samples; the same seed gives the same numbers."""
    device: Annotated[str, arg(metavar="NAME")] = "cpu"
    """Where to train: cpu, cuda, cuda:1."""
    threads: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: PyTorch's choice)")] = None
    """CPU threads."""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: results/language-<time>)")] = None
    """Folder for the results."""
    overwrite: bool = False
    """Replace results that the folder holds already."""
    resume: Annotated[Path | None, arg(metavar="DIR", help=RESUME, help_behavior_hint="")] = None
    json: bool = False
    """Print the results as JSON and nothing else."""
