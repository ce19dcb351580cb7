"""What TensorBoard and W&B were given, read back from their own files."""

import contextlib
import json
import struct
import sys
import time

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event
from wandb.proto.wandb_internal_pb2 import Record

from mmfuser_jax.train import train
from mmfuser_jax.train.config import ConfigError, check_unchanged, parse_run
from mmfuser_jax.train.errors import TrainingError
from mmfuser_jax.train.metrics import MetricsWriter, read_metrics
from mmfuser_jax.train.sinks import Drawing
from tests.test_train import tiny_run

PIXELS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def row(step, **more):
    return {"step": step, "stage": "finetune", "loss": 2.0 / step, "learning_rate": {"(llm|fuser)/": 1e-3}, **more}


def validation(step, accuracy):
    numbers = {"accuracy": accuracy, "yes/no": 0.5, "answers": Drawing(PIXELS)}
    return {"step": step, "stage": "finetune", "validation": numbers}


def write(workdir, resume_step, rows, project=""):
    writer = MetricsWriter(workdir, resume_step, 6, project)
    for line in rows:
        writer.write(line)
    writer.close()


def board(workdir):
    """(step, tag, value or picture's size) of all event files, in order."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                size = (value.image.width, value.image.height)
                found.append((event.step, value.tag, size if value.HasField("image") else value.simple_value))
    return found


def wandb_records(path):
    """Records of a .wandb file: LevelDB's log of W&B's protocol buffers, in blocks of 32 KiB."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, whole, found = 7, b"", []
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole of a record, or its end
            found.append(Record.FromString(whole))
            whole = b""
    return found


def wandb_parts(workdir):
    """Records of every part of a workdir's run, once all are written to their ends."""
    deadline = time.monotonic() + 60
    while True:
        parts = [wandb_records(path) for path in sorted(workdir.glob("wandb/offline-run-*/*.wandb"))]
        if parts and all(part and part[-1].WhichOneof("record_type") == "exit" for part in parts):
            return parts
        assert time.monotonic() < deadline
        time.sleep(0.1)


def wandb_rows(part):
    """{step: {tag: value}} of a part."""
    found = {}
    for record in part:
        if record.WhichOneof("record_type") == "history":
            line = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found.setdefault(line["_step"], {}).update(line)
    return found


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """W&B without a network, and without a user's own settings."""
    for name, value in {"WANDB_MODE": "offline", "HOME": str(tmp_path / "home"), "WANDB_DIR": ""}.items():
        monkeypatch.setenv(name, value)


def test_numbers_go_everywhere_and_drawings_to_what_shows_them(tmp_path):
    write(tmp_path, 0, [row(1, records=["a"]), validation(1, 0.25)])
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        row(1, records=["a"]),
        {"step": 1, "stage": "finetune", "validation": {"accuracy": 0.25, "yes/no": 0.5}},
    ]
    shown = {tag: value for step, tag, value in board(tmp_path) if step == 1}
    assert shown["loss"] == 2
    assert shown["learning_rate/llm_fuser"] == pytest.approx(1e-3)
    assert shown["validation/accuracy"] == 0.25
    assert shown["validation/yes_no"] == 0.5
    assert shown["validation/answers"] == (3, 2)
    assert repr(Drawing(PIXELS)) == "picture 3×2"


def test_wandb_has_the_rows_and_a_resumed_run_goes_on_in_the_same_one(tmp_path, offline):
    (tmp_path / "config.json").write_text(json.dumps({"seed": 7, "stages": {"finetune": {"steps": 6}}}))
    before = [row(1), row(2), validation(2, 0.5), row(3)]
    write(tmp_path, 0, before, "vision")
    after = [row(3), row(4), validation(4, 0.75)]
    write(tmp_path, 2, after, "vision")
    first, second = parts = wandb_parts(tmp_path)
    runs = [record.run for part in parts for record in part if record.WhichOneof("record_type") == "run"]
    assert {(run.project, run.display_name) for run in runs} == {("vision", tmp_path.name)}
    assert {run.run_id for run in runs} == {(tmp_path / "wandb_run_id").read_text().strip()}
    config = {update.key: json.loads(update.value_json) for update in runs[0].config.update}
    assert config["stages"] == {"finetune": {"steps": 6}}
    assert [sorted(wandb_rows(part)) for part in (first, second)] == [[1, 2, 3], [3, 4]]
    found = wandb_rows(first) | wandb_rows(second)
    for line in read_metrics(tmp_path / "metrics.jsonl"):
        shown = found[line["step"]]
        if "loss" in line:
            assert (shown["loss"], shown["learning_rate/llm_fuser"]) == (line["loss"], 1e-3)
        else:
            assert shown["validation/accuracy"] == line["validation"]["accuracy"]
            assert (shown["validation/answers/width"], shown["validation/answers/height"]) == (3, 2)
    assert "validation/accuracy" not in found[3], "the negative control: nothing was validated then"
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/validation/answers_4_*.png"))


def test_without_the_package_nothing_is_begun(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TrainingError, match=r"pip install 'mmfuser-jax\[wandb\]'"):
        train(tiny_run(wandb="vision").to_dict(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert parse_run(tiny_run().to_dict()).wandb == ""


def test_what_wandb_refuses_is_one_error(tmp_path, offline):
    with pytest.raises(TrainingError, match=r"Weights & Biases: .*project"):
        write(tmp_path, 0, [], "no/such?name")


def test_a_run_may_be_shown_from_some_step_on(tmp_path):
    saved = tiny_run().to_dict()
    check_unchanged(saved, tiny_run(wandb="vision").to_dict(), tmp_path)
    without = {key: value for key, value in saved.items() if key != "wandb"}
    check_unchanged(without, saved, tmp_path)
    with pytest.raises(ConfigError, match="seed"):
        check_unchanged(saved, tiny_run(wandb="vision", seed=5).to_dict(), tmp_path)


def test_wandb_is_told_how_a_run_ends(tmp_path, offline):
    (tmp_path / "config.json").write_text("{}")
    for error, code in ((None, 0), (TrainingError("the loss is not finite"), 1)):
        with contextlib.suppress(TrainingError), contextlib.ExitStack() as open_things:
            open_things.callback(MetricsWriter(tmp_path, 0, 6, "vision").close)
            if error:
                raise error
        assert wandb_parts(tmp_path)[-1][-1].exit.exit_code == code


def test_a_trained_run_is_in_wandb(tmp_path, offline):
    train(tiny_run(steps=2, wandb="vision").to_dict(), tmp_path)
    (part,) = wandb_parts(tmp_path)
    found = wandb_rows(part)
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "loss" in row]
    assert rows
    for row in rows:
        assert found[row["step"]]["loss"] == row["loss"]
        assert found[row["step"]]["tokens_per_second"] == row["tokens_per_second"]
