"""Small whole files of every format that the lab reads."""

from __future__ import annotations

import gzip
import pickle
import runpy
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from feedalign.measure.monitor_records import FILE_NAME, MonitorFeedback, MonitorLayer, MonitorRecord, append
from feedalign_lab.checkpoints.keeper import Checkpoints
from feedalign_lab.clicks import log as log_module
from feedalign_lab.clicks.networks import build_network
from feedalign_lab.clicks.planted import write_planted
from feedalign_lab.clicks.row_encoder import ENCODER_NAME
from feedalign_lab.clicks.sources import load_log
from feedalign_lab.papers.figures.drawing import Check, Drawing, Panel, Series
from feedalign_lab.papers.store import Curve, TrialRecord, TrialStore
from feedalign_lab.results import RESULTS_NAME, WEIGHTS_NAME, to_json

_TESTS = Path(__file__).parents[1]


def _of_test(path: str, name: str) -> Callable[..., Any]:
    """What other tests write with."""
    made: Callable[..., Any] = runpy.run_path(str(_TESTS / path))[name]
    return made


def write_checkpoints(folder: Path) -> None:
    """The newest checkpoint of a training and the one before."""
    saved = Checkpoints(folder / "training.feedalign-checkpoint", {"rule": "dfa"}, print)
    for epoch in (1, 2):
        state = {"weights": torch.arange(6.0), "records": [{"loss": 0.5, "angles": ()}], "step": epoch}
        saved.save(f"after epoch {epoch}", {"trial": state, "seconds": 0.0})


def write_idx(folder: Path) -> None:
    """Twenty images of 5 x 4 and their labels."""
    pixels = (np.arange(400) % 251).astype(np.uint8).tobytes()
    labels = bytes(range(10)) * 2
    (folder / "images.gz").write_bytes(gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 20, 5, 4) + pixels))
    (folder / "labels.gz").write_bytes(gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, 20) + labels))


def write_cifar(folder: Path, *, by: str) -> None:
    """A batch of four images, pickled as Python 2 or 3 would."""
    pixels = np.arange(4 * 3072).astype(np.uint8).reshape(4, 3072)
    batch = {b"batch_label": b"made", b"labels": [3, 0, 9, 1], b"data": pixels, b"filenames": [b"a.png"] * 4}
    if by == "python 3":
        (folder / "batch").write_bytes(pickle.dumps({k.decode(): v for k, v in batch.items()}, protocol=4))
        return
    (folder / "batch").write_bytes(pickle.dumps(batch, protocol=2))


def write_ts(folder: Path) -> None:
    """Two parts of six series each, with three steps of two dimensions."""
    header = (
        "# made\n@problemName Made\n@timeStamps false\n@dimensions 2\n@seriesLength 3\n@classLabel true a b\n@data\n"
    )
    lines = [f"{n},{n / 2},-1e-1:0.{n},1,{n}:{'ab'[n % 2]}\n" for n in range(6)]
    for name in ("train.ts", "test.ts"):
        (folder / name).write_text(header + "".join(lines))


def write_criteo(folder: Path) -> None:
    """Rows of Criteo's format."""
    write_planted(folder / "log.txt", 70)


def write_csv(folder: Path, *, has_schema: bool = False) -> None:
    """Rows of numbers and names, with a schema beside them or without."""
    cities = ["Ulm", "Bonn", '"Trier, Mosel"']
    rows = [f"{20 + n % 40},{cities[n % 3]},{n / 7:.3f},{int(n % 4 == 0)}" for n in range(70)]
    text = "\n".join(["age,city,income,label", *rows]) + "\n"
    (folder / "log.csv").write_text(text)
    if has_schema:
        schema = 'label = "label"\npositive = ["1"]\nnegative = ["0"]\nmin_count = 3\ndelimiter = ","\nheader = true\n'
        (folder / "log.toml").write_text(f'{schema}missing = ["?"]\n[fields]\nage = "log"\nincome = "quantiles"\n')


def write_zipped_csv(folder: Path) -> None:
    """The same rows, compressed."""
    write_csv(folder)
    (folder / "log.csv.gz").write_bytes(gzip.compress((folder / "log.csv").read_bytes()))
    (folder / "log.csv").unlink()


def write_click_cache(folder: Path) -> None:
    """An encoded log as the cache has it."""
    write_csv(folder, has_schema=True)
    cache = mock.patch.object(log_module, "cache_root", return_value=folder)
    with cache, mock.patch.object(log_module, "LARGEST_IN_MEMORY", 0):
        load_log(f"clicks:{folder / 'log.csv'}")
    (made,) = (folder / "clicks").iterdir()
    for path in (*folder.glob("log.*"), *made.iterdir()):
        path.rename(folder / path.name) if path.parent == made else path.unlink()


def write_click_results(folder: Path) -> None:
    """What a training on a click log leaves behind."""
    write_csv(folder, has_schema=True)
    log = load_log(f"clicks:{folder / 'log.csv'}")
    log.save_encoder(folder / ENCODER_NAME)
    model = build_network("deepfm-small", log.num_categories, len(log.sizes), seed=0)
    torch.save(model.state_dict(), folder / WEIGHTS_NAME)
    results = {"network": {"name": "deepfm-small"}, "result_files": ["picture.png"]}
    (folder / RESULTS_NAME).write_text(to_json(results))
    for path in folder.glob("log.*"):
        path.unlink()


def write_results(folder: Path) -> None:
    """Results that name the pictures beside them."""
    (folder / RESULTS_NAME).write_text(to_json({"result_files": ["a.png", "b.png"], "network": {"name": "fc1-20"}}))
    (folder / "a.png").write_bytes(b"")


def write_records(folder: Path) -> None:
    """Three trials on file."""
    store = TrialStore(folder)
    for trial in range(3):
        curve = Curve((1.0, 0.5), (30.0, 20.0), (1.0, 2.0), others={"AP": (0.1, 0.2)}, angles={"2": {"0": 45.0}})
        configuration = {"epochs": 2, "rule": "dfa", "rate": 0.1}
        made = TrialRecord("made", "t", "cell", configuration, trial, "finished", "", "error", curve, {"torch": "2"})
        store.append(made)
    (folder / "made" / "t.jsonl.lock").unlink(missing_ok=True)


def write_monitor(folder: Path) -> None:
    """Three measured steps."""
    for step in range(1, 4):
        layers = (MonitorLayer("fc1", "act1", 45.0, 40.0, 1.0, 2.0, 0.5), MonitorLayer("fc2", "output", 0.0))
        feedback = MonitorFeedback("act1", "fc2", 1.0, 0.5, 30.0)
        append(folder / FILE_NAME, MonitorRecord(step, "DFA()", 0.1, float("nan"), layers, feedback))


def write_drawing(folder: Path) -> None:
    """A figure on file."""
    panel = Panel("p", "epoch", "y", (Series("a", (1.0, 2.0), (2.0, 1.0), (0.1, 0.2)),), x_range=(0.0, 1.0))
    made = Drawing("drtp", "f", "t", "caption", "", (panel,), (Check("a falls", "from 2 to 1", True, 1.0),), {}, 2, 1)
    (folder / "f.json").write_text(made.to_json())


def write_tokenizer(folder: Path) -> None:
    """A small tokenizer."""
    from feedalign_lab.language.tokenizer import train_tokenizer

    train_tokenizer(["the cat sat on the mat, the dog sat on the log " * 3], 270).save(str(folder / "tokenizer.json"))


def write_transformer(folder: Path) -> None:
    """A small trained Transformer."""
    from feedalign_lab.language.saved import save_transformer
    from feedalign_lab.language.transformer import Transformer, TransformerSize

    torch.manual_seed(0)
    with (folder / "weights.pt").open("wb") as stream:
        save_transformer(Transformer(TransformerSize(1, 2, 8, 8, 4, 0.0), 11), stream)


def write_text(folder: Path) -> None:
    """A file and a folder split by name."""
    (folder / "one.txt").write_text("The cat sat on the mat.\r\nThe dög sat on the log.\n" * 20)
    for part in ("train", "valid", "test"):
        (folder / "split" / part).mkdir(parents=True)
        (folder / "split" / part / "a.txt").write_text("the cat sat on the mat\n")


def write_planetoid(folder: Path) -> None:
    """A graph in the raw format of Planetoid."""
    _of_test("lab/graphs/small_graphs.py", "write_planetoid")(folder / "planetoid/PubMed/raw", "pubmed", num_test=4)


def write_graph(folder: Path) -> None:
    """A user's graph."""
    _of_test("lab/graphs/small_graphs.py", "write_folder")(folder)


def write_blender(folder: Path) -> None:
    """A scene around which cameras stand."""
    Image.init()  # Pillow imports the rest of its formats when it meets one that it does not know
    _of_test("lab/scenes/small_scene.py", "write_blender")(folder, {"train": 4, "val": 1, "test": 1})


def write_llff(folder: Path) -> None:
    """A scene that cameras face."""
    Image.init()
    write = _of_test("lab/scenes/small_scene.py", "write_llff")
    write(folder, 10)


write_cifar_of_python_2 = partial(write_cifar, by="python 2")
write_cifar_of_python_3 = partial(write_cifar, by="python 3")
write_csv_with_schema = partial(write_csv, has_schema=True)
