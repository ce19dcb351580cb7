"""The peers of the benchmarks do the same work as ours, and ratios point the right way."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import torch

from mmfuser_jax import presets
from mmfuser_jax.bench import (
    decode,
    growth,
    models,
    ops,
    parts,
    profile,
    step,
    timing,
    torch_models,
    train_step,
    vision,
)
from mmfuser_jax.bench.rows import BenchRow, load, markdown, put_into, save
from mmfuser_jax.bench.torch_loader import LlavaDataset, batches
from mmfuser_jax.data.pictures import ImageFormat
from mmfuser_jax.data.pipeline import Loading, Weighted, make_loader
from mmfuser_jax.data.records import usable
from mmfuser_jax.data.rows import RowFormat
from mmfuser_jax.data.sources import SourceSpec, open_source
from mmfuser_jax.data.tokenizer import train_bpe_tokenizer
from mmfuser_jax.hardware import Chip
from mmfuser_jax.models import VLM
from mmfuser_jax.synthetic.generate import generate
from mmfuser_jax.train import mfu
from mmfuser_jax.train.config import ConfigError
from mmfuser_jax.types import CLIP_MEAN, CLIP_STD
from tests.helpers import relative
from tests.test_train import tiny_run


@pytest.mark.parametrize(("unit", "ratio"), [("samples/s", 2.0), ("%", 2.0), ("s", 0.5), ("MB", 0.5)])
def test_more_is_better_but_for_time_and_memory(unit, ratio):
    assert BenchRow("x", 4.0, 2.0, unit, "peer").ratio == ratio


def test_the_peer_makes_the_same_samples(tmp_path):
    generate(tmp_path / "set", rows=24, image_size=(300, 360))
    source = open_source(SourceSpec(str(tmp_path / "set")))
    texts = (turn.text for record in usable(source) for turns in record.conversations for turn in turns)
    tokenizer = train_bpe_tokenizer(texts, tmp_path / "tokenizer", 1000)
    files = sorted((tmp_path / "set" / "jsons_all").glob("*.jsonl"))
    peer = LlavaDataset(files, tmp_path / "set" / "images", tokenizer.file, 112)
    theirs = {}
    for batch in batches(peer, batch_size=1, workers=0):
        learnt = tokenizer.decode(batch["labels"][batch["labels"] >= 0].tolist())
        pixels = batch["images"].numpy().transpose(0, 2, 3, 1) * np.float32(CLIP_STD) + np.float32(CLIP_MEAN)
        theirs.setdefault(learnt.replace(" ", ""), []).append(np.round(255 * pixels).astype(int))

    row = RowFormat("v1", ImageFormat("pad", 112, CLIP_MEAN, tokens=64), length=1024, tiles=2)
    stream = iter(make_loader({"data": Weighted(source)}, tokenizer, row, Loading(1, "length"), seed=0))
    for _ in range(24):
        batch, report = next(stream)
        assert not report.rejected
        learnt = tokenizer.decode(batch.targets[batch.targets >= 0].tolist()).replace(" ", "")
        shown = theirs[learnt]
        assert min(np.abs(batch.pixels[0, : len(x)].astype(int) - x).max() for x in shown) <= 1
    stream.close()


@pytest.fixture(scope="module")
def small():
    """The measured model's form, small: fuser, projector and decoder all there."""
    return dataclasses.replace(
        presets.tiny(), llm=dataclasses.replace(presets.tiny().llm, kv_heads=4, vocab_size=models.VOCABULARY)
    )


def test_the_peers_encode_alike(small):
    ours, theirs = vision.encoders(small)
    shown = vision.pictures(small, 2)
    assert relative(ours(shown), theirs(shown)) <= 1e-5
    assert relative(ours(shown), theirs(shown[::-1].copy())) > 1e-3


@pytest.mark.parametrize("frozen", [False, True])
def test_the_peers_train_alike(small, frozen):
    """Three losses are equal only where two updates were."""
    ours, theirs = train_step.steps(small, frozen)
    batches = [models.random_batch(small, 2, 32, seed) for seed in (0, 1, 0)]
    losses = [ours(batch) for batch in batches]
    assert [theirs(batch) for batch in batches] == pytest.approx(losses, rel=1e-6)
    assert losses[2] < losses[0] * (1 - 1e-3)


class Compiled:
    """As torch's compiled modules it has no truth value; torch does not compile what checks its arguments, as tests do."""

    def __init__(self, module):
        self.module = module

    def __call__(self, *inputs):
        return self.module(*inputs)

    def __len__(self):
        raise TypeError("it does not support len()")


def test_a_compiled_peer_trains_as_the_peer_does(small):
    batch, losses = models.random_batch(small, 2, 32), []
    for wrap in (lambda peer: None, Compiled):
        peer = torch_models.TorchVlm(small)
        peer.load_state_dict({name: torch.full_like(x, 0.02) for name, x in peer.state_dict().items()})
        step = torch_models.make_train_step(peer, train_step.optimizer(), forward=wrap(peer))
        losses.append([float(step(batch)) for _ in range(2)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][0] != losses[0][1]


def test_freezing_changes_the_third_loss(small):
    batches = [models.random_batch(small, 2, 32, seed) for seed in (0, 1, 0)]
    (_, whole), (_, frozen) = train_step.steps(small, False), train_step.steps(small, True)
    third = [[step(batch) for batch in batches][2] for step in (whole, frozen)]
    assert abs(third[0] - third[1]) > 1e-4


@pytest.mark.parametrize("rows", [1, 2])
def test_the_peers_decode_alike(small, rows):
    ours, theirs = decode.decoders(small)
    ids = np.random.default_rng(0).integers(3, models.VOCABULARY, (rows, 8)).astype(np.int32)
    tokens = ours(ids, 8)
    assert tokens.shape == (rows, 8)
    assert np.array_equal(tokens, theirs(ids, 8))
    assert not np.array_equal(tokens, theirs(ids + 1, 8))


CASES = [
    ops.deformable(side=5, levels=2, heads=2, width=4),
    ops.attention(12, 2, 4, causal=True),
    ops.attention(12, 2, 4, causal=False),
    ops.cross_entropy(tokens=6, width=8, vocabulary=32),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_peers_operations_and_gradients_are_the_same(case):
    for ours, theirs in (case.forward(), case.gradients()):
        found, expected = ours(), theirs()
        pairs = zip(found, expected, strict=True) if isinstance(expected, tuple) else [(found, expected)]
        for x, y in pairs:
            assert relative(x, y) <= 1e-5


def test_a_mask_that_one_side_lacks_is_noticed():
    causal, full = CASES[1], CASES[2]
    assert relative(causal.forward()[0](), full.forward()[1]()) > 1e-2


def test_every_parameter_is_copied(small):
    model = VLM(small)
    peer = torch_models.TorchVlm(small)
    params = models.params(model)
    copied = sum(x.numel() for x in peer.parameters())
    unread = sum(x.size for x in jax.tree.leaves(params)) - models.count(small)
    assert copied == models.count(small)
    assert unread == 0
    del params["fuser"]["gamma1"]
    with pytest.raises((RuntimeError, ValueError)):
        torch_models.load_params(peer, small, params)


def test_turns_and_their_ratio(monkeypatch):
    """A peer that sleeps twice as long is half as fast, whichever unit says so."""
    monkeypatch.setattr(timing, "SHORTEST", 0.02)
    calls = []

    def work(name, seconds):
        calls.append(name)
        time.sleep(seconds)

    seconds = timing.compare(lambda: work("A", 0.02), lambda: work("B", 0.04), repeats=3, warmup=1)
    assert seconds.row("x", "peer").ratio == pytest.approx(2, rel=0.5)
    assert seconds.row("x", "peer", amount=10.0, unit="tokens/s").ratio == pytest.approx(2, rel=0.5)
    assert "".join(calls).endswith("ABABAB")


def test_a_process_cannot_be_tied_to_cores_it_has_not():
    with pytest.raises(ValueError, match="--cores=4096"):
        timing.pin(4096)


def test_rows_travel_through_json_into_a_document(tmp_path):
    row = BenchRow("x", 1.0, 2.0, "s", "peer", "note", (1.9, 2.1))
    save({"ops": [row]}, tmp_path / "rows.json")
    save({"decode": [BenchRow("y", 3.0, 1.0, "tokens/s", "peer")]}, tmp_path / "rows.json")
    suites = load(tmp_path / "rows.json")
    assert suites["ops"] == [row]
    document = tmp_path / "page.md"
    document.write_text("before\n<!-- bench: begin -->\nold\n<!-- bench: end -->\nafter\n")
    put_into(document, "bench", markdown(suites))
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| x | 1 | 2 | s | 2.00 | 1.90 to 2.10 | peer | note |" in text
    assert "old" not in text
    document.write_text("no markers")
    with pytest.raises(ValueError, match="put <!-- bench"):
        put_into(document, "bench", "")


PROFILED = """
import dataclasses, json
from mmfuser_jax import presets
from mmfuser_jax.bench import models, profile
llm = dataclasses.replace(presets.tiny().llm, kv_heads=4, vocab_size=models.VOCABULARY)
sides = profile.measure(dataclasses.replace(presets.tiny(), llm=llm), 2, 32)
print(json.dumps([[[*key, seconds] for key, seconds in side.items()] for side in sides]))
"""


def test_a_profile_tells_products_from_the_rest():
    """Both sides have all kinds, ours every part. In a process that has not loaded libtpu, whose profiler
    JAX would start as well, and which ends the process where versions differ."""
    command = [sys.executable, "-c", PROFILED]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "XLA_FLAGS": ""}, check=True)
    rows = json.loads(done.stdout.splitlines()[-1])
    ours, theirs = ({(kind, part): seconds for kind, part, seconds in side} for side in rows)
    for side in (ours, theirs):
        assert {kind for kind, _ in side} == {profile.PRODUCTS, profile.OPTIMIZER, profile.OTHER}
        assert min(side.values()) > 0
    parts = {part for part, _ in profile.OUR_PARTS}
    assert {part for kind, part in ours if kind == profile.OTHER} - {""} == parts
    assert not {part for kind, part in ours if kind == profile.OPTIMIZER} & parts
    assert f"| all | {1e3 * sum(ours.values()):,.0f} |" in profile.markdown(ours, theirs)


def test_growth_is_fitted_and_plotted(tmp_path):
    points = [growth.Point("work", "n", n, 0.1 * n, 0.1 * n**2) for n in (1, 2, 4)]
    assert growth.exponent(points, "ours") == pytest.approx(1)
    assert growth.exponent(points, "theirs") == pytest.approx(2)
    growth.plot(points, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 1000


def test_the_step_of_a_config_is_measured_beside_its_bound(monkeypatch):
    config = tiny_run().to_dict()
    with pytest.raises(ConfigError, match="the peak of 'cpu' is not known"):
        next(step.measure(config, "", 1))
    with pytest.raises(ConfigError, match="no stage 'sft'; the config has encoder, finetune"):
        next(step.measure(config, "sft", 1))
    for module in (step, mfu):  # far above any CPU's, so that nothing is faster than its bound
        monkeypatch.setattr(module, "find_chip", lambda kind: Chip("core", (kind,), 1e13, 1e13, 64.0, 1e13))
    (measured,) = step.measure(config, "finetune", 2)
    found = measured.to_json()
    assert (found["stage"], found["rows"], found["length"]) == ("finetune", 8, 64)
    assert len(found["seconds"]) == 2
    assert found["step_seconds"] > found["step_seconds_bound"] > 0
    assert found["tokens_per_second"] == pytest.approx(8 * 64 / found["step_seconds"])
    assert found["planned_gib"] > 0


def test_the_primitives_are_the_same():
    for case in parts.cases():
        ours, theirs = case.forward()
        assert relative(np.asarray(ours()), theirs().numpy()) < 1e-5
