"""A dry run says what a run would do, and leaves nothing behind."""

import re

import pytest

from mmfuser_jax.jobs.dry_run import dry_run
from mmfuser_jax.train import train
from mmfuser_jax.train.config import ConfigError
from mmfuser_jax.train.metrics import read_metrics
from mmfuser_jax.train.optim import flatten
from tests.test_train import tiny_run

pytestmark = pytest.mark.usefixtures("compiled_once")


def test_it_says_what_the_run_then_does(tmp_path, capsys):
    config = tiny_run(steps=4)
    config.stage_order = ("finetune",)
    config = config.to_dict()
    dry_run(config)
    said = capsys.readouterr().out
    assert "stages.finetune.batch_size = 8" in said
    trained = train(config, tmp_path)
    sizes = {path: x.size for path, x in flatten(trained.params).items()}
    encoder = sum(size for path, size in sizes.items() if path.startswith("vision_encoder/"))
    assert f"{encoder:,} parameters, frozen" in said
    assert f"{sum(sizes.values()) - encoder:,} parameters, learning rate 0.001" in said
    rows = read_metrics(tmp_path / "metrics.jsonl")
    filled = float(re.search(r"512 tokens, ([\d.]+)% of them in use", said)[1]) / 100
    assert filled == pytest.approx(sum(row["filled"] for row in rows if "loss" in row) / 2, abs=0.05)
    assert re.search(r"0\.\d\d GiB on each of 8 cpu devices", said)


def test_it_ends_as_the_run_would():
    config = tiny_run().to_dict() | {"dtype": "int7"}
    with pytest.raises(ConfigError, match="int7"):
        dry_run(config)
