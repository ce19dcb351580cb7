"""TFDS builds: bit for bit what the source holds, whatever kills them."""

import base64
import contextlib
import dataclasses
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from mmfuser_jax.data.records import Record, RecordError, Turn
from mmfuser_jax.data.sources import SourceSpec, open_source
from mmfuser_jax.data.tfds_records import ArrayRecords, open_dataset, parse, serialize
from mmfuser_jax.prepare.build import build, verify
from mmfuser_jax.prepare.plan import Options, plan_shards
from mmfuser_jax.prepare.scan import scan
from mmfuser_jax.prepare.shards import shrink
from tests.conftest import ROOT
from tests.test_prepare import picture, row, sixteen_bit, turned
from tests.test_resume import environment

SMALL = 0.03
"""Megabytes of a file, so that small builds have several."""


def some_records(count):
    """Records with no, one and two pictures, one and two conversations, with and without tags."""

    def record(place):
        pictures = tuple(picture(place + k) for k in range(place % 3))
        talk = (Turn("human", "<image>" * len(pictures) + f"第 {place} 个?"), Turn("gpt", f"答案 {place}"))
        tags = ({"domain": "ocr", "type": "short"}, {"domain": "ocr", "type": "long", "skill": "读"})
        talks = 1 + place % 2
        return Record(f"r{place}", pictures, (talk,) * talks, tags[:talks] if place % 4 else ())

    return [record(place) for place in range(count)]


def test_records_survive_tfds(tmp_path):
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    from mmfuser_jax.data.tfds_records import features

    for record in some_records(12):
        example = serialize(record, record.images)
        assert parse(example) == record
    types = features()
    decoded = types.deserialize_example_np(example)
    turns = [
        {"conversation": c, "from": t.role, "value": t.text} for c, ts in enumerate(record.conversations) for t in ts
    ]
    columns = {"id": record.id, "domain": "ocr", "language": "", "type": "mixed", "images": list(record.images)}
    columns |= {"conversations": turns, "tags": [json.dumps(tags, ensure_ascii=False) for tags in record.tags]}
    theirs = ExampleSerializer(types.get_serialized_info()).get_tf_example(types.encode_example(columns))
    assert theirs.SerializeToString(deterministic=True) == example
    assert decoded["type"] == b"mixed"
    with pytest.raises(RecordError, match="not a record of this package"):
        parse(b"\x0a\x03abc")
    with pytest.raises(RecordError, match="not Unicode"):
        serialize(Record("x", (), ((Turn("human", "\udc00"), Turn("gpt", "hi")),)), [])
    (tmp_path / "a.array_record").write_bytes(b"nothing of the kind")
    with pytest.raises(OSError, match=r"a\.array_record: not an ArrayRecord file, or cut off"):
        ArrayRecords([tmp_path / "a.array_record"])


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """60 usable rows over 24 pictures, three rows refused."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "ocr").mkdir()
    for place in range(24):
        (folder / f"ocr/{place}.jpg").write_bytes(picture(place, (70 + place, 60)))
    (folder / "ocr/24.jpg").write_bytes(b"")
    shutil.copy(folder / "ocr/0.jpg", folder / "ocr/copy.jpg")
    rows = [row(f"r{place}", f"ocr/{place % 24}.jpg", answer=f"Number {place}.") for place in range(56)]
    rows += [row("pair", ["ocr/3.jpg", "ocr/4.jpg"], question="<image><image> Same?"), row("copy", "ocr/copy.jpg")]
    rows += [row("words", None, question="Hi?"), row("more words", None, question="Ho?")]
    rows[10:10] = [row(f"bad{place}", "ocr/24.jpg") for place in range(3)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return SourceSpec(str(folder / "rows.jsonl"))


@pytest.fixture(scope="module")
def built(many, tmp_path_factory):
    out = tmp_path_factory.mktemp("built")
    build(many, out, Options("toy/en", 0.3, shard_mb=SMALL))
    return out


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_tfds_loads_a_build_bit_for_bit(many, built):
    """In a process of its own, which shows that TensorFlow is not needed."""
    program = f"""
import base64, json, sys
import numpy as np
import tensorflow_datasets as tfds
raw = tfds.decode.DeserializeMethod.RAW_BYTES
for split in ("train", "validation", "train[:50%]"):
    examples = tfds.data_source("toy/en", data_dir={str(built)!r}, split=split, deserialize_method=raw)
    decoded = tfds.data_source("toy/en", data_dir={str(built)!r}, split=split)
    shapes = [np.shape(image) for image in decoded[0]["images"]]
    print(json.dumps([split, shapes, [base64.b64encode(example).decode() for example in examples]]))
assert "tensorflow" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment())
    assert result.returncode == 0, result.stderr
    splits = {name: (shapes, examples) for name, shapes, examples in map(json.loads, result.stdout.splitlines())}
    loaded = {name: [parse(base64.b64decode(text)) for text in examples] for name, (_, examples) in splits.items()}
    source = open_source(many)
    expected = {}
    for place in range(len(source)):
        record = source[place]
        if not record.id.startswith("bad"):
            expected[record.id] = dataclasses.replace(record, images=tuple(path.read_bytes() for path in record.images))
    both = [*loaded["train"], *loaded["validation"]]
    assert {record.id: record for record in both} == expected
    assert len(both) == len(expected) == 60
    assert 5 < len(loaded["validation"]) < 40
    train, held_out = (
        {image for record in loaded[name] for image in record.images} for name in ("train", "validation")
    )
    assert not train & held_out
    with Image.open(io.BytesIO(loaded["train"][0].images[0])) as image:
        assert splits["train"][0][0] == [image.height, image.width, 3]
    ours = open_dataset(built / "toy", "train[:50%]")
    assert [ours[place] for place in range(len(ours))] == loaded["train[:50%]"] != []
    refused = [json.loads(line) for line in (built / "toy/en/1.0.0/rejected.jsonl").read_text().splitlines()]
    assert [(entry["index"], entry["reason"]) for entry in refused] == [(place, "bad_image") for place in (10, 11, 12)]


def test_a_build_survives_kills_and_any_number_of_workers(many, built, tmp_path):
    """Killed again and again at any moment, it ends with the bytes of one that was left alone."""
    command = [
        sys.executable,
        "launch/data.py",
        "build",
        f"--source={many.source}",
        f"--out={tmp_path}",
        "--name=toy/en",
    ]
    command += ["--validation=0.3", f"--shard_mb={SMALL}", "--workers=2"]
    folder = tmp_path / "toy/en/1.0.0"
    stops = random.Random(0)

    def files():
        return len(list(folder.glob("*.array_record-*"))) if folder.exists() else 0

    for stage in range(3):
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), start_new_session=True, stderr=subprocess.PIPE)
        before = files()
        while process.poll() is None and files() < before + stage:
            time.sleep(0.002)
        time.sleep(stops.uniform(0, 0.01) + (0 if stage else 1))
        # At first the whole group; then the parent alone, whose workers must end too.
        with contextlib.suppress(ProcessLookupError):
            (os.kill if stage else os.killpg)(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)  # its workers hold the other end of the pipe
    assert not (folder / "dataset_info.json").exists()
    result = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path) == contents(built)
    assert "63" not in verify(folder)
    assert "60 records" in verify(folder)


def test_a_build_does_not_mix_with_another(many, built, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(built, out)
    folder = out / "toy/en/1.0.0"
    with pytest.raises(ValueError, match=r"was begun with --validation=0\.3; finish it so"):
        build(many, out, Options("toy/en", 0.1, shard_mb=SMALL))
    other = tmp_path / "other.jsonl"
    other.write_text(Path(many.source).read_text() + "\n")
    with pytest.raises(ValueError, match="was begun from another source"):
        build(
            SourceSpec(str(other), image_folder=str(Path(many.source).parent)),
            out,
            Options("toy/en", 0.3, shard_mb=SMALL),
        )
    damaged, lost = sorted(folder.glob("*train*"))[:2]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=f"changed since it was built: {damaged.name}$"):
        verify(folder)
    lost.unlink()
    with pytest.raises(ValueError, match="missing or changed"):
        verify(folder)
    damaged.unlink()
    build(many, out, Options("toy/en", 0.3, shard_mb=SMALL))
    assert contents(out) == contents(built)


def test_a_picture_that_changes_during_a_build_stops_it(many, tmp_path):
    folder = tmp_path / "source"
    shutil.copytree(Path(many.source).parent, folder)
    spec = SourceSpec(str(folder / "rows.jsonl"))
    build(spec, tmp_path, Options("toy", 0.0, shard_mb=SMALL))
    built = tmp_path / "toy/1.0.0"
    sorted(built.glob("*.array_record*"))[0].unlink()
    (folder / "ocr/0.jpg").write_bytes(picture(99))
    with pytest.raises(RuntimeError, match=r"pictures of rows 0 to .* have changed since the build was planned"):
        build(spec, tmp_path, Options("toy", 0.0, shard_mb=SMALL))
    assert not list(built.glob(".*"))


def test_shards_hold_every_row_once(many):
    scanned = scan(open_source(many))
    for validation, megabytes in ((0.0, 1e-9), (0.5, 0.01), (0.02, 100.0)):
        shards = plan_shards(scanned, Options("toy", validation, shard_mb=megabytes))
        assert sorted(place for shard in shards for place in shard.rows) == scanned.accepted().tolist()
        assert all(shard.rows for shard in shards)
        for split in ("train", "validation"):
            mine = [shard for shard in shards if shard.split == split]
            assert [(shard.number, shard.of) for shard in mine] == [(place, len(mine)) for place in range(len(mine))]


def test_refused_rows_draw_nobody_into_validation(tmp_path):
    """Rows with a good and a missing picture are refused; others that show the good one are drawn as ever."""
    rows = [row(f"r{i}", f"{i}.jpg") for i in range(60)]
    rows += [row(f"bad{i}", [f"{i}.jpg", "missing.jpg"], "<image><image> Which?") for i in range(20)]
    for i in range(60):
        (tmp_path / f"{i}.jpg").write_bytes(picture(i))
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    scanned = scan(open_source(SourceSpec(str(tmp_path / "rows.jsonl"))))
    assert len(scanned.rejected) == 20
    held = [
        i for shard in plan_shards(scanned, Options(validation=0.05)) if shard.split == "validation" for i in shard.rows
    ]
    assert len(held) < 10


def test_shrinking_keeps_small_files_and_drawings():
    small = picture(1)
    assert shrink(small, 0) == shrink(small, 90) == small
    deep = sixteen_bit()
    assert shrink(deep, 4000) == deep
    with Image.open(io.BytesIO(shrink(deep, 10))) as image:
        assert max(image.size) == 10
    with Image.open(io.BytesIO(shrink(turned(), 45))) as image:
        assert (image.format, image.size) == ("JPEG", (30, 45))
    drawing = io.BytesIO()
    Image.new("RGB", (400, 100), "navy").save(drawing, "PNG")
    with Image.open(io.BytesIO(shrink(drawing.getvalue(), 200))) as image:
        assert (image.format, image.size, image.getpixel((0, 0))) == ("PNG", (200, 50), (0, 0, 128))
