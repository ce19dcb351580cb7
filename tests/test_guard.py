"""Bad steps are seen, named, and skipped or stopped at; averages; where the time goes; runs that hang."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmfuser_jax import sharding
from mmfuser_jax.checkpoint import StoredParams
from mmfuser_jax.models import VLM
from mmfuser_jax.models.params import init_params
from mmfuser_jax.train import guard as guards
from mmfuser_jax.train import train
from mmfuser_jax.train.config import ConfigError, parse_run
from mmfuser_jax.train.errors import TrainingError
from mmfuser_jax.train.guard import WINDOW, Guard, Recent, judge
from mmfuser_jax.train.metrics import read_metrics
from mmfuser_jax.train.optim import OptimizerConfig, Rule, flatten
from mmfuser_jax.train.profiling import parse_steps
from mmfuser_jax.train.stage_data import StageData
from mmfuser_jax.train.state import init_state
from mmfuser_jax.train.step import make_train_step
from tests.conftest import ROOT
from tests.helpers import random_batch
from tests.test_train import tiny_run

pytestmark = pytest.mark.usefixtures("compiled_once")


def one_stage(steps=6, **fields):
    """A run of the second stage alone; the numbers of a step are looked at only where something is saved."""
    config = tiny_run(steps=2 * steps, keep=20, **fields)
    config.stage_order = ("finetune",)
    config.log_every = 100
    return config.to_dict()


def not_finite(batch):
    """Floats are taken as normalised pixels."""
    return batch.replace(pixels=np.full(batch.pixels.shape, np.nan, np.float32))


def nothing_supervised(batch):
    return batch.replace(targets=np.full_like(batch.targets, -100))


@pytest.fixture
def spoil(monkeypatch):
    """Spoils the batches of some steps, counted from where this process begins."""
    original = StageData.next

    def arrange(how, *steps):
        count = 0

        def spoilt(data, meter):
            nonlocal count
            count += 1
            batch = original(data, meter)
            return how(batch) if count in steps else batch

        monkeypatch.setattr(StageData, "next", spoilt)

    yield arrange
    monkeypatch.undo()


def params_of(workdir, step):
    stored = StoredParams(workdir / "checkpoints", step)
    return stored.read(stored.shapes)


def same(a, b):
    return all(x.tobytes() == b[path].tobytes() for path, x in a.items())


def reports(workdir):
    return [json.loads(line) for line in (workdir / "bad_steps.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("fault", "reason"), [(not_finite, "is not finite"), (nothing_supervised, "no token is supervised")]
)
def test_a_bad_step_stops_the_run_and_nothing_of_it_is_saved(tmp_path, spoil, fault, reason):
    spoil(fault, 3)
    with pytest.raises(
        TrainingError, match=rf"step 3 of stage finetune: .*{reason}.*records \S+, \S+, .* more: "
    ) as error:
        train(one_stage(), tmp_path)
    assert "--config.on_bad_step=skip" in str(error.value)
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdecimal()) == [2]
    (row,) = reports(tmp_path)
    assert row["step"] == 3
    assert len(row["records"]) >= 8  # of eight rows
    spoil(fault, 1)  # what was step 3
    train(one_stage(on_bad_step="skip"), tmp_path)
    (again,) = reports(tmp_path)
    assert again["records"] == row["records"]
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["skipped_steps"] == 1


@pytest.mark.parametrize("fault", [not_finite, nothing_supervised])
def test_a_skipped_step_changes_nothing(tmp_path, spoil, fault):
    spoil(fault, 3)
    config = one_stage(on_bad_step="skip") | {"checkpoint_every": 1}
    trained = train(config, tmp_path)
    before, after = params_of(tmp_path, 2), params_of(tmp_path, 3)
    assert same(before, after)
    assert not same(after, params_of(tmp_path, 4))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(trained.params))


def test_a_run_that_skips_goes_on_where_it_was_killed(tmp_path, spoil):
    config = one_stage(on_bad_step="skip", spike_sigmas=6.0)
    spoil(not_finite, 3)
    straight = train(config, tmp_path / "straight").params
    killed = shutil.copytree(tmp_path / "straight", tmp_path / "killed")
    for step in ("4", "6"):
        shutil.rmtree(killed / "checkpoints" / step)
    spoil(not_finite, 1)  # step 3 again
    resumed = train(config, killed).params
    assert same(flatten(jax.device_get(straight)), flatten(jax.device_get(resumed)))
    assert [row["step"] for row in reports(killed)] == [3]


def test_a_run_that_only_skips_stops(tmp_path, spoil):
    spoil(not_finite, *range(1, 20))
    with pytest.raises(TrainingError, match="more than 10 steps in a row were bad, at last step 11"):
        train(one_stage(steps=14, on_bad_step="skip") | {"checkpoint_every": 14}, tmp_path)


def sequence(guard, numbers):
    """Which of some (loss, gradient norm) are good, one after the other."""
    recent, found = Recent.load(None), []
    step = jax.jit(lambda recent, loss, norm: judge(guard, recent, loss, norm, jnp.int32(1)))
    for loss, norm in numbers:
        good, recent = step(recent, loss, norm)
        found.append(bool(good))
    return found, recent


def test_leaps_are_told_from_noise_once_enough_is_known(rng):
    calm = [(2 + 0.1 * x, 1 + 0.05 * y) for x, y in rng.standard_normal((WINDOW, 2))]
    leap, half = (200.0, 1.0), WINDOW // 2
    guard = Guard(True, 6.0)
    found, _ = sequence(guard, [*calm[: half - 1], leap])
    assert all(found), "too early to tell"
    found, recent = sequence(guard, [*calm, leap, (2.0, 30.0), (2.0, np.inf), (np.inf, 1.0), leap, (2.0, 1.0)])
    assert found == [True] * WINDOW + [False] * 5 + [True]
    assert int(recent.count) == WINDOW + 1, "bad steps are not remembered"
    assert all(sequence(Guard(True, 0.0), [*calm, leap])[0]), "off"
    saved = Recent.load(json.loads(json.dumps(recent.save())))
    np.testing.assert_array_equal(saved.values, recent.values)


def test_a_loss_that_leaps_is_skipped(tiny, monkeypatch):
    """Targets that were learnt by heart, then others."""
    monkeypatch.setattr(guards, "WINDOW", 16)
    guard, mesh, model = Guard(True, 6.0), sharding.make_mesh(data=-1), VLM(tiny)
    config = OptimizerConfig(rules=(Rule(".*", 1e-2),), steps=100)
    state = init_state(init_params(model, 0, mesh), config, 0, mesh, guard)
    step = make_train_step(model, config, mesh, state, guard=guard)
    usual, other = (sharding.shard_batch(random_batch(tiny, 8, 24, seed), mesh) for seed in (0, 1))
    for _ in range(40):
        state, metrics = step(state, usual)
    assert bool(metrics["good"])
    before, moments = jax.device_get((state.params, state.opt_state))
    state, metrics = step(state, other)
    assert not bool(metrics["good"])
    assert same(flatten(before), flatten(jax.device_get(state.params)))
    kept = zip(jax.tree.leaves(moments), jax.tree.leaves(jax.device_get(state.opt_state)), strict=True)
    assert all(np.array_equal(a, b) for a, b in kept if a.dtype == np.float32)
    state, metrics = step(state, usual)
    assert bool(metrics["good"])


def test_averages_follow_and_stay_in_the_end(tmp_path):
    config = one_stage(steps=3) | {"checkpoint_every": 1}
    plain = train(config, tmp_path / "plain").params
    config["stages"]["finetune"]["average"] = 0.9
    seen = []
    averaged = train(config, tmp_path / "averaged", lambda *args: seen.append(flatten(jax.device_get(args[2]))) or {})
    path = "projector/layers_0/kernel"
    raw = [params_of(tmp_path / "plain", step)[path] for step in (1, 2, 3)]
    start = params_of(tmp_path / "averaged", 1)[path]
    np.testing.assert_array_equal(start, raw[0])  # mid-stage checkpoints hold the parameters themselves
    end = flatten(jax.device_get(averaged.params))[path]
    first = flatten(initial(config))[path]
    expected = first
    for x in raw:
        expected = 0.9 * expected + 0.1 * x
    np.testing.assert_allclose(end, expected, atol=1e-6)
    assert not np.allclose(end, flatten(jax.device_get(plain))[path], atol=1e-5)
    np.testing.assert_array_equal(seen[-1][path], end)
    np.testing.assert_array_equal(params_of(tmp_path / "averaged", 3)[path], end)
    frozen = "vision_encoder/class_embedding"
    np.testing.assert_array_equal(flatten(jax.device_get(averaged.params))[frozen], flatten(initial(config))[frozen])


def initial(config):
    """Fresh parameters of a run."""
    run = parse_run(config)
    return jax.device_get(init_params(VLM(run.model), run.seed, sharding.make_mesh(data=-1)))


def test_time_adds_up_and_work_that_was_lost_is_counted(tmp_path):
    config = one_stage() | {"log_every": 1, "checkpoint_every": 4}
    train(config, tmp_path)
    seconds = json.loads((tmp_path / "goodput.json").read_text())
    assert seconds["lost"] == 0
    assert min(seconds["compile"], seconds["training"]) > 0
    last = read_metrics(tmp_path / "metrics.jsonl")[-1]
    assert sum(seconds.values()) >= last["elapsed_seconds"] * 0.9
    assert 0 < last["goodput"] < 1
    shutil.rmtree(tmp_path / "checkpoints" / "6")  # as if it had been killed before
    train(config, tmp_path)
    assert json.loads((tmp_path / "goodput.json").read_text())["lost"] > 0


def test_a_hang_shows_its_stacks_and_ends():
    code = "import time; from mmfuser_jax.train.watchdog import Watchdog; Watchdog(1.0).heard(); hang = time.sleep; hang(60)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 1
    assert "Timeout (0:00:01)!" in done.stderr
    assert 'File "<string>", line 1 in <module>' in done.stderr


def test_profile_steps():
    assert parse_steps("3:5") == range(3, 5)
    assert not parse_steps("")
    for text in ("5", "5:3", "a:b", "-1:4"):
        with pytest.raises(ValueError, match="FIRST:LAST"):
            parse_steps(text)


@pytest.mark.parametrize("fields", [{"on_bad_step": "ignore"}, {"spike_sigmas": -1.0}, {"stall_seconds": float("inf")}])
def test_settings_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        parse_run(one_stage(**fields))


def test_another_config_is_shown_and_taken_only_if_allowed(tmp_path, caplog):
    train(one_stage(steps=2), tmp_path)
    changed = one_stage(steps=2)
    changed["stages"]["finetune"]["steps"] = 4
    with pytest.raises(ConfigError, match=r"stages.finetune.steps: 2 → 4.*--allow_changes"):
        train(changed, tmp_path)
    with caplog.at_level("WARNING", "mmfuser_jax"):
        assert train(changed, tmp_path, allow_changes=True).new_steps == 2
    assert "stages.finetune.steps: 2 → 4" in caplog.text
    assert train(changed, tmp_path).new_steps == 0
