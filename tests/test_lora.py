"""Adapters: nothing when fresh, equal to a merged kernel when trained, and the only thing that trains."""

import dataclasses

import jax
import numpy as np
import pytest

from mmfuser_jax.models import VLM, LoraConfig, VlmConfig
from mmfuser_jax.models.lora import merged
from mmfuser_jax.models.params import init_params
from mmfuser_jax.train.optim import flatten, unflatten
from tests.helpers import random_batch, random_params, relative, run


def adapted(config, scan=False, **fields):
    llm = dataclasses.replace(config.llm, lora=LoraConfig(4, 8.0, **fields), scan_layers=scan)
    return dataclasses.replace(config, llm=llm)


def without(config):
    return dataclasses.replace(config, llm=dataclasses.replace(config.llm, lora=None))


def logits(config, params, batch, **options):
    return run(VLM(config), params, batch, **options).logits


def test_a_fresh_adapter_adds_nothing(tiny, mesh):
    config, batch = adapted(tiny), random_batch(tiny, 2, 24)
    params = flatten(init_params(VLM(config), 0, mesh))
    plain = unflatten({path: x for path, x in params.items() if "lora" not in path})
    np.testing.assert_array_equal(logits(config, unflatten(params), batch), logits(tiny, plain, batch))


@pytest.mark.parametrize("scan", [False, True])
def test_equals_the_merged_kernels(tiny, scan):
    config, batch = adapted(tiny, scan), random_batch(tiny, 2, 24)
    params = flatten(random_params(VLM(config)))
    plain = {path: x for path, x in params.items() if "lora" not in path}
    for path in plain:
        if (stem := path.removesuffix("kernel")) + "lora_a" in params:
            parts = [params[stem + name] for name in ("kernel", "lora_a", "lora_b")]
            one = lambda *x: merged(*x, config.llm.lora)  # noqa: E731
            plain[path] = jax.vmap(one)(*parts) if scan else one(*parts)
    expected = logits(without(config), unflatten(plain), batch)
    assert relative(logits(config, unflatten(params), batch), expected) < 1e-5
    unmerged = {path: x for path, x in params.items() if "lora" not in path}
    assert relative(logits(without(config), unflatten(unmerged), batch), expected) > 1e-2


def test_dropout_acts_only_with_a_key(tiny):
    config, batch = adapted(tiny, scan=True, dropout=0.5), random_batch(tiny, 2, 24)
    params = random_params(VLM(config))
    plain = logits(config, params, batch)
    first, second = (logits(config, params, batch, rngs={"dropout": jax.random.key(seed)}) for seed in (0, 1))
    np.testing.assert_array_equal(plain, logits(adapted(tiny, scan=True), params, batch))
    assert min(relative(first, plain), relative(second, first)) > 1e-3


def test_targets_choose_the_layers_and_survive_json(tiny):
    config = adapted(tiny, targets=("query", "down"))
    paths = flatten(random_params(VLM(config)))
    assert {path.split("/")[-2] for path in paths if "lora" in path} == {"query", "down"}
    assert VlmConfig.from_dict(dataclasses.asdict(config)) == config
    with pytest.raises(ValueError, match=r"LoRA targets \['wq'\] are not among query"):
        LoraConfig(4, 8.0, targets=("wq",))
