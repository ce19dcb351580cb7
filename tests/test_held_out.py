"""Held-out loss: what single rows give, however the records are packed and the rows spread over devices."""

import dataclasses
import logging

import jax
import numpy as np
import optax
import pytest

from mmfuser_jax import model_folder, sharding
from mmfuser_jax.data.conversation import encode_pieces, get_template, render
from mmfuser_jax.data.packing import branch, pack_rows
from mmfuser_jax.data.pictures import Picture
from mmfuser_jax.data.rows import RowFormat
from mmfuser_jax.data.sources import SourceSpec, open_source
from mmfuser_jax.data.tokenizer import load_tokenizer, train_word_tokenizer
from mmfuser_jax.evaluate import held_out
from mmfuser_jax.evaluate.held_out import HeldOut
from mmfuser_jax.models import VLM
from tests.helpers import random_params, run

RECORDS = 5


@dataclasses.dataclass
class Case:
    """A random model, and records with a few conversations each."""

    model: VLM
    params: dict
    records: list
    tokenizer: object
    row: RowFormat

    def score(self, params=None, records=None, **options):
        row = dataclasses.replace(self.row, length=options.pop("length", 64), tiles=options.pop("tiles", 2))
        options = {"conversations": 3, "batch_size": 4, **options}
        held = HeldOut(self.records if records is None else records, self.tokenizer, row, **options)
        return held.score(self.model, self.params if params is None else params)


def wordy(turns, length):
    """A conversation with an answer of so many words."""
    words = f"{turns[1].text} {turns[0].text.replace('<image>', '')}".split()
    return (turns[0], dataclasses.replace(turns[1], text=" ".join(words[:length])))


@pytest.fixture(scope="module")
def case(tiny, tmp_path_factory):
    source = open_source(SourceSpec("easy_vqa/questions", "validation"))
    records = []
    for record in (source[i] for i in range(RECORDS)):
        turns = tuple(wordy(turns, 1 + i % 5) for i, turns in enumerate(record.conversations))
        records.append(dataclasses.replace(record, conversations=turns))
    words = (turn.text.replace("<image>", "") for x in records for turns in x.conversations for turn in turns)
    folder = tmp_path_factory.mktemp("tokenizer")
    train_word_tokenizer(["USER: ASSISTANT:", *words], folder)
    model = VLM(tiny)
    row = RowFormat(template="short", images=model_folder.image_format(tiny, "square"))
    return Case(model, random_params(model), records, load_tokenizer(folder), row)


@pytest.fixture(scope="module")
def plain(case):
    """(summed loss, right tokens, tokens) of every conversation, each in a row of its own, from logits in float64."""
    images = case.row.images
    template = get_template("short", False)
    found = []
    for record in case.records:
        for turns in record.conversations:
            pictures = [images.decode(images.outline(file)) for file in record.images]
            assert all(isinstance(picture, Picture) for picture in pictures)
            example = branch([encode_pieces(render(turns, template), case.tokenizer)], pictures, images)
            batch = pack_rows([[example]], 48, 1, images)
            logits = np.asarray(run(case.model, case.params, batch).logits[0], np.float64)
            targets = batch.targets[0]
            kept = targets != -100
            nll = optax.softmax_cross_entropy_with_integer_labels(logits[kept], targets[kept])
            found.append((float(nll.sum()), int((logits[kept].argmax(-1) == targets[kept]).sum()), int(kept.sum())))
    return np.array(found)


def expected(plain):
    total, correct, tokens = plain.sum(axis=0)
    assert 0 < correct < tokens
    return total / tokens, correct / tokens, tokens


@pytest.mark.parametrize(
    "packing",
    [
        {"length": 40, "tiles": 1, "conversations": 1, "batch_size": 1},
        {"length": 64, "tiles": 2, "conversations": 3, "batch_size": 4},
        {"length": 200, "tiles": 5, "conversations": 8, "batch_size": 16},
    ],
)
def test_it_is_what_single_rows_give_however_packed(case, plain, packing):
    score = case.score(**packing)
    loss, accuracy, tokens = expected(plain)
    assert score.loss == pytest.approx(loss, rel=1e-5)
    assert (score.token_accuracy, score.tokens) == (accuracy, tokens)


def test_tokens_weigh_alike_and_parameters_count(case, plain):
    """Negative controls: neither the mean of conversations, nor another model, nor fewer records give the same."""
    loss = case.score().loss
    per_conversation = (plain[:, 0] / plain[:, 2]).mean()
    another = case.score(jax.tree.map(lambda x: 1.01 * x, case.params)).loss
    fewer = case.score(records=case.records[:-1]).loss
    assert min(abs(loss - other) for other in (per_conversation, another, fewer)) > 1e-4


def test_neighbours_in_a_row_that_saw_each_other_would_be_noticed(case, plain, monkeypatch):
    whole = held_out.HeldOut._batches

    def merged(self, mesh):
        for batch in whole(self, mesh):
            yield batch.replace(segment_ids=np.minimum(batch.segment_ids, 1), branch_ids=0 * batch.branch_ids)

    monkeypatch.setattr(held_out.HeldOut, "_batches", merged)
    assert abs(case.score().loss - expected(plain)[0]) > 1e-3


@pytest.mark.parametrize("axes", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_a_mesh_gives_the_same(case, plain, axes):
    mesh = sharding.make_mesh(**axes)
    score = case.score(jax.device_put(case.params, sharding.replicated(mesh)), batch_size=3)
    assert score.loss == pytest.approx(expected(plain)[0], rel=1e-5)
    assert score.tokens == expected(plain)[2]


def test_two_processes_decode_half_of_each_batch(case, plain, monkeypatch, mesh):
    """Each process reads its rows alone; what both read together is every row once, in as many steps."""
    read = {}
    monkeypatch.setattr(held_out.sharding, "shard_batch", lambda batch, mesh: batch)
    row = dataclasses.replace(case.row, length=64, tiles=2)
    for index in (0, 1):
        monkeypatch.setattr(held_out.sharding, "batch_share", lambda mesh, index=index: (index, 2))
        held = HeldOut(case.records, case.tokenizer, row, conversations=3, batch_size=4)
        read[index] = list(held._batches(mesh))
    assert len(read[0]) == len(read[1]) == -(-len(held) // 8)
    assert all(batch.tokens.shape == (4, 64) for batches in read.values() for batch in batches)
    supervised = sum(int((batch.targets != -100).sum()) for batches in read.values() for batch in batches)
    assert supervised == expected(plain)[2]


def test_what_training_would_refuse_is_left_out(case, caplog):
    many = dataclasses.replace(case.records[0], id="many", images=case.records[0].images * 3)
    turn = dataclasses.replace(many.conversations[0][0], text="<image><image><image> what?")
    many = dataclasses.replace(many, conversations=((turn, many.conversations[0][1]),), tags=())
    with caplog.at_level(logging.WARNING):
        score = case.score(records=[*case.records, many])
    assert "not used to validate: " in caplog.text
    assert score == case.score()
    with pytest.raises(ValueError, match="nothing to score"):
        case.score(records=[many])
