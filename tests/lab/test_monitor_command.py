"""`feedalign monitor`: what is drawn of a Monitor's file, what is told, and what is refused."""

import math
from dataclasses import fields
from pathlib import Path

import pytest
from lab_output import one_line
from matplotlib.figure import Figure

from feedalign.measure import MonitorFeedback, MonitorLayer, MonitorRecord
from feedalign.measure.monitor_records import append
from feedalign_lab import monitor_plot, plots
from feedalign_lab.cli import main
from feedalign_lab.monitor_plot import QUANTITIES, curves_of


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures as they are when they are saved."""
    drawn: list[Figure] = []

    def keep(figure: Figure) -> bytes:
        drawn.append(figure)
        return plots.as_png(figure)

    monkeypatch.setattr(monitor_plot, "as_png", keep)
    return drawn


def record(step: int, angle: float | None = 40.0, **others: float) -> MonitorRecord:
    layers = (
        MonitorLayer("fc1", "act1", angle, norm=1.5, signal_norm=others.get("signal", 2.0), dead=3, units=9),
        MonitorLayer("fc2", None, 0.0, norm=2.5),
    )
    return MonitorRecord(step, "DFA()", 0.5, 1e-7, layers, MonitorFeedback("act1", "fc2", 3.0, 1.25, 51.26))


def write(folder: Path, *records: MonitorRecord) -> Path:
    path = folder / "monitor.jsonl"
    for one in records:
        append(path, one)
    return path


def test_a_panel_for_each_quantity_and_a_line_for_each_layer_over_the_steps(
    tmp_path: Path, figures: list[Figure], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, record(1, 80.0), record(5, 60.0), record(9, 50.0))
    assert main(["monitor", str(path), "--quantities", "angle,dead,error_norm"]) == 0
    (figure,) = figures
    assert [axes.get_title() for axes in figure.axes] == ["angle", "dead", "error_norm"]
    angles = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 3]
    assert [list(line.get_xdata()) for line in angles] == [[1, 5, 9], [1, 5, 9]]
    assert [list(line.get_ydata()) for line in angles] == [[80.0, 60.0, 50.0], [0.0, 0.0, 0.0]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["fc1", "fc2"]
    out = capsys.readouterr().out
    assert (tmp_path / "monitor.png").read_bytes().startswith(b"\x89PNG")
    assert out.endswith(f"wrote {tmp_path / 'monitor.png'}\n")
    # The latest numbers.
    assert [row.split() for row in out.splitlines() if "fc" in row] == [
        ["│", "fc1", "│", "act1", "│", "50.0", "│", "3", "│"],
        ["│", "fc2", "│", "-", "│", "0.0", "│", "-", "│"],
    ]
    assert "error_norm: 0.5\n" in out
    assert "DFA(), 3 records to step 9" in out


def test_a_folder_will_do_and_what_has_no_numbers_is_told(
    tmp_path: Path, figures: list[Figure], capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, record(1))
    assert main(["monitor", str(tmp_path), "--out", str(tmp_path / "new" / "a.PNG")]) == 0
    assert (tmp_path / "new" / "a.PNG").is_file()
    assert [axes.get_title() for axes in figures[0].axes] == ["angle", "norm", "dead"]
    assert "no numbers of: signal_angle, ratio, density\n" in capsys.readouterr().out


def test_all_shows_whatever_is_there(tmp_path: Path, figures: list[Figure], capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, record(1))
    assert main(["monitor", str(tmp_path), "--quantities", "all"]) == 0
    shown = [axes.get_title() for axes in figures[0].axes]
    assert shown == [name for name in QUANTITIES if name in curves_of([record(1)])]
    assert "feedback_angle" in shown
    out = capsys.readouterr().out
    assert "feedback_angle/act1: 51.3\n" in out
    assert "no numbers of" not in out


def test_the_quantities_are_those_of_the_records() -> None:
    everything = MonitorRecord(
        1,
        None,
        1.0,
        1.0,
        (MonitorLayer("a", "b", **{field.name: 1 for field in fields(MonitorLayer)[2:]}),),
        MonitorFeedback("a", "b", 1.0, 1.0, 1.0),
    )
    assert {tag.partition("/")[0] for tag, _ in everything.scalars()} == set(QUANTITIES)


def test_numbers_that_are_none_or_not_finite_or_too_large_leave_gaps_and_are_told(
    tmp_path: Path, figures: list[Figure], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, record(1, None), record(2, math.nan), record(3, 70.0, signal=1e308), record(4, math.inf))
    assert main(["monitor", str(path), "--quantities", "angle,signal_norm"]) == 0
    drawn = list(figures[0].axes[0].get_lines()[0].get_ydata())
    assert [value for value in drawn if math.isfinite(value)] == [70.0]
    assert figures[0].axes[0].get_lines()[0].get_marker() == "o"
    assert "inf" in capsys.readouterr().out


def test_sizes_over_orders_of_magnitude_are_on_a_log_scale_unless_one_is_zero(
    tmp_path: Path, figures: list[Figure]
) -> None:
    for number, sizes in enumerate(((1.0, 2.0), (1e-6, 1.0), (0.0, 1.0))):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(folder, *(record(step, signal=size) for step, size in enumerate(sizes, start=1)))
        assert main(["monitor", str(folder), "--quantities", "signal_norm"]) == 0
    assert [figure.axes[0].get_yscale() for figure in figures] == ["linear", "log", "linear"]


def test_names_are_no_formulas_and_of_very_many_layers_some_are_named(
    tmp_path: Path, figures: list[Figure], capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"_orig_mod.$b{number}[red]" for number in range(60)]
    write(tmp_path, MonitorRecord(1, "DFA", 1.0, 0.0, tuple(MonitorLayer(name, None, 1.0) for name in names)))
    assert main(["monitor", str(tmp_path)]) == 0
    (legend,) = figures[0].legends
    assert figures[0].bbox.contains(*legend.get_window_extent().min)
    told = [text.get_text() for text in legend.get_texts()]
    assert told[0] == r" _orig_mod.\$b0[red]"
    assert told[-1] == r" _orig_mod.\$b59[red]"
    assert "_orig_mod.$b59[red]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "There is no"),
        (b"", "has no records yet"),
        (b"\xff\xfe\x00picture\n", "Not a line of"),
        (b'{"epoch": 1}\n', "is no record of a Monitor"),
        (b'{"step": 1, "rule": null, "error_norm": "x", "replay_error": 0, "layers": []}\n', "error_norm is 'x'"),
        (b'{"step": 1%s, "rule": null, "error_norm": 1, "replay_error": 0, "layers": []}\n' % (b"0" * 30), "step is 1"),
        (b'{"step": 1, "rule": null, "error_norm": 1, "replay_error": 0, "layers": []}\n', "has no numbers of"),
    ],
)
def test_files_that_are_damaged_empty_or_of_others_are_refused_in_a_sentence(
    content: bytes | None, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "monitor.jsonl"
    if content is not None:
        path.write_bytes(content)
    assert main(["monitor", str(path)]) == 2
    out, err = capsys.readouterr()
    assert sentence in one_line(err)
    assert out == ""
    assert not (tmp_path / "monitor.png").exists()


def test_a_file_that_the_system_does_not_let_be_read_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["monitor", "x" * 5000]) == 2
    assert "cannot be read" in one_line(capsys.readouterr().err)


def test_a_line_that_a_killed_run_left_cut_is_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path, record(1))
    with path.open("ab") as file:
        file.write(b'{"step": 2, "ru')
    assert main(["monitor", str(path)]) == 0


def test_lines_that_are_not_shown_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, record(1), record(5), record(9), record(1), record(5))
    assert main(["monitor", str(tmp_path)]) == 0
    assert "not shown: 3 lines of the file, damaged, or of a training that a later one" in capsys.readouterr().out
    with path.open("ab") as file:
        file.write(b"\0" * 400)
    assert main(["monitor", str(path), "--overwrite"]) == 0
    assert "not shown: 4 lines" in capsys.readouterr().out
    path.unlink()
    write(tmp_path, record(1))
    assert main(["monitor", str(path), "--overwrite"]) == 0
    assert "not shown" not in capsys.readouterr().out


def test_wrong_arguments_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, record(1))
    for arguments, sentence in (
        (["--quantities", "angel"], "no quantity called 'angel'. Did you mean angle"),
        (["--quantities", ","], "--quantities names none"),
        (["--out", str(tmp_path / "a.pdf")], "ends in .png"),
        (["--out", str(path / "a.png")], "name another file with --out"),
    ):
        assert main(["monitor", str(path), *arguments]) == 2
        assert sentence in one_line(capsys.readouterr().err)
    assert [found.name for found in tmp_path.iterdir()] == ["monitor.jsonl"]


def test_a_picture_is_written_over_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, record(1))
    picture = tmp_path / "monitor.png"
    picture.write_bytes(b"mine")
    assert main(["monitor", str(path)]) == 2
    out, err = capsys.readouterr()
    assert "is there already: name another with --out, or give --overwrite" in one_line(err)
    assert (out, picture.read_bytes()) == ("", b"mine")
    assert main(["monitor", str(path), "--overwrite"]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
