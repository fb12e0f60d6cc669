"""The command: what it writes and says, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from feedalign_lab import cli_bench
from feedalign_lab.bench import report, running, tree
from feedalign_lab.bench.timing import Ratio
from feedalign_lab.cli import main

QUICK = ("bench", "--quick", "--rules", "dfa", "--architectures", "mlp-deep", "--rounds", "2")


def test_it_runs_the_tests_then_times_and_writes_one_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path | None] = []
    monkeypatch.setattr(cli_bench, "run_tests", lambda root: asked.append(root) or tree.PASSED)
    path = tmp_path / "new" / "bench.json"
    assert main([*QUICK, "--out", str(path)]) == 0
    shown = capsys.readouterr()
    assert "mlp-deep: width 16, depth 6, batch 8: backprop" in shown.out
    assert "│ dfa " in shown.out
    assert f"wrote {path}" in shown.out
    assert "below 1 is faster" in shown.out
    assert "these ratios mean nothing" in shown.out
    assert "Nothing was tested" not in shown.out
    assert asked == [Path(__file__).parents[3]]
    record = json.loads(path.read_text())
    assert (record["status"], record["tests"]) == ("finished", "passed")
    assert [file.name for file in path.parent.iterdir()] == ["bench.json"]

    assert main([*QUICK, "--out", str(path)]) == 2
    assert "is there already: name another with --out, or give --overwrite" in capsys.readouterr().err
    assert main([*QUICK, "--out", str(path), "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cases"][0]["architecture"] == "mlp-deep"


def test_quartiles_that_lie_far_apart_are_marked() -> None:
    assert report._spread(Ratio(1.0, 0.8, 1.3)) == "0.80 .. 1.30 noisy"
    assert report._spread(Ratio(1.0, 0.9, 1.3)) == "0.90 .. 1.30"
    assert "Nothing was tested before." in report.legend_lines(is_quick=False, is_tested=False)


def test_an_older_record_outlives_a_run_that_is_cut_before_its_first_case(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "measure_case", cut)
    path = tmp_path / "bench.json"
    path.write_text("{}")
    assert main([*QUICK, "--untested", "--overwrite", "--out", str(path)]) == 130
    assert path.read_text() == "{}"
    assert "no case was done, and nothing was written" in capsys.readouterr().err


def test_nothing_is_timed_in_a_tree_whose_tests_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_bench, "run_tests", lambda root: tree.FAILED)
    assert main([*QUICK, "--out", str(tmp_path / "bench.json")]) == 2
    assert "the tests of this tree fail, so nothing is timed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("code", "status"), [(0, tree.PASSED), (1, tree.FAILED), (5, tree.FAILED)])
def test_the_whole_suite_of_a_tree_is_run_where_it_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, status: str
) -> None:
    ran: list[tuple[list[str], Path]] = []

    def run(command: list[str], *, cwd: Path, **options: object) -> subprocess.CompletedProcess[bytes]:
        ran.append((command[1:4], cwd))
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setattr(tree.subprocess, "run", run)
    assert tree.run_tests(tmp_path) == status
    assert ran == [(["-m", "pytest", "-q"], tmp_path)]
    assert tree.run_tests(None) == tree.NONE
    assert len(ran) == 1


def test_a_tree_without_what_runs_its_tests_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pytest with pytest-xdist"):
        tree.run_tests(tmp_path)


def test_an_installed_package_has_no_tests_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_bench, "clone", lambda: None)
    path = tmp_path / "bench.json"
    assert main([*QUICK, "--out", str(path)]) == 0
    assert "Nothing was tested: this package is installed without its tests" in capsys.readouterr().err
    assert json.loads(path.read_text())["tests"] == "none: installed without its tests"


def test_tests_that_are_left_out_are_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench.json"
    assert main([*QUICK, "--untested", "--out", str(path)]) == 0
    assert "--untested" in capsys.readouterr().err
    assert json.loads(path.read_text())["tests"] == "left out"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rules", "dfx"), "no rule or contestant called 'dfx'"),
        (("--device", "abacus"), "'abacus' cannot be used here"),
        (("--threads", "0"), "at least 1"),
        (("--out", "/dev/null/x/bench.json"), "cannot be made"),
    ],
    ids=["rule", "device", "threads", "out"],
)
def test_wrong_arguments_are_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = () if "--out" in arguments else ("--out", str(tmp_path / "bench.json"))
    assert main(["bench", "--quick", "--untested", "--rules", "dfa", *arguments, *out]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("Nothing was tested")]
    assert len(lines) == 1
    assert message in lines[0]


def test_help_is_quick_to_import() -> None:
    code = "import sys; import feedalign_lab.bench.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
