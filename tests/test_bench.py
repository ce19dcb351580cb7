"""The peer of the data benchmark does the same work as ours, and ratios point the right way."""

import numpy as np
import pytest

from mmfuser_jax.bench.rows import BenchRow
from mmfuser_jax.bench.torch_loader import LlavaDataset, batches
from mmfuser_jax.data.pictures import ImageFormat
from mmfuser_jax.data.pipeline import Loading, Weighted, make_loader
from mmfuser_jax.data.records import usable
from mmfuser_jax.data.rows import RowFormat
from mmfuser_jax.data.sources import SourceSpec, open_source
from mmfuser_jax.data.tokenizer import train_bpe_tokenizer
from mmfuser_jax.synthetic.generate import generate
from mmfuser_jax.types import CLIP_MEAN, CLIP_STD


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
