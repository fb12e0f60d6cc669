"""Numbers and tables in README.md and the documentation are those of the records and of the code."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import feedalign as fa

ROOT = Path(__file__).parents[2]

COMPARISON: dict[str, Any] = {
    "format": 2,
    "status": "finished",
    "config": {"data": "digits", "network": "fc1-20", "trials": 3, "schedule": {"epochs": 4, "batch_size": 32}},
    "environment": {"torch": "2.13.0", "num_threads": 1, "device": "cpu", "device_name": "x"},
    "metric": {"name": "error", "unit": "%", "better": "lower", "digits": 2},
    "cost": [{"rule": "dfa", "time_ratio": 0.912, "memory_ratio": 0.8}],
    "summary": [
        {
            "rule": "dfa",
            "num_trials": 3,
            "num_finished": 2,
            "test_score": {"mean": 4.125, "std": None, "count": 2},
            "test_score_last_epochs": {"mean": 4.375, "std": 0.5, "count": 2},
            "angles": {"0": 71.4, "2": 0.0},
        },
        {
            "rule": "shallow",
            "num_trials": 3,
            "num_finished": 0,
            "test_score": None,
            "test_score_last_epochs": None,
            "angles": {},
        },
    ],
}

BENCH = {
    "rounds": 60,
    "activation": "relu",
    "optimizer": "SGD",
    "dtype": "float32",
    "torch": "2.13.0",
    "num_threads": 2,
    "step_time": [{"case": "784-8x4-10", "ratio": {"backprop": 1.0, "dfa": 0.756}, "bound": 0.741}],
    "activation_memory": {"backprop": {"4": 2**20, "32": 9 * 2**20}, "drtp streaming": {"4": 2**20, "32": 2**20}},
}


def test_every_block_agrees_with_its_record_or_the_code(render_blocks: ModuleType) -> None:
    stale = [
        str(page.relative_to(ROOT))
        for page in render_blocks.pages()
        if render_blocks.render(page.read_text(encoding="utf-8"), render_blocks.RECORDS)
        != page.read_text(encoding="utf-8")
    ]
    assert not stale, f"{', '.join(stale)}: out of date; `make docs` fills the blocks in"


def test_every_record_is_shown_on_some_page(render_blocks: ModuleType) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in render_blocks.pages())
    for record in render_blocks.RECORDS.glob("*.json"):
        assert f"<!-- numbers:{record.stem} -->" in text


def test_the_rules_table_has_a_line_for_each_rule(render_blocks: ModuleType) -> None:
    page = render_blocks.render("<!-- table:rules -->\n<!-- /table -->\n", Path("nowhere"))
    for rule in fa.ALL_RULES:
        assert f"`fa.{rule.__name__}()`" in page


def test_a_block_without_a_record_says_so(render_blocks: ModuleType, tmp_path: Path) -> None:
    page = "before\n<!-- numbers:digits -->\nold\n<!-- /numbers -->\nafter\n"
    filled = render_blocks.render(page, tmp_path)
    assert filled == "before\n<!-- numbers:digits -->\n\n*Not recorded yet.*\n\n<!-- /numbers -->\nafter\n"
    assert render_blocks.render(filled, tmp_path) == filled


@pytest.mark.parametrize("name", ["digits", "rnn-paper", "mackey-glass"])
def test_a_record_of_another_layout_is_refused(render_blocks: ModuleType, tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.json").write_text(json.dumps(COMPARISON | {"format": 1}))
    with pytest.raises(ValueError, match="has format 1, and format 2 is read: record the run again"):
        render_blocks.render(f"<!-- numbers:{name} -->\n<!-- /numbers -->\n", tmp_path)


def test_the_tables_read_the_layout_that_is_written(render_blocks: ModuleType) -> None:
    from feedalign_lab.comparison_files import RESULTS_FORMAT

    assert render_blocks.tables.RESULTS_FORMAT == RESULTS_FORMAT


def test_a_changed_record_changes_the_page(render_blocks: ModuleType, tmp_path: Path) -> None:
    page = "<!-- numbers:digits -->\n<!-- /numbers -->\n"
    (tmp_path / "digits.json").write_text(json.dumps(COMPARISON))
    filled = render_blocks.render(page, tmp_path)
    assert "| dfa | 4.12 (1 of 3 not finished) | 4.38 ± 0.50 (1 of 3 not finished) | 71° | 0.91 | 0.80 |" in filled
    assert "| shallow | no trial finished | no trial finished | – | – | – |" in filled
    assert render_blocks.render(filled, tmp_path) == filled

    changed = json.loads(json.dumps(COMPARISON))
    changed["summary"][0]["test_score"] |= {"mean": 5.0, "std": 0.25}
    (tmp_path / "digits.json").write_text(json.dumps(changed))
    assert "5.00 ± 0.25" in render_blocks.render(filled, tmp_path)


def test_what_compare_writes_can_be_rendered(render_blocks: ModuleType, tmp_path: Path) -> None:
    from feedalign_lab.cli import main

    arguments = ["compare", "--network", "fc2-8", "--epochs", "1", "--trials", "1", "--out", str(tmp_path / "run")]
    assert main([*arguments, "--rules", "backprop,shallow,dfa", "--threads", "1"]) == 0
    (tmp_path / "run" / "results.json").rename(tmp_path / "digits.json")
    filled = render_blocks.render("<!-- numbers:digits -->\n<!-- /numbers -->\n", tmp_path)
    columns = ("rule", "test error (%)", "over the last 10 epochs", "angle, layer fc1", "angle, layer fc2")
    assert f"| {' | '.join(columns)} | step time | peak memory |" in filled
    assert all(f"| {rule} | " in filled for rule in ("backprop", "shallow", "dfa"))
    assert "network `fc2-8`, 1 epoch, test error after the last one and" in filled
    assert "(or all, if fewer), one trial." in filled


def test_a_rule_that_never_finished_may_come_first(render_blocks: ModuleType, tmp_path: Path) -> None:
    record = {**COMPARISON, "summary": COMPARISON["summary"][::-1]}
    (tmp_path / "digits.json").write_text(json.dumps(record))
    assert "| dfa | 4.12 " in render_blocks.render("<!-- numbers:digits -->\n<!-- /numbers -->\n", tmp_path)


def test_the_benchmark_is_rendered(render_blocks: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(json.dumps(BENCH))
    filled = render_blocks.render("<!-- numbers:bench -->\n<!-- /numbers -->\n", tmp_path)
    assert "| dfa | 0.76 |" in filled
    assert "| bound: backprop less its `delta @ W` products | 0.74 |" in filled
    assert "| drtp streaming | 1 MiB | 1 MiB |" in filled
    assert "2 threads of a CPU" in filled


@pytest.mark.parametrize("page", ["<!-- numbers:digits -->\n", "<!-- numbers:weather -->\n<!-- /numbers -->\n"])
def test_a_block_that_cannot_be_rendered_is_refused(render_blocks: ModuleType, tmp_path: Path, page: str) -> None:
    with pytest.raises(ValueError, match="block"):
        render_blocks.render(page, tmp_path)
