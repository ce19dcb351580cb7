"""The full-size configs are the published recipes, and docs/recipes.md says what they are."""

import re

import pytest

from configs import finetune, pretrain
from mmfuser_jax import files
from mmfuser_jax.train.config import parse_run
from mmfuser_jax.train.optim import learning_rates, split_trainable
from tests.conftest import ROOT

DOCUMENT = (ROOT / "docs" / "recipes.md").read_text()


def stage_of(config):
    run = parse_run(config.to_dict())
    (stage,) = run.stages
    return run, stage


@pytest.mark.parametrize("size", ["7b", "13b"])
@pytest.mark.parametrize(
    ("program", "template", "aspect", "batch", "steps", "warmup"),
    [(pretrain, "plain", "square", 256, 2181, 66), (finetune, "v1", "pad", 128, 5198, 156)],
)
def test_fields_are_the_published_ones(size, program, template, aspect, batch, steps, warmup):
    run, stage = stage_of(program.get_config(size))
    assert (stage.row.template, stage.row.images.aspect, stage.batch_size) == (template, aspect, batch)
    assert (stage.optimizer.steps, stage.optimizer.warmup) == (steps, warmup)
    assert (stage.row.length, stage.row.tiles, run.model.select_layer) == (2048, 1, -2)
    optimizer = stage.optimizer
    assert (optimizer.name, optimizer.b1, optimizer.b2, optimizer.epsilon) == ("adamw", 0.9, 0.999, 1e-8)
    assert (optimizer.weight_decay, optimizer.clip_norm, optimizer.average) == (0, 0, 0)
    assert (run.dtype, run.remat) == ("bfloat16", "full")
    for number in (batch, steps):
        assert f"{number:,}" in DOCUMENT


PARTS = dict.fromkeys(("vision_encoder/a", "fuser/a", "projector/a", "llm/decoder/layers/query/kernel"), 0)


@pytest.mark.parametrize(
    ("config", "rates"),
    [
        (pretrain.get_config("7b"), {"fuser/a": 1e-3, "projector/a": 1e-3}),
        (pretrain.get_config("13b"), {"fuser/a": 1e-4, "projector/a": 1e-3}),
        (finetune.get_config("7b"), dict.fromkeys(list(PARTS)[1:], 2e-5)),
        (finetune.get_config("7b,lora"), {"fuser/a": 2e-5, "projector/a": 2e-5, "llm/x/query/lora_a": 2e-4}),
        (finetune.get_config("7b,qlora"), {"fuser/a": 2e-5, "projector/a": 2e-5, "llm/x/query/lora_a": 2e-4}),
    ],
)
def test_what_trains_and_how_fast(config, rates):
    _, stage = stage_of(config)
    optimizer = stage.optimizer
    paths = PARTS | ({"llm/x/query/lora_a": 0} if "llm/x/query/lora_a" in rates else {})
    trained, _ = split_trainable(paths, optimizer.rules)
    peaks = learning_rates(optimizer, optimizer.warmup)
    found = {path: next(rate for pattern, rate in peaks.items() if re.match(pattern, path)) for path in trained}
    assert found == pytest.approx(rates)


def test_mminstruct_is_mixed_in_by_its_records():
    _, stage = stage_of(finetune.get_config("13b,lora,mminstruct"))
    weights = {name: weight for name, (_, weight) in stage.sources.items()}
    assert weights == {"instructions": 1, "mminstruct": pytest.approx(378_000 / 665_298)}
    assert stage.optimizer.steps == 8151
    assert "8,151 steps" in DOCUMENT
    for wrong in ("9b", "7b,lora,qlora", "7b,coco"):
        with pytest.raises(ValueError, match="the argument is"):
            finetune.get_config(wrong)


def test_lora_is_the_published_size():
    run, _ = stage_of(finetune.get_config("7b,lora"))
    lora = run.model.llm.lora
    assert (lora.rank, lora.alpha, lora.dropout) == (128, 256.0, 0.05)


def test_memory_and_time_are_those_of_the_slices():
    """Every row of the document's last table stands in docs/slices.json with the same numbers."""
    measured = files.read_json(ROOT / "docs" / "slices.json")
    rows = re.findall(r"^\| `(\w+:[\w,]+)` \| ([\w:]+)(?:, in (\d) parts)? \| ([\d.]+) \| ([\d.]+) \|$", DOCUMENT, re.M)
    assert len(rows) == 8
    for config, slice_, parts, gib, hours in rows:
        stage = config.partition(":")[0]
        key = f"{config} {slice_}" + (f" stages.{stage}.accumulate={parts}" if parts else "")
        report = measured[key].get("report", measured[key])
        assert f"{report['needed_gib']:.2f}" == gib, key
        assert float(hours) == pytest.approx(report["stage_hours_bound"], rel=0.005), key
