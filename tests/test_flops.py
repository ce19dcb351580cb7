"""Model FLOPs by formula are those of the traced program, part by part and gradient by gradient; MFU follows from them."""

import dataclasses
import math

import jax
import pytest
from flax.core import meta

from mmfuser_jax import presets, sharding
from mmfuser_jax.models import VLM, LlamaConfig, LoraConfig
from mmfuser_jax.models.flops import Flops, decode_flops, total, train_flops
from mmfuser_jax.models.params import boxed_params
from mmfuser_jax.train import mfu
from mmfuser_jax.train.optim import flatten, unflatten
from tests.helpers import random_batch

ROWS, LENGTH = 2, 40


def counted(jaxpr) -> float:
    """FLOPs of all matrix products of a traced function."""
    flops = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            lhs = equation.invars[0].aval.shape
            flops += 2 * equation.outvars[0].aval.size * math.prod(lhs[i] for i in contracted)
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        flops += times * sum(counted(inner) for inner in jax.core.jaxprs_in_params(equation.params))
    return flops


def shapes_of(model):
    return flatten(meta.unbox(boxed_params(model)))


def traced(model, trained) -> float:
    """FLOPs of a step that differentiates the trained parameters."""
    params, batch = shapes_of(model), random_batch(model.config, ROWS, LENGTH)
    frozen = {path: x for path, x in params.items() if path not in trained}

    def loss(learnt, fixed):
        return model.apply({"params": unflatten({**fixed, **learnt})}, batch, method="loss").mean

    step = jax.value_and_grad(loss) if trained else loss
    return counted(jax.make_jaxpr(step)({path: params[path] for path in trained}, frozen).jaxpr)


def formula(model, trained) -> Flops:
    """By formula, with attention over all pairs, which is what plain XLA computes."""
    shapes = {path: x.shape for path, x in shapes_of(model).items()}
    parts = train_flops(model.config, shapes, rows=ROWS, length=LENGTH, tiles=1, trained=trained)
    llm = model.config.llm
    above_the_diagonal = 4.0 * ROWS * (LENGTH * (LENGTH - 1) // 2) * llm.heads * llm.head_width * llm.depth
    backward = 2 * above_the_diagonal * (parts["llm"].backward > 0)
    return total(parts) + Flops(above_the_diagonal, backward)


PLAIN = presets.PRESETS["tiny_llava"]()
ADAPTED = dataclasses.replace(PLAIN, llm=dataclasses.replace(PLAIN.llm, lora=LoraConfig(4, 8.0)))
TIED = dataclasses.replace(PLAIN, llm=dataclasses.replace(PLAIN.llm, tied_head=True, scan_layers=True))


@pytest.mark.parametrize(
    ("config", "trains"),
    [
        (PLAIN, lambda path: False),
        (PLAIN, lambda path: path.startswith("projector")),
        (PLAIN, lambda path: not path.startswith("vision")),
        (PLAIN, lambda path: path == "llm/head"),
        (PLAIN, lambda path: path.endswith("kernel")),
        (ADAPTED, lambda path: "lora" in path or path.startswith("projector")),
        (TIED, lambda path: path.startswith("llm")),
    ],
    ids=["nothing", "projector", "all but vision", "head", "matrices", "adapters", "tied head"],
)
def test_formula_counts_the_products_of_the_traced_step(monkeypatch, config, trains):
    # Traced for one CPU, derivatives of our own name gradients of frozen matrices, which the compiler then drops.
    monkeypatch.setattr(sharding, "platform", lambda: "gpu")
    model = VLM(config)
    trained = [path for path in shapes_of(model) if trains(path)]
    assert formula(model, trained).model == traced(model, trained)
    if trained:
        assert formula(model, []).model < traced(model, trained)


def test_recomputed_is_a_forward_pass_of_the_blocks_less_what_a_policy_keeps(tiny):
    model = VLM(tiny)
    shapes = {path: x.shape for path, x in shapes_of(model).items()}
    trained = [path for path in shapes if not path.startswith("vision")]

    def again(remat):
        return train_flops(tiny, shapes, rows=2, length=40, tiles=1, trained=trained, remat=remat)

    full, attention, dots = (again(remat)["llm"].recomputed for remat in ("full", "attention", "dots"))
    down = 2 * 80 * tiny.llm.mlp_width * tiny.llm.width * tiny.llm.depth
    assert full == again("none")["llm"].forward - down
    assert full == attention + dots
    assert again("none")["llm"].recomputed == 0
    assert all(again("full")[part].recomputed == 0 for part in ("vision_encoder", "fuser", "projector", "head"))


def test_fuser_counts_its_matrices_and_four_neighbours_of_every_point(tiny):
    shapes = {path: x.shape for path, x in shapes_of(VLM(tiny)).items()}
    width, patches, samples = 32, 16, 4 * 4  # tiny: 4 heads × 4 points a level
    cross = width * (width * 4 + width) + width * 4 * samples * 3  # value of four levels, out; offsets and weights
    self_ = width * (width + width) + width * samples * 3
    sampling = 4 * 4 * (4 + 1) * width
    forward = train_flops(tiny, shapes, rows=3, length=40, tiles=2)["fuser"].forward
    assert forward == 2 * 6 * patches * (cross + self_ + sampling)


def test_seven_billion_parameters_cost_six_flops_each_and_token():
    config = presets.PRESETS["mmfuser_7b"]()
    shapes = {path: x.shape for path, x in shapes_of(VLM(config)).items()}
    trained = [path for path in shapes if not path.startswith("vision")]
    parts = train_flops(config, shapes, rows=128, length=2048, tiles=1, trained=trained)
    matrices = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    attention = 3 * 4 * 128 * (2048 * 2049 // 2) * 4096 * 32
    assert parts["llm"].model == 6 * 128 * 2048 * matrices + attention
    assert parts["vision_encoder"].backward == 0


def test_sliding_window_sees_fewer_pairs():
    llm = LlamaConfig(vocab_size=8, width=4, depth=1, heads=1, kv_heads=1, mlp_width=4, sliding_window=3)
    config = dataclasses.replace(PLAIN, llm=llm)
    attention = train_flops(config, {}, rows=1, length=5, tiles=1)["llm"].forward
    assert attention == 4 * (1 + 2 + 3 + 3 + 3) * 4


def test_decoding_costs_two_flops_a_weight_and_row(tiny):
    shapes = {path: x.shape for path, x in shapes_of(VLM(tiny)).items()}
    parts = decode_flops(tiny, shapes, rows=3, slots=20)
    assert parts["head"].forward == 2 * 3 * 48 * 128
    matrices = 2 * (48 * 48 * 2 + 48 * 24 * 2 + 3 * 48 * 96)
    assert parts["llm"].forward == 2 * 3 * matrices + 4 * 3 * 20 * 48 * 2


def test_mfu_is_known_where_the_peak_is(monkeypatch):
    assert mfu.utilization(1e15, 1.0) == {}
    (device,) = jax.devices()[:1]

    class Chip:
        device_kind = "TPU v5 lite"

    assert device.device_kind == "cpu"
    monkeypatch.setattr(jax, "devices", lambda: [Chip()])
    assert mfu.utilization(0.5 * 8 * 197e12, 2.0) == {"mfu": 0.25}
