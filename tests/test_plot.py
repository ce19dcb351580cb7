"""Several runs in one picture: their curves, names and marks, the files, and one-line errors."""

import json
import math

import numpy as np
import pytest

from mmfuser_jax.evaluate.curve_pictures import name_heights
from mmfuser_jax.evaluate.curves import COLORS, GRAY, PANELS, Mark, load_runs, short_names, stage_marks
from mmfuser_jax.jobs.plot import plot
from tests.test_cli import launch_script
from tests.test_evaluate import is_drawn

STAGES = (("pretrain", 40), ("finetune", 120))


def write_run(folder, stages=STAGES, seed=0, seconds=2.0, tail=""):
    """A run that logs every second step of its stages, 100 tokens each, and validates at their ends."""
    rng = np.random.default_rng(seed)
    rows, step, end = [], 0, 0
    for stage, steps in stages:
        end += steps
        while step < end:
            step += 2
            rows.append(
                {
                    "step": step,
                    "stage": stage,
                    "loss": 4 / math.sqrt(step) * math.exp(0.3 * rng.standard_normal()),
                    "accuracy": 0.5,
                    "grad_norm": float("nan") if step == 6 else 1 + rng.random(),
                    "learning_rate": {"llm/": 1e-4, ".*": 1e-3},
                    "tokens_per_second": 50.0,
                    "step_seconds": seconds,
                    "elapsed_seconds": seconds * step,
                }
            )
        rows.append(
            {"step": step, "stage": stage, "validation": {"accuracy": step / 200, "loss": 2 / step, "count": 3}}
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return folder


@pytest.fixture
def runs(tmp_path):
    return [write_run(tmp_path / "runs" / name, seed=seed) for seed, name in enumerate(("first", "second"))]


def test_names_are_short_and_distinct(tmp_path):
    def names(*paths):
        return short_names([tmp_path / path for path in paths])

    assert names("runs/demo") == ["demo"]
    assert names("runs/demo", "runs/other") == ["demo", "other"]
    assert names("seed0/on", "seed1/on") == ["seed0", "seed1"]
    assert names("a/seed0/on", "a/seed0/off", "a/seed1/on") == ["seed0/on", "seed0/off", "seed1/on"]
    assert names("a", "a/b") == ["a", "a/b"]


@pytest.mark.parametrize(("axis", "last"), [("step", 160), ("tokens", 160 * 100), ("seconds", 320)])
def test_curves_go_over_what_is_asked(runs, axis, last):
    run = load_runs(runs, axis)[0]
    assert np.nanmax(run.curves["loss"][0].x) == pytest.approx(last)
    assert run.curves["held_out"][0].x[[0, -1]] == pytest.approx([last / 4, last])
    assert run.starts == pytest.approx({"pretrain": 0, "finetune": last / 4})


def test_panels_hold_what_was_logged(runs):
    first, second = load_runs(runs)
    assert set(first.curves) == set(PANELS)
    assert (first.color, second.color) == COLORS[:2]
    highest, lowest = first.curves["learning_rate"]
    assert np.nanmax(highest.y) == 1e-3
    assert np.nanmax(lowest.y) == 1e-4
    assert list(first.curves["answers"][0].y[[0, -1]]) == [0.2, 0.8]
    rows = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    kept = first.curves["loss"][0].y
    assert list(kept[np.isfinite(kept)]) == [row["loss"] for row in rows if "loss" in row]


def test_smoothing_takes_scatter_away_and_stays_within_a_stage(runs):
    curve = load_runs(runs)[0].curves["loss"][0]
    broken = np.flatnonzero(np.isnan(curve.x))
    assert list(broken) == [20]
    trend = 4 / np.sqrt(curve.x)
    error = [np.nanstd(np.log(y / trend)[5:]) for y in (curve.y, curve.smoothed)]
    assert error[1] < 0.7 * error[0]
    assert np.isfinite(load_runs(runs)[0].curves["grad_norm"][0].smoothed[2]), "a gap is bridged"
    jump = np.array([1.0] * 20 + [9.0] * 20)
    rows = [{"step": i, "stage": "ab"[i > 20], "loss": float(y)} for i, y in enumerate(jump, 1)]
    (runs[0] / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    smoothed = load_runs(runs[:1])[0].curves["loss"][0].smoothed
    np.testing.assert_allclose(smoothed[np.isfinite(smoothed)], jump, rtol=1e-12)


def test_names_of_short_stages_do_not_lie_on_each_other():
    marks = [
        Mark(at, name, GRAY)
        for at, name in ((0.0, "a"), (50.0, "b"), (52.0, "c"), (52.0, ""), (53.0, "d"), (80.0, "e"))
    ]
    assert name_heights(marks, 100.0) == [1.0, 1.0, 0.65, 0.3, 0.3, 1.0]


def test_stages_are_marked_once_where_runs_agree(runs, tmp_path):
    running = write_run(tmp_path / "runs" / "running", STAGES[:1])
    agreeing = stage_marks(load_runs([*runs, running]))
    assert [(mark.at, mark.name, mark.color) for mark in agreeing] == [(0, "pretrain", GRAY), (40, "finetune", GRAY)]
    longer = write_run(tmp_path / "runs" / "longer", (("pretrain", 80), ("finetune", 40)))
    marks = stage_marks(load_runs([runs[0], longer]))
    assert [(mark.at, mark.name, mark.color) for mark in marks] == [
        (0, "pretrain", COLORS[0]), (40, "finetune", COLORS[0]), (0, "", COLORS[1]), (80, "", COLORS[1]),
    ]  # fmt: skip


def test_a_run_that_goes_on_may_have_a_torn_line(tmp_path, caplog):
    whole = load_runs([write_run(tmp_path)])[0]
    torn = load_runs([write_run(tmp_path, tail='{"step": 162, "stage": "finetu')])[0]
    np.testing.assert_array_equal(torn.curves["loss"][0].y, whole.curves["loss"][0].y)
    assert not caplog.messages, "a line that is being written is no damage"


def test_validations_are_no_must(tmp_path):
    rows = [
        {"step": 1, "stage": "a", "loss": 1.0, "accuracy": 0.5},
        {"step": 2, "stage": "b", "loss": 0.5, "accuracy": 0.9},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plot([tmp_path], tmp_path / "alone.png")
    assert is_drawn(tmp_path / "alone.png")


def test_a_picture_and_a_page_are_made(runs, tmp_path):
    plot([*runs, runs[0]], tmp_path / "new" / "runs.png", "tokens")
    assert is_drawn(tmp_path / "new" / "runs.png")
    plot(runs, tmp_path / "runs.html")
    page = (tmp_path / "runs.html").read_text()
    assert all(panel.title in page for panel in PANELS.values())
    assert page.count('"showlegend":true') == len(runs)
    assert "<script src=" not in page, "the page needs no network"


def test_the_script_and_its_mistakes(runs, tmp_path):
    paths, out = [str(run) for run in runs], f"--out={tmp_path / 'runs.png'}"
    done = launch_script("plot", *paths, out, "--x=seconds")
    assert done.returncode == 0, done.stderr
    assert "runs.png: first, second" in done.stderr
    for arguments, code, match in (
        ([], 2, "error: give one workdir or more"),
        ([*paths, "--x=hours"], 2, "--x=hours"),
        ([*paths, str(tmp_path / "nothing"), out], 1, f"error: {tmp_path / 'nothing'}: no step is logged here"),
        ([*paths, f"--out={tmp_path / 'runs.pdf'}"], 1, "only .png and .html"),
    ):
        failed = launch_script("plot", *arguments)
        assert failed.returncode == code, failed.stderr
        assert match in failed.stderr
        assert len([line for line in failed.stderr.splitlines() if "error" in line]) == 1
        assert "Traceback" not in failed.stderr
    with pytest.raises(ValueError, match="no axis 'hours'; there are step, tokens, seconds"):
        plot(runs, tmp_path / "x.png", "hours")
