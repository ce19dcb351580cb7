"""The table of trained parameters, the optimizers, the step, and runs of the loop."""

import contextlib
import dataclasses
import json
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from configs import common, easy_vqa, smoke
from mmfuser_jax import presets, sharding
from mmfuser_jax.data.records import RecordError
from mmfuser_jax.data.sources import open_source
from mmfuser_jax.data.tokenizer import train_word_tokenizer
from mmfuser_jax.models import VLM
from mmfuser_jax.models.params import abstract_params, init_params
from mmfuser_jax.train import train
from mmfuser_jax.train.config import ConfigError, check_unchanged, flatten_config, parse_run
from mmfuser_jax.train.errors import TrainingError
from mmfuser_jax.train.metrics import read_metrics
from mmfuser_jax.train.optim import (
    OptimizerConfig,
    Rule,
    RuleError,
    assign_rules,
    flatten,
    learning_rates,
    make_optimizer,
)
from mmfuser_jax.train.stage_data import StageData
from mmfuser_jax.train.state import abstract_state, init_state, initial_params, next_stage_params, stage_params
from mmfuser_jax.train.step import make_train_step
from tests.helpers import random_batch, random_params, relative, run

pytestmark = pytest.mark.usefixtures("compiled_once")

EVERYTHING = OptimizerConfig(rules=(Rule(".*", 1e-3),), steps=1)


def test_rules_first_match_wins_and_must_cover():
    paths = ["fuser/gamma1", "llm/head", "llm/decoder/x/kernel"]
    rules = (Rule("fuser/", 1e-3), Rule("llm/head", None), Rule(".*", 1e-4))
    assert assign_rules(paths, rules) == {"fuser/gamma1": 0, "llm/head": 1, "llm/decoder/x/kernel": 2}
    with pytest.raises(RuleError, match="no rule covers parameter llm/head"):
        assign_rules(paths, rules[:1])
    with pytest.raises(RuleError, match=r"\['lmm/'\] match no parameter"):
        assign_rules(paths, (Rule("lmm/", 1.0), *rules))


def test_schedule_warms_up_and_ends_at_zero():
    config = OptimizerConfig(rules=(Rule("a", 1e-3), Rule("b", 1e-4), Rule("c", None)), steps=100, warmup=10)
    assert learning_rates(config, 0) == {"a": 0.0, "b": 0.0}
    assert learning_rates(config, 10) == pytest.approx({"a": 1e-3, "b": 1e-4})
    assert learning_rates(config, 55) == pytest.approx({"a": 5e-4, "b": 5e-5})
    assert learning_rates(config, 100)["a"] == pytest.approx(0, abs=1e-12)


def test_adamw_equals_optax_and_decays_only_matrices():
    params = {"x/kernel": jnp.ones((3, 3)), "x/bias": jnp.ones(3)}
    config = OptimizerConfig(rules=(Rule(".*", 0.1),), steps=10, weight_decay=0.5)
    optimizer = make_optimizer(config, params)
    zero = jax.tree.map(jnp.zeros_like, params)
    state = optimizer.init(params)
    updates, _ = optimizer.update(zero, state, params)
    np.testing.assert_allclose(updates["x/kernel"], -0.1 * 0.5 * np.ones((3, 3)), rtol=1e-6)
    assert not updates["x/bias"].any()


def test_muon_orthogonalises_matrices_only(tiny):
    params = flatten(random_params(VLM(tiny)))
    config = OptimizerConfig(rules=(Rule(".*", 1.0),), steps=10, name="muon")
    optimizer = make_optimizer(config, params)
    rng = np.random.default_rng(0)
    gradients = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)

    def spread(tree, path, rows):
        values = np.linalg.svd(np.asarray(tree[path]).reshape(rows, -1), compute_uv=False)
        return np.quantile(values, 0.9) / np.quantile(values, 0.2)

    for path, rows in (
        ("llm/decoder/layers_0/query/kernel", 48),  # [D, N, H] is D by N*H
        ("llm/decoder/layers_0/out/kernel", 48),  # [N, H, D] is N*H by D
        ("projector/layers_0/kernel", 32),
    ):
        assert spread(updates, path, rows) < 1.7 < spread(gradients, path, rows), path
    adam = "vision_encoder/patch_embedding/kernel"
    np.testing.assert_allclose(updates[adam], -np.sign(gradients[adam]) * np.abs(updates[adam]).max(), rtol=1e-3)
    assert np.ptp(np.abs(updates["llm/final_norm/scale"])) < 1e-4  # Adam's first step has one size


def run_steps(model, config, batch, steps=3, params=None):
    mesh = sharding.make_mesh(data=-1)
    params = init_params(model, 0, mesh) if params is None else params
    before = {path: np.asarray(x).copy() for path, x in flatten(params).items()}
    state = init_state(params, config, 0, mesh)
    step = make_train_step(model, config, mesh, state)
    history = []
    for _ in range(steps):
        state, metrics = step(state, sharding.shard_batch(batch, mesh))
        history.append(jax.device_get(metrics))
    return before, state, history


def test_frozen_parameters_stay_and_have_no_state(tiny):
    rules = (Rule("vision_encoder/", None), Rule("llm/", None), Rule(".*", 1e-2))
    config = OptimizerConfig(rules=rules, steps=4, warmup=0)
    before, state, history = run_steps(VLM(tiny), config, random_batch(tiny, 8, 24))
    moved = {path.split("/")[0] for path, x in flatten(state.params).items() if not np.array_equal(x, before[path])}
    assert moved == {"fuser", "projector"}
    moments = {
        path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state) if hasattr(path[-1], "key")
    }
    assert all(path.startswith(("fuser/", "projector/")) for path in moments if isinstance(path, str))
    assert history[0]["loss"] > history[-1]["loss"]


def test_frozen_parameters_cost_no_gradient_memory(tiny):
    """The compiled step needs less scratch memory and less state with the encoder frozen."""
    mesh = sharding.make_mesh(data=-1)
    model = VLM(tiny)
    batch = sharding.shard_batch(random_batch(tiny, 8, 24), mesh)

    def memory(*rules):
        config = OptimizerConfig(rules=rules, steps=4)
        state = abstract_state(abstract_params(model, mesh), config, mesh)
        return make_train_step(model, config, mesh, state).lower(state, batch).compile().memory_analysis()

    frozen, trained = memory(Rule("vision_encoder/", None), Rule(".*", 1e-3)), memory(Rule(".*", 1e-3))
    encoder = 4 * sum(x.size for path, x in flatten(random_params(model)).items() if path.startswith("vision_encoder/"))
    assert trained.argument_size_in_bytes - frozen.argument_size_in_bytes == 2 * encoder  # Adam's two moments
    assert trained.temp_size_in_bytes > frozen.temp_size_in_bytes + encoder


def test_all_ignored_labels_change_nothing(tiny):
    batch = random_batch(tiny, 8, 24)
    config = OptimizerConfig(rules=(Rule(".*", 1e-2),), steps=4)
    before, state, history = run_steps(VLM(tiny), config, batch.replace(targets=np.full((8, 24), -100, np.int32)), 1)
    assert history[0]["loss"] == 0
    assert history[0]["grad_norm"] == 0
    assert all(np.array_equal(x, before[path]) for path, x in flatten(state.params).items())


def test_loss_weighs_all_tokens_of_the_global_batch_alike(tiny):
    """Row 0 has many supervised tokens, the others one: the sharded loss is the mean over tokens, not over rows."""
    model = VLM(tiny)
    batch = random_batch(tiny, 8, 24)
    targets = batch.targets.copy()
    supervised = np.flatnonzero(targets[0] != -100)
    targets[1:, supervised[1:]] = -100
    batch = batch.replace(targets=targets)
    params = random_params(model)
    logits = run(model, params, batch).logits
    keep = targets != -100
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(keep, targets, 0))
    config = OptimizerConfig(rules=(Rule(".*", 0.0),), steps=2)
    mesh = sharding.make_mesh(data=-1)
    placed = jax.device_put(params, sharding.replicated(mesh))
    _, _, history = run_steps(model, config, batch, 1, placed)
    np.testing.assert_allclose(history[0]["loss"], nll[keep].mean(), rtol=1e-5)
    per_row = np.mean([nll[row][keep[row]].mean() for row in range(8)])
    assert abs(per_row - nll[keep].mean()) > 1e-3


def tiny_run(steps=6, **fields):
    """A complete two-stage run of the tiny model on a few easy-VQA pictures."""
    model = presets.tiny()
    data = {"template": "short", "length": 64, "batch_size": 8, "conversations": 2, "window": 32}
    stages = {
        "encoder": common.stage("easy_vqa/captions", (("fuser/", None), (".*", 1e-3)), steps // 2, fuser=False, **data),
        "finetune": common.stage(
            "easy_vqa/questions", (("vision_encoder/", None), (".*", 1e-3)), steps - steps // 2, **data
        ),
    }
    return common.run(model, stages, log_every=1, checkpoint_every=2, **fields)


def test_a_run_writes_what_the_contract_says_and_resumes_at_its_end(tmp_path):
    config = tiny_run().to_dict()
    calls = []
    trained = train(config, tmp_path, lambda stage, *_: calls.append(stage.name) or {"accuracy": 0.5})
    assert calls == ["encoder", "finetune"]
    rows = read_metrics(tmp_path / "metrics.jsonl")
    training = [row for row in rows if "loss" in row]
    assert [row["step"] for row in training] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "learning_rate", "tokens_per_second", "step_seconds", "stage", "grad_norm"} <= set(training[0])
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0
    assert (tmp_path / "model.json").exists()
    assert list((tmp_path / "tensorboard").iterdir())
    again = train(config, tmp_path)
    chex.assert_trees_all_equal(trained.params, again.params)
    assert read_metrics(tmp_path / "metrics.jsonl") == rows


def test_the_encoder_stage_leaves_the_fuser_alone_and_bypassing_it_changes_nothing(tmp_path):
    config = tiny_run(steps=2).to_dict()
    bypassed = train(config, tmp_path / "a")
    config["stages"]["encoder"]["fuser"] = True
    through = train(config, tmp_path / "b")
    chex.assert_trees_all_close(bypassed.params, through.params, atol=1e-5)


def test_a_position_counted_in_other_data_is_refused(tmp_path):
    """Other workers or another number of records are one line; other weights of a mixture are nobody's mistake."""
    config = json.loads(json.dumps(tiny_run().to_dict()))
    run = parse_run(config)
    tokenizer = train_word_tokenizer(["USER: ASSISTANT:"], tmp_path)

    def data(run):
        return contextlib.closing(StageData(run, run.stages[0], tokenizer, open_source))

    with data(run) as before, data(dataclasses.replace(run, workers=1)) as after:
        meta = {**before.meta(), "counts": {"seen": 40, "truncated": 0, "rejected": 3}}
        before.resume(meta)
        assert before.tally.counts["rejected"] == 3
        with pytest.raises(TrainingError, match=r"position in the data, which has changed \(workers: 0 → 1\)"):
            after.resume(meta)
        meta["data"] = {**meta["data"], "sources": {"data": [3000, "a", "b"]}}
        with pytest.raises(TrainingError, match="sources"):
            before.resume(meta)
    changed = json.loads(json.dumps(config))
    changed["stages"]["finetune"]["sources"]["data"]["weight"] = 2.0
    check_unchanged(config, changed, tmp_path)
    changed["stages"]["finetune"]["sources"]["data"]["split"] = "test"
    with pytest.raises(ConfigError, match=r"sources\.data\.split: 'train' → 'test'"):
        check_unchanged(config, changed, tmp_path)


def test_bad_records_end_a_run_only_where_they_are_many(tmp_path):
    """Of 40 rows two have no picture: counted in every logged row, and too many for a run that allows none."""
    rows = []
    for i in range(40):
        if i not in (3, 30):
            Image.new("RGB", (40, 30), (6 * i, 0, 0)).save(tmp_path / f"{i}.png")
        turns = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": f"red {i % 5}"}]
        rows.append(json.dumps({"id": f"row{i}", "image": f"{i}.png", "conversations": turns}))
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    config = tiny_run(steps=12)
    config.stage_order = ("finetune",)
    for stage in config.stages.values():
        stage.sources = {"data": common.source(str(tmp_path / "rows.jsonl"))}
        stage.validation.source = ""
    train(config.to_dict(), tmp_path / "run")
    last = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["rejected"] >= 2
    assert last["seen"] > 40
    config.max_bad_fraction = 0.0
    with pytest.raises(RecordError, match=r"could not be used, .*\.png: no such picture"):
        train(config.to_dict(), tmp_path / "strict")
    config.stages.finetune.sources["data"].image_folder = str(tmp_path / "run")
    with pytest.raises(ValueError, match="image"):
        train(config.to_dict(), tmp_path / "wrong")
    config.stages.finetune.sources["data"].image_folder = ""
    config.workers = 50
    with pytest.raises(ValueError, match="source data: 40 records cannot be split into 50 shares"):
        train(config.to_dict(), tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_another_config_in_the_same_workdir_is_refused(tmp_path):
    train(tiny_run(steps=2).to_dict(), tmp_path)
    with pytest.raises(ConfigError, match=r"seed: 0 → 1"):
        train(tiny_run(steps=2, seed=1).to_dict(), tmp_path)


def test_a_16_bit_model_keeps_float32_masters_and_16_bit_frozen_matrices(tiny, mesh):
    rules = (Rule("vision_encoder/", None), Rule("llm/", None), Rule(".*", 1e-2))
    config = OptimizerConfig(rules=rules, steps=4)
    model = VLM(tiny, jnp.bfloat16)
    params = initial_params(model, config, 0, mesh)
    shapes = flatten(stage_params(abstract_params(model, mesh), config, model.dtype))
    assert {path: x.dtype for path, x in flatten(params).items()} == {path: x.dtype for path, x in shapes.items()}
    assert shapes["llm/head"].dtype == shapes["vision_encoder/patch_embedding/kernel"].dtype == jnp.bfloat16
    assert shapes["llm/final_norm/scale"].dtype == shapes["projector/layers_0/kernel"].dtype == jnp.float32
    state = init_state(params, config, 0, mesh)
    step = make_train_step(model, config, mesh, state)
    _, metrics = step(state, sharding.shard_batch(random_batch(tiny, 8, 24), mesh))
    assert np.isfinite(metrics["loss"])
    everything = stage_params(abstract_params(model, mesh), EVERYTHING, model.dtype)
    again = next_stage_params(initial_params(model, config, 0, mesh), EVERYTHING, model, mesh)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves([everything, again]))


def test_a_batch_in_parts_gives_the_gradient_of_the_whole(tiny):
    mesh, model, batch = sharding.make_mesh(fsdp=2, devices=jax.devices()[:2]), VLM(tiny), random_batch(tiny, 8, 24)
    batch.targets[1:4, :-2] = -100  # parts with few tokens and many: their means would not average to the whole's
    config = OptimizerConfig(rules=(Rule("vision_encoder/", None), Rule(".*", 1e-2)), steps=4)

    def after(accumulate):
        state = init_state(initial_params(model, config, 0, mesh), config, 0, mesh)
        step = make_train_step(model, config, mesh, state, accumulate)
        return step(state, sharding.shard_batch(batch, mesh))

    (whole, expected), (parts, found) = after(1), after(4)
    moments = [flatten(state.opt_state[1].inner_states["1"].inner_state[0].mu) for state in (whole, parts)]
    errors = [relative(x, y) for x, y in zip(*map(jax.tree.leaves, moments), strict=True)]
    assert max(errors) < 1e-6
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)


def test_init_from_takes_weights_and_makes_only_the_rest(tmp_path, mesh):
    config = tiny_run(steps=2)
    config.model.fuser = None
    config.stages.encoder.rules = config.stages.finetune.rules = ((".*", 1e-3),)
    source = train(config.to_dict(), tmp_path)
    params = flatten(initial_params(VLM(presets.tiny()), EVERYTHING, 1, mesh, str(tmp_path)))
    fresh = flatten(init_params(VLM(presets.tiny()), 1, mesh))
    for path, x in flatten(source.params).items():
        np.testing.assert_array_equal(params[path], x)
    np.testing.assert_array_equal(
        params["fuser/cross_attention/value/kernel"], fresh["fuser/cross_attention/value/kernel"]
    )
    narrow = dataclasses.replace(presets.tiny(), llm=dataclasses.replace(presets.tiny().llm, mlp_width=48))
    with pytest.raises(ValueError, match=r"llm/decoder/layers_0/down/kernel \(96, 48\) instead of \(48, 48\)"):
        initial_params(VLM(narrow), EVERYTHING, 1, mesh, str(tmp_path))


def test_nan_stops_the_run(tmp_path):
    config = tiny_run(steps=4)
    config.stages.encoder.rules = (("fuser/", None), (".*", math.inf))
    with pytest.raises(TrainingError, match="step 2 of stage encoder: loss or gradient is not finite"):
        train(config.to_dict(), tmp_path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"dtype": "float16"}, "config.dtype='float16'"),
        ({"remat": "some"}, "config.remat='some'"),
        ({"aspect": "round"}, "aspect 'round'"),
        ({"stages.finetune.sources.data.weight": 0}, r"sources\.data\.weight=0.0 must be above 0"),
        ({"stages.finetune.grouping": "random"}, "grouping='random' is not one of packed, length"),
        ({"max_bad_fraction": 2.0}, "max_bad_fraction"),
        ({"stages.encoder.rules": (("(", 1.0),)}, "is no regular expression"),
        ({"stages.encoder.rules": ((".*", "fast"),)}, "learning rate 'fast'"),
        ({"stages.encoder.rules": ("llm",)}, "is not .pattern"),
        ({"stage_order": ("encoder", "sft")}, "stage_order names 'sft'"),
        ({"log_every": 0}, "config.log_every=0"),
        ({"stages.encoder.steps": 0}, "stages.encoder.steps=0"),
        ({"stages.encoder.template": "v7"}, "no conversation template 'v7'"),
        ({"stages.encoder.optimizer": "sgd"}, "optimizer='sgd'"),
        ({"stages.encoder.rules": ((".*", None),)}, "rules train nothing"),
        ({"model.llm.heads": 5}, "5 heads do not divide"),
    ],
)
def test_config_mistakes_are_named(change, match):
    config = tiny_run()
    config.update_from_flattened_dict(change)
    with pytest.raises(ConfigError, match=match):
        parse_run(config.to_dict())


def test_a_config_program_cannot_invent_fields():
    with pytest.raises((KeyError, AttributeError), match="bach_size"):
        common.stage("easy_vqa/captions", ((".*", 1.0),), 1, bach_size=8)


def test_fields_that_do_not_change_the_run_may_change(tmp_path):
    train(tiny_run(steps=2).to_dict(), tmp_path)
    again = tiny_run(steps=2, keep=1)
    again.mesh.fsdp, again.mesh.data = 2, 4
    assert train(again.to_dict(), tmp_path).new_steps == 0


def test_flatten_config():
    assert flatten_config({"a": {"b": 1}, "c": 2}) == {"a.b": 1, "c": 2}


@pytest.mark.parametrize("program", [easy_vqa, smoke])
@pytest.mark.parametrize("arg", ["mmfuser", "llava", "base"])
def test_every_config_parses_and_its_rules_cover_its_model(program, arg):
    run = parse_run(program.get_config(arg).to_dict())
    paths = flatten(random_params(VLM(run.model)))
    for stage in run.stages:
        assert assign_rules(paths, stage.optimizer.rules)
