"""What `feedalign language` does."""

from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch

from feedalign_lab.cli_resume import Asked, checkpoints_of, open_folder
from feedalign_lab.errors import SettingError
from feedalign_lab.language.attention import AttentionName
from feedalign_lab.language.choices import RuleChoice, parse_choices
from feedalign_lab.language.comparison import LanguageComparison, config_of, run_language
from feedalign_lab.language.corpus import Corpus, load_corpus
from feedalign_lab.language.options import LanguageOptions
from feedalign_lab.language.plan import WARMUP, LanguagePlan, Optimization, OptimizerName, Sampling, ScheduleName
from feedalign_lab.language.progress import LanguageProgress
from feedalign_lab.language.settings import SizeSetting, default_rate, size_setting
from feedalign_lab.language.sources import PART_NAMES
from feedalign_lab.language.tokens import Tokens, encode_prompt, load_tokenizer, tokenize
from feedalign_lab.language.transformer import ErrorAt, TransformerSize


def plan_of(options: LanguageOptions) -> LanguagePlan:
    """The plan that options ask for, with the defaults of its size where nothing was said.

    Args:
        options: What the command line was parsed to.

    Returns:
        The plan.

    Raises:
        LabError: Something is out of range, or does not exist.
    """
    _refuse_idle(options)
    setting = size_setting(options.size)
    choices = parse_choices(options.rules)
    schedule = cast("ScheduleName", options.schedule)
    optimization = Optimization(
        optimizer=cast("OptimizerName", options.optimizer),
        beta1=options.beta1,
        beta2=options.beta2,
        schedule=schedule,
        warmup=WARMUP if options.warmup is None else options.warmup,
        clip=None if options.clip == float("inf") else options.clip,
    )
    return LanguagePlan(
        text=options.text,
        choices=choices,
        size=_size(options, setting),
        optimization=optimization,
        rates={choice.name: _rates(options, setting, schedule, choice) for choice in choices},
        vocab_size=setting.vocab_size if options.vocab_size is None else options.vocab_size,
        tokenizer=None if options.tokenizer is None else str(options.tokenizer),
        lowercase=options.lowercase,
        error_at=cast("ErrorAt", options.error),
        batch_size=setting.batch_size if options.batch_size is None else options.batch_size,
        epochs=options.epochs,
        max_steps=options.steps,
        evaluations=options.evaluations,
        seed=options.seed,
        sampling=Sampling(options.prompt, options.sample_tokens, options.temperature),
    )


def _refuse_idle(options: LanguageOptions) -> None:
    """Refuse options that would do nothing."""
    if options.warmup is not None and options.schedule != "noam":
        raise SettingError(f"--warmup belongs to --schedule noam; {options.schedule} has none: leave it out.")
    if options.prompt is not None and options.sample_tokens == 0:
        raise SettingError("--prompt is what samples go on with, and --sample-tokens 0 asks for none: leave one out.")


def _size(options: LanguageOptions, setting: SizeSetting) -> TransformerSize:
    """The size of a name with what was asked for otherwise."""
    asked = {
        "num_layers": options.layers,
        "num_heads": options.heads,
        "width": options.width,
        "inner_width": options.inner_width,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    attention = cast("AttentionName", options.attention)
    return replace(setting.size, context=options.context, attention=attention, dropout=options.dropout, **given)


def _rates(
    options: LanguageOptions, setting: SizeSetting, schedule: ScheduleName, choice: RuleChoice
) -> tuple[float, ...]:
    """The learning rates to train a rule at."""
    return tuple(dict.fromkeys(options.lr)) or (default_rate(setting, schedule, choice),)


def run(options: LanguageOptions, plan: LanguagePlan, device: torch.device) -> LanguageComparison:
    """Read the text, train every rule and file what comes of it.

    Args:
        options: What the command line was parsed to.
        plan: What they ask for.
        device: Where to train.

    Returns:
        The comparison.
    """
    path = options.out or Path("results") / f"language-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    with (
        open_folder(options, path, Asked("language", config_of(plan))) as folder,
        LanguageProgress(is_shown=not options.json) as progress,
    ):
        progress.say("reading the text")
        corpus = load_corpus(plan.text)
        progress.say("cutting it into tokens")
        tokens = _tokens(plan, corpus, options.vocab_size)
        for note in tokens.notes:
            progress.note(note)
        asked = plan.sampling.prompt
        prompt = None if asked is None else encode_prompt(tokens.tokenizer, asked)
        checkpoints = checkpoints_of(options, folder, _decides(plan, tokens, device), progress.note)
        progress.say("measuring cost")
        return run_language(
            plan,
            tokens,
            corpus.source,
            folder,
            progress.watch,
            device=device,
            prompt=prompt,
            checkpoints=checkpoints,
        )


def _decides(plan: LanguagePlan, tokens: Tokens, device: torch.device) -> dict[str, Any]:
    """Everything that decides what a run comes to."""
    return {
        **asdict(plan),
        "command": "language",
        "device": str(device),
        "num_tokens": {name: int(tokens.part(name).numel()) for name in PART_NAMES},
    }


def _tokens(plan: LanguagePlan, corpus: Corpus, asked: int | None) -> Tokens:
    """The text as tokens of the user's tokenizer, or of one that is learned."""
    if plan.tokenizer is None:
        return tokenize(corpus, vocab_size=plan.vocab_size, lowercase=plan.lowercase)
    return tokenize(corpus, load_tokenizer(Path(plan.tokenizer)), vocab_size=asked, lowercase=plan.lowercase)
