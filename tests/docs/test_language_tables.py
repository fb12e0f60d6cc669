"""Tables of Transformers on text, from records made here."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(DOCS))
    yield importlib.import_module("language_tables")
    sys.modules.pop("language_tables", None)


def best(rate: float, *perplexities: float) -> dict[str, Any]:
    return {
        "rate": rate,
        "evaluations": [
            {"tokens": 1_000_000 * (place + 1), "validation_perplexity": found}
            for place, found in enumerate(perplexities)
        ],
        "test_perplexity": 4.0,
        "angles": [{"point": "blocks.0", "degrees": 60.4}, {"point": "blocks.1", "degrees": 20.6}],
        "sample": "a mat.\nAnd",
    }


def run(schedule: str, beta2: float, **found: dict[str, Any]) -> dict[str, Any]:
    size = {"num_layers": 4, "num_heads": 4, "width": 128, "inner_width": 512, "context": 128}
    return {
        "config": {
            "text": "novels",
            "epochs": 1,
            "batch_size": 16,
            "size": size,
            "optimization": {"schedule": schedule, "beta2": beta2},
        },
        "text": {
            "vocab_size": 2048,
            "num_tokens": {"train": 3_700_000, "test": 200},
            "num_words": {"train": 2_000_000, "test": 100},
        },
        "prompt": "the cat sat on",
        "environment": {"torch": "2.13.0", "num_threads": 1},
        "best": {rule.replace("_", "-"): one for rule, one in found.items()},
    }


RECORD = {
    "runs": [
        run("constant", 0.999, dfa_macro=best(1e-3, 90.0, 80.0, 70.04), dfa_micro=best(2e-3, 120.0, 110.0)),
        run("constant", 0.999, backprop=best(3e-3, 50.0, 40.0)),
        run("noam", 0.98, backprop=best(1.0, 60.0, 61.0)),
    ]
}


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line]


def test_one_row_for_each_rule(tables: ModuleType) -> None:
    made = tables.of_rules(RECORD)
    assert rows(made)[1:] == [
        ["backprop", "0.003", "40.0", "4.0", "16", "60", "21"],
        ["dfa-macro", "0.001", "70.0", "4.0", "16", "60", "21"],
        ["dfa-micro", "0.002", "110.0", "4.0", "16", "60", "21"],
    ]
    assert "1 epoch of 3.7 million tokens, vocabulary of 2,048: 4 layers" in made


def test_what_is_reached_without_learning(tables: ModuleType) -> None:
    with_it = {**RECORD["runs"][1], "trivial": {"validation": 300.04, "test": 310.0}}
    made = rows(tables.of_rules({"runs": [RECORD["runs"][0], with_it]}))
    assert made[-1] == ["token frequencies", "–", "300.0", "310.0", "–", "–", "–"]


def test_angles_of_each_block(tables: ModuleType) -> None:
    record = json.loads(json.dumps(RECORD))
    for one in record["runs"]:
        one["config"]["size"]["num_layers"] = 2
    record["runs"][0]["best"]["dfa-micro"]["angles"] *= 2
    assert rows(tables.of_points(record)) == [
        ["degrees", "block 1", "block 2"],
        ["dfa-macro", "60", "21"],
        ["dfa-micro", "60, 21", "60, 21"],
    ]


def test_settings_are_compared_at_the_end_of_the_shortest_run(tables: ModuleType) -> None:
    made = tables.of_settings(RECORD)
    by_setting = {(row[0], row[1]): row[2:] for row in rows(made)[1:]}
    constant = by_setting["constant rate", "0.999"]
    assert constant == ["40.0", "–", "80.0", "55.0", "110.0", "99.9", "–", "–"]
    assert by_setting["Noam's schedule", "0.98"] == ["60.0", "34.4", "–", "95.0", "–", "182", "–", "428"]
    assert by_setting["rate times 0.2 on plateaus", "0.999"][2:4] == ["–", "52.0"]
    assert "first 2.0 million tokens" in made
    assert "Noam's schedule, beta2 0.98: 1 times its rate" in made
    assert "backprop 0.003" in made


def test_a_schedule_that_never_acted_is_told(tables: ModuleType) -> None:
    told = "never lowered its rate"
    assert told not in tables.of_settings(RECORD)
    idle, lowered = best(2e-3, 90.0, 80.0), best(2e-3, 90.0, 80.0)
    for one in idle["evaluations"]:
        one["rate"] = 2e-3
    lowered["evaluations"] = [
        {**one, "rate": rate} for one, rate in zip(idle["evaluations"], (2e-3, 4e-4), strict=True)
    ]
    for found, is_told in ((idle, True), (lowered, False)):
        runs = [*RECORD["runs"], run("plateau", 0.999, dfa_macro=found)]
        assert (told in tables.of_settings({"runs": runs})) == is_told


def test_the_papers_numbers_are_those_of_its_table(tables: ModuleType) -> None:
    assert tables._PAPER["plateau", 0.999] == {"dfa-macro": "52.0", "dfa-micro": "93.3"}


def test_samples_are_quoted_line_by_line(tables: ModuleType) -> None:
    assert tables.sample(RECORD).splitlines()[:3] == ["> prompt: the cat sat on", ">", "> backprop: a mat."]


def test_cost_is_put_over_backprops(tables: ModuleType) -> None:
    case = {
        "case": "small",
        "backprop_ms": 100.0,
        "backprop_mib": 20.0,
        "ratio": {"backprop": 1.0, "dfa-macro": 0.954},
        "memory": {"backprop": 1.0, "dfa-macro": 0.5},
    }
    record = {
        "cases": [case],
        "rounds": 9,
        "optimizer": "fused Adam",
        "dtype": "float32",
        "torch": "2.13.0",
        "num_threads": 2,
    }
    made = tables.step_costs(record)
    assert rows(made) == [["over backprop", "small: time", "small: memory"], ["dfa-macro", "0.95", "0.50"]]
    assert "100 ms, 20 MiB" in made


def test_joined_runs_keep_what_tables_need(tmp_path: Path, tables: ModuleType) -> None:
    join_records = importlib.import_module("join_records")
    for number, one in enumerate(RECORD["runs"]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "results.json").write_text(json.dumps({**one, "status": "finished", "runs": ["every evaluation"]}))
    join_records.main(["language", *(str(tmp_path / str(number)) for number in range(3))], tmp_path)
    joined = json.loads((tmp_path / "language.json").read_text())
    assert "every evaluation" not in json.dumps(joined)
    assert tables.of_rules(joined) == tables.of_rules(RECORD)


def test_epochs_of_a_longer_run(tables: ModuleType) -> None:
    found = best(1e-3, 90.0, 80.0)
    found["evaluations"] = [
        {**one, "rate": rate, "tokens": tokens}
        for one, rate, tokens in zip(found["evaluations"], (1e-3, 2e-4), (1_000_000, 4_000_000), strict=True)
    ]
    one = run("plateau", 0.999, dfa_macro=found)
    one["text"]["num_tokens"]["train"] = 2_000_000
    made = rows(tables.of_epochs({"runs": [one]}))
    assert made == [
        ["epochs", "dfa-macro: perplexity", "dfa-macro: rate"],
        ["0.50", "90.0", "0.001"],
        ["2.00", "80.0", "0.0002"],
    ]
