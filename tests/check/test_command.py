"""`feedalign check`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from feedalign_lab.cli import main

SOURCE = """
import torch
from torch import nn

print("a word from the module")


def fine():
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.fc, self.act, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)
        self.rnn = nn.GRU(6, 6, batch_first=True)

    def forward(self, x):
        h = self.stem(x)
        return {"logits": self.head(self.rnn(h + self.act(self.fc(h)))[0])}


def skip():
    return Skip(), torch.randn(2, 3, 6)


class Talks(nn.Sequential):
    def forward(self, x):
        print("a word from the forward")
        return super().forward(x)


def talks():
    return Talks(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(2, 4)


class Pixels(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act, self.pool = nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2)
        self.inner, self.inner_act = nn.Conv2d(3, 4, 3, padding=1), nn.Tanh()
        self.lift, self.lift_act = nn.ConvTranspose2d(4, 3, 2, stride=2), nn.Tanh()
        self.head = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        h = self.pool(self.act(self.conv(x)))
        return self.head(self.lift_act(self.lift(self.inner_act(self.inner(h)))))


def pixels():
    return Pixels(), torch.randn(2, 1, 8, 8)


def no_inputs():
    return Skip()


def small_inputs():
    return Skip(), torch.randn(2, 3, 5)


def no_images():
    from transformers import ViTConfig, ViTForImageClassification

    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return ViTForImageClassification(ViTConfig(**size, image_size=8, patch_size=4))


class Holder:
    make = staticmethod(fine)


model, number = fine(), 3


def wrong():
    return 3


def needs(x):
    return x


def breaks():
    raise ValueError("no\\nweights")
"""


@pytest.fixture(autouse=True)
def in_a_folder_with_nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "nets.py").write_text(SOURCE)
    (tmp_path / "imports.py").write_text("from torch import nn\nimport nets\n")
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("nets", "broken", "imports"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("target", ["nets:fine", "nets:model", "nets:Holder.make"])
def test_a_model_of_this_folder_that_is_fine(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", target]) == 0
    out, err = capsys.readouterr()
    assert "fine: the rule teaches every layer below the output" in out
    assert "a word" not in out
    assert "a word" in err


def test_a_model_that_is_taught_in_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nets:skip", "--output", "head"]) == 0
    assert main(["check", "nets:skip", "--output", "head", "--points", "act"]) == 1
    out = capsys.readouterr().out
    assert "partly: exact backprop reaches 2 of 4 layers" in out
    assert "> try points=['stem', 'act', 'rnn']" in out


def test_a_model_that_the_rule_cannot_teach(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nets:skip"]) == 1
    out = capsys.readouterr().out
    assert "refused: attach raises OutputError" in out
    assert "> here: feedalign check nets:skip --rule dfa --output head\n" in out
    assert main(["check", "nets:fine", "--rule", "drtp"]) == 1
    assert "refused: attach raises UnsuitableModelError" in capsys.readouterr().out


def test_points_with_commas_between_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nets:skip", "--output", "head", "--points", "stem,act,", "rnn"]) == 0
    assert "fine" in capsys.readouterr().out


def test_what_positions_are_can_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nets:pixels"]) == 1
    out = capsys.readouterr().out
    assert "AmbiguousShapeError" in out
    command = next(line for line in out.splitlines() if line.startswith("> here: ")).removeprefix("> here: feedalign ")
    assert command == "check nets:pixels --rule dfa --positions shared --points act lift_act"
    assert main(command.split()) == 0
    assert main(["check", "nets:pixels", "--positions", "full"]) == 0
    assert "DFA(positions='full'" in capsys.readouterr().out


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nets:fine", "--rule", "fa", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"]
    assert found["rule"] == "FA()"
    assert [row["layer"] for row in found["layers"]] == ["0", "2"]


def test_what_a_forward_prints_is_no_part_of_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nets:talks", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["ok"]
    assert "a word from the forward" in err


@pytest.mark.parametrize(("arguments", "message"), [
    (["nets"], "'nets' names no factory: give package.module:factory"),
    ([":fine"], "names no factory"),
    (["nets:fien"], "nets has no 'fien'. Near names: fine."),
    (["nats:fine"], "There is no module 'nats' in"),
    (["nets.deeper:fine"], "There is no module 'nets.deeper' in"),
    (["broken:fine"], "Importing broken fails: ModuleNotFoundError: No module named 'nothing_of_this_name'."),
    (["nets:number"], "nets:number is int; give a function, a class or a torch.nn.Module"),
    (["nets:wrong"], "nets:wrong returns int; let it return a torch.nn.Module"),
    (["nets:needs"], "nets:needs is called without arguments and fails: TypeError"),
    (["nets:breaks"], "nets:breaks is called without arguments and fails: ValueError: no weights.\n"),
    (["nets:fine", "--points", "relu"], "--points relu: no module of the model has this name. Near names: 0, 1, 2."),
    (["nets.py:fine"], "'nets.py' is a file; name its module, without .py: nets:factory."),
    (["./nets.py:fine"], "'./nets.py' is a file; name its module, without .py: nets:factory."),
    (["nets:Holder.mak"], "nets has no 'Holder.mak'. Near names: make."),
    (["imports:net"], "imports has no 'net'. It defines no function, class or model."),
    (["nets:no_inputs"], "nets:no_inputs comes without example inputs, and the model does not tell what it is called "
     "with. Let it be a function that returns (model, inputs)"),
    (["nets:no_images"], "nets:no_images comes without example inputs, and was read on the model's own dummy_inputs: "
     "The model does not run on the example inputs ("),
    (["nets:small_inputs"], "nets:small_inputs: The model does not run on the example inputs (RuntimeError"),
    (["nets:pixels", "--positions", "ful"], "There is no choice of positions called 'ful'. Did you mean full?"),
    (["nets:fine", "--rule", "fa", "--positions", "full"], "--positions: fa projects no error onto positions"),
    (["nets:skip", "--output", "haed"], "--output haed: no module of the model has this name. Near names: head"),
    (["nets:fine", "--rule", "dffa"], "There is no rule called 'dffa'. Did you mean dfa"),
])  # fmt: skip
def test_wrong_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *arguments]) == 2
    out, err = capsys.readouterr()
    told = err.replace("a word from the module\n", "")
    assert message in told
    assert told.count("\n") == 1
    assert out == ""


def test_without_a_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 2
    assert capsys.readouterr().out == ""


def test_points_of_the_layers_of_a_recurrent_module_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", "nets:skip", "--output", "head", "--points", "rnn.layer0", "act", "stem"])
    assert "refused" not in capsys.readouterr().out


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--help"]) == 0
    out = capsys.readouterr().out
    assert "feedalign check my_models:make_resnet" in out
    assert "Exit status: 0" in out
