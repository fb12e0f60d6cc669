from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from feedalign_lab import cost
from feedalign_lab.cli import main
from feedalign_lab.errors import CorruptFileError, MissingDataError
from feedalign_lab.language.comparison import cut
from feedalign_lab.language.corpus import load_corpus
from feedalign_lab.language.evaluation import mean_loss
from feedalign_lab.language.saved import load_transformer
from feedalign_lab.language.tokens import load_tokenizer, tokenize

pytestmark = pytest.mark.usefixtures("rough_pictures")

VERSE = "the cat sat on the mat and the dog sat on the log, so the cat saw the dog and the mat saw the log.\n"
TINY = [
    *("--layers", "2", "--width", "16", "--heads", "2", "--inner-width", "24", "--context", "16"),
    *("--vocab-size", "280", "--batch-size", "4", "--dropout", "0", "--sample-tokens", "5", "--threads", "1"),
]


@pytest.fixture(autouse=True)
def _no_long_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_BUDGET_SECONDS", 0.01)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "verses.txt"
    path.write_text(VERSE * 60, encoding="utf-8")
    return path


def run(text: Path, folder: Path, *more: str) -> int:
    return main(["language", "--text", str(text), "--out", str(folder), *TINY, *more])


def results_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def one_line(err: str) -> str:
    lines = [line for line in err.strip().splitlines() if line]
    assert len(lines) == 1, err
    return lines[0]


def test_every_rule_leaves_figures_pictures_and_samples(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    assert run(text, folder, "--lr", "1e-2", "--epochs", "2", "--prompt", "the cat") == 0
    out = capsys.readouterr().out
    rules = ["backprop", "dfa-macro", "dfa-micro", "shallow"]
    results = results_in(folder)
    assert results["status"] == "finished"
    assert list(results["best"]) == rules
    for rule in rules:
        best = results["best"][rule]
        assert best["test_perplexity"] < 280
        assert len(best["evaluations"]) == 8
        assert f"\n{rule}: the cat|{best['sample']}" in out
        assert best["sample"] in (folder / "samples.txt").read_text()
    assert results["best"]["backprop"]["test_perplexity"] < results["best"]["shallow"]["test_perplexity"]
    assert [record["rule"] for record in results["cost"]] == rules
    assert results["best"]["backprop"]["test_perplexity"] < results["trivial"]["test"] < 280
    assert results["text"]["num_words"]["train"] > results["text"]["num_words"]["test"] > 0
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size() == results["text"]["vocab_size"]
    for picture in ("learning_curves.png", "angles.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


def test_weights_are_those_of_the_best_evaluation(text: Path, tmp_path: Path) -> None:
    assert run(text, tmp_path / "out", "--rules", "dfa-macro", "--lr", "1e-6", "1e-2") == 0
    results = results_in(tmp_path / "out")
    model = load_transformer(tmp_path / "out" / "weights-dfa-macro.pt")
    tokens = tokenize(load_corpus(str(text)), load_tokenizer(tmp_path / "out" / "tokenizer.json"))
    parts = cut(tokens, model.size.context, torch.device("cpu"))
    found = math.exp(mean_loss(model, parts.test.inputs, parts.test.targets))
    assert found == pytest.approx(results["best"]["dfa-macro"]["test_perplexity"], rel=1e-5)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="There is no file"):
        load_transformer(tmp_path / "weights-dfa.pt")
    (tmp_path / "weights-dfa.pt").write_bytes(b"nothing")
    with pytest.raises(CorruptFileError, match="no model that"):
        load_transformer(tmp_path / "weights-dfa.pt")


def test_progress_goes_to_stderr(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(text, tmp_path / "out", "--rules", "dfa-macro", "--evaluations", "2") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "validation perplexity" in line]
    assert len(lines) == 2
    assert "tokens/s" in lines[0]


def test_several_rates_are_tried_and_the_best_counts(text: Path, tmp_path: Path) -> None:
    assert run(text, tmp_path / "out", "--rules", "backprop,dfa-micro", "--lr", "1e-5", "1e-2") == 0
    results = results_in(tmp_path / "out")
    assert [(one["rule"], one["rate"]) for one in results["runs"]] == [
        ("backprop", 1e-5),
        ("backprop", 1e-2),
        ("dfa-micro", 1e-5),
        ("dfa-micro", 1e-2),
    ]
    assert [best["rate"] for best in results["best"].values()] == [1e-2, 1e-2]


def test_json_alone(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(text, tmp_path / "out", "--rules", "shallow", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == results_in(tmp_path / "out")
    assert captured.err == ""


def test_what_is_there_is_not_overwritten(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(text, tmp_path / "out", "--rules", "shallow") == 0
    before = (tmp_path / "out" / "results.json").read_bytes()
    capsys.readouterr()
    assert run(text, tmp_path / "out", "--rules", "backprop") == 2
    assert "exists already" in one_line(capsys.readouterr().err)
    assert (tmp_path / "out" / "results.json").read_bytes() == before


def test_files_of_an_earlier_run_do_not_stay_beside_results_of_another(text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert run(text, folder, "--rules", "dfa-macro") == 0
    assert (folder / "weights-dfa-macro.pt").exists()
    assert run(text, folder, "--overwrite", "--rules", "shallow", "--sample-tokens", "0") == 0
    left = {path.name for path in folder.iterdir()}
    assert left == {"results.json", "tokenizer.json", "learning_curves.png", "weights-shallow.pt"}


@pytest.mark.parametrize("rule", ["fdfa-micro", "fg-a-macro", "fg-w"])
@pytest.mark.parametrize("dropout", ["0", "0.1"])
def test_rules_that_send_tangents(text: Path, tmp_path: Path, rule: str, dropout: str) -> None:
    assert run(text, tmp_path / "out", "--rules", rule, "--steps", "3", "--dropout", dropout) == 0
    assert results_in(tmp_path / "out")["best"][rule]["test_perplexity"] < 400


@pytest.mark.parametrize("attention", ["standard", "dense-synthesizer", "random-synthesizer", "fixed"])
def test_every_attention(text: Path, tmp_path: Path, attention: str) -> None:
    assert run(text, tmp_path / "out", "--rules", "dfa-micro", "--attention", attention, "--heads", "4") == 0
    assert results_in(tmp_path / "out")["best"]["dfa-micro"]["test_perplexity"] < 280


@pytest.mark.parametrize(
    "options",
    [
        ("--schedule", "noam", "--warmup", "10", "--beta2", "0.98"),
        ("--schedule", "plateau", "--optimizer", "radam"),
        ("--error", "logits", "--clip", "0.5"),
        ("--lowercase", "--seed", "3"),
    ],
)
def test_every_way_of_training(text: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    assert run(text, tmp_path / "out", "--rules", "dfa-macro", *options) == 0
    assert results_in(tmp_path / "out")["best"]["dfa-macro"]["test_perplexity"] < 280


def test_a_rate_that_is_given_twice_is_tried_once(text: Path, tmp_path: Path) -> None:
    assert run(text, tmp_path / "out", "--rules", "backprop", "--lr", "1e-3", "1e-3", "--steps", "2") == 0
    assert len(results_in(tmp_path / "out")["runs"]) == 1


def test_a_tokenizer_of_the_users(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = {word: number for number, word in enumerate(["[UNK]", *sorted(set(VERSE.replace(",", "").split()))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "words.json"))
    tiny = [part for part in TINY if part not in {"--vocab-size", "280"}]
    command = ["language", "--text", str(text), "--out", str(tmp_path / "out"), *tiny, "--rules", "shallow"]
    assert main([*command, "--tokenizer", str(tmp_path / "words.json")]) == 0
    assert "unknown" in capsys.readouterr().err
    assert results_in(tmp_path / "out")["text"]["vocab_size"] == len(words) + 1  # the end of a text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--rules", "dfa-nano"), "There is no rule called 'dfa-nano'"),
        (("--size", "huge"), "There is no size called 'huge'"),
        (("--attention", "sparse"), "There is no attention called 'sparse'"),
        (("--schedule", "cosine"), "There is no schedule called 'cosine'"),
        (("--optimizer", "sgd"), "There is no optimizer called 'sgd'"),
        (("--error", "loss"), "There is no place of the error called 'loss'"),
        (("--heads", "3"), "multiple of the heads"),
        (("--context", "100000"), "too few for one chunk"),
        (("--vocab-size", "12"), "257"),
        (("--prompt", ""), "no token"),
        (("--warmup", "10"), "--warmup belongs to --schedule noam"),
        (("--prompt", "To be", "--sample-tokens", "0"), "leave one out"),
        (("--text", "no/such/file.txt"), "no/such/file.txt"),
        (("--device", "cuda:9"), "cannot be used here"),
        (("--rules", "drtp-macro"), "saturate"),
        (("--temperature", "0"), "temperature must be above 0"),
        (("--sample-tokens", "-1"), "must not be negative"),
        (("--vocab-size", "0"), "257"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: str
) -> None:
    assert run(text, tmp_path / "out", *options) == 2
    captured = capsys.readouterr()
    assert words in one_line(captured.err)
    assert captured.out == ""


def test_a_file_that_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content, words in (("empty.txt", b"", "empty"), ("latin.txt", b"\xe9t\xe9 " * 99, "not UTF-8")):
        (tmp_path / name).write_bytes(content)
        assert run(tmp_path / name, tmp_path / "out") == 2
        assert words in one_line(capsys.readouterr().err)
