"""Twenty training steps of both stages, for both models, against the reference's losses and final parameters."""

import functools

import jax
import numpy as np
import pytest

from mmfuser_jax import sharding
from mmfuser_jax.data.packing import branch, pack_rows
from mmfuser_jax.data.pictures import Picture
from mmfuser_jax.models import VLM
from mmfuser_jax.models.params import abstract_params
from mmfuser_jax.train.optim import OptimizerConfig, Rule, flatten
from mmfuser_jax.train.state import init_state
from mmfuser_jax.train.step import make_train_step
from tests import golden_models
from tests.helpers import relative

STEPS = 20
CASES = [(name, stage) for name in golden_models.NAMES for stage in (1, 2)]


def optimizer(name, stage, **changes):
    """The reference's table: fuser (its own rate where one is given) and projector, in stage 2 also the language model."""
    given = golden_models.trajectory(name, stage)
    rate, fuser_rate = float(given["lr"]), float(given["fuser_lr"])
    rules = [("vision_encoder/", None), ("projector/", rate), ("llm/", rate if stage == 2 else None)]
    if name == "mmfuser_tiny":
        rules.append(("fuser/", fuser_rate or rate))
    rules = tuple(Rule(pattern, changes.pop("rate", value) if value else None) for pattern, value in rules)
    return OptimizerConfig(
        rules, STEPS, warmup=int(given["warmup_steps"]), clip_norm=changes.pop("clip_norm", 1.0), **changes
    )


def batches(name, stage):
    given, images = golden_models.trajectory(name, stage), golden_models.load(name).card.images
    for step in range(STEPS):
        rows = []
        for ids, labels, pixels in zip(
            *(given[key][step] for key in ("input_ids", "labels", "pixel_values")), strict=True
        ):
            picture = Picture(pixels.transpose(1, 2, 0)[None], images.slots((0, 0), 1))
            example = branch([(ids.astype(np.int32), labels.astype(np.int32))], [picture], images)
            rows.append([example])
        yield pack_rows(rows, rows[0][0].length, 1, images)


def run(name, stage, config):
    """Losses, gradient norms and final parameters of our training loop's step."""
    mesh = sharding.make_mesh(data=2, tensor=4)
    model = VLM(golden_models.load(name).model.config)
    places = jax.tree.map(lambda x: x.sharding, abstract_params(model, mesh))
    fresh = jax.tree.map(np.array, golden_models.load(name).params)  # a step reuses the buffers it is given
    state = init_state(jax.device_put(fresh, places), config, 0, mesh)
    step = make_train_step(model, config, mesh, state)
    losses, norms = [], []
    for batch in batches(name, stage):
        state, metrics = step(state, sharding.shard_batch(batch, mesh))
        losses.append(float(metrics["loss"]))
        norms.append(float(metrics["grad_norm"]))
    return np.array(losses), np.array(norms), flatten(state.params)


@functools.cache
def reference_run(name, stage):
    return run(name, stage, optimizer(name, stage))


@pytest.mark.parametrize(("name", "stage"), CASES)
def test_losses_norms_and_final_parameters(name, stage):
    given = golden_models.trajectory(name, stage)
    losses, norms, params = reference_run(name, stage)
    np.testing.assert_allclose(losses, given["losses"], rtol=1e-4)
    np.testing.assert_allclose(norms, given["grad_norms"], rtol=1e-3)
    final = golden_models.ours(name, given, "final/")
    between = {path for path in params if path.startswith(("fuser", "projector"))}
    assert between <= final.keys()  # of the language model, the reference kept the first layer and the head
    assert ("llm/head" in final) == (stage == 2)
    for path, expected in final.items():
        assert relative(params[path], expected) <= 1e-3, path


@pytest.mark.parametrize("changes", [{"b1": 0.8}, {"clip_norm": 0.0}, {"rate": 6e-4}])
def test_another_recipe_leaves_the_trajectory(changes):
    """The tolerances above are tight enough to tell recipes apart."""
    given = golden_models.trajectory("mmfuser_tiny", 2)
    losses, _, params = run("mmfuser_tiny", 2, optimizer("mmfuser_tiny", 2, **changes))
    final = golden_models.ours("mmfuser_tiny", given, "final/")
    loss_error = np.max(np.abs(losses / given["losses"] - 1))
    assert loss_error > 1e-4 or max(relative(params[path], final[path]) for path in final) > 1e-3
