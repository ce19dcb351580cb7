"""The stream of batches: exact epochs, mixtures, workers, resuming, bad records, length grouping."""

import collections
import io
import json
import logging
import warnings

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from mmfuser_jax.data.grouping import GroupedOrder, modality_lengths
from mmfuser_jax.data.pictures import ImageFormat
from mmfuser_jax.data.pipeline import Loading, Weighted, fingerprint, make_loader
from mmfuser_jax.data.records import Record, RecordError, Turn
from mmfuser_jax.data.rows import Assemble, Augmentation, Encode, Rejected, Report, Row, RowFormat
from mmfuser_jax.data.sources import InMemory
from mmfuser_jax.data.tally import Tally
from mmfuser_jax.data.tokenizer import train_word_tokenizer

IMAGES = ImageFormat("square", 16, (0.5, 0.5, 0.5), tokens=4)
ROW = RowFormat("short", IMAGES, length=40, tiles=3)
TILED = RowFormat(
    "short",
    ImageFormat(
        "anyres", 16, (0.5,) * 3, tokens=16, grid_pinpoints=((32, 16), (16, 32), (32, 32)), tile_merge="spatial_unpad"
    ),
    length=200,
    tiles=6,
)
KINDS = ("photo", "text")


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Every record has a word of its own, so that a batch tells what is in it."""
    names = [f"{kind}{i}" for kind in KINDS for i in range(200)]
    return train_word_tokenizer(["USER: ASSISTANT: so very long", *names], tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(60):
        Image.new("RGB", (20 + i % 7, 20), (4 * i, 255 - 4 * i, i)).save(folder / f"{i}.png")
    return folder


def photos(folder, count=60):
    """Records of one picture and one to six words, the first of them its own."""
    return InMemory(
        Record(
            f"photo{i}", (folder / f"{i}.png",), ((Turn("human", "<image>\nso"), Turn("gpt", words_of("photo", i))),)
        )
        for i in range(count)
    )


def texts(count=30):
    return InMemory(
        Record(f"text{i}", (), ((Turn("human", "so"), Turn("gpt", words_of("text", i))),)) for i in range(count)
    )


def words_of(kind, i):
    return " ".join([f"{kind}{i}", *["very"] * (i % 6)])


def loader(sources, words, loading=Loading(2, window=16), **fields):  # noqa: B008
    weighted = {name: part if isinstance(part, Weighted) else Weighted(part) for name, part in sources.items()}
    return make_loader(weighted, words, ROW, loading, **{"seed": 3, **fields})


def take(dataset, count):
    iterator = iter(dataset)
    batches = [next(iterator) for _ in range(count)]
    iterator.close()
    return batches


def names(batches, words):
    """Names of the records in a list of batches, in order."""
    tokens = [batch.targets[batch.targets >= 0].tolist() for batch, _ in batches]
    return [word for row in tokens for word in words.decode(row).split() if word.startswith(KINDS)]


def drawn(sources, words, count, loading=Loading(2, window=16), **fields):  # noqa: B008
    """The first `count` names of a stream."""
    found, iterator = [], iter(loader(sources, words, loading, **fields))
    while len(found) < count:
        found += names([next(iterator)], words)
    iterator.close()
    return found


def same(a, b):
    return all(np.array_equal(getattr(a[0], name), getattr(b[0], name)) for name in vars(a[0])) and a[1] == b[1]


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_every_record_once_per_epoch_over_all_hosts(pictures, words, hosts):
    """59 records do not divide by the hosts: an epoch then ends on another host than it began."""
    share, unpacked = 59 * 4 // hosts, Loading(1, window=1)
    streams = [
        drawn({"data": photos(pictures, 59)}, words, share, unpacked, process_index=i, process_count=hosts)
        for i in range(hosts)
    ]
    together = [name for step in zip(*streams, strict=True) for name in step]
    epochs = [together[start : start + 59] for start in range(0, 4 * 59, 59)]
    assert all(len(set(epoch)) == 59 for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert together == drawn({"data": photos(pictures, 59)}, words, 4 * 59, unpacked)  # and the order is the same


@pytest.mark.parametrize("workers", [0, 2])
def test_resumes_anywhere(pictures, words, workers, tmp_path):
    """Through Orbax, as a run does; packing, mixing, augmentation and bad records included."""
    (tmp_path / "broken.png").write_bytes(b"GIF89a")
    broken = [Record(f"broken{i}", (tmp_path / "broken.png",), photos(pictures, 1)[0].conversations) for i in range(3)]
    sources = {"photos": InMemory([*photos(pictures), *broken]), "texts": Weighted(texts(), 0.5)}
    loading = Loading(2, window=16, workers=workers, threads=2)
    dataset = loader(sources, words, loading, augmentation=Augmentation(2, True))
    straight = take(dataset, 24)
    assert sum(len(report.rejected) for _, report in straight) > 0
    manager = ocp.CheckpointManager(tmp_path / "checkpoints")
    stopped = iter(dataset)
    for step in range(11):
        if step in (0, 1, 7, 10):
            manager.save(step, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(stopped)))
            manager.wait_until_finished()
        assert same(next(stopped), straight[step])
    stopped.close()
    for step in (0, 7, 10):
        resumed = iter(dataset)
        manager.restore(step, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(resumed)))
        for offset in range(step, min(step + 9, 24)):
            assert same(next(resumed), straight[offset]), (step, offset)
        resumed.close()
    manager.close()


def test_workers_share_the_records(pictures, words):
    """Two workers, each with its half: every record once per epoch, both sources in every worker's batches."""
    loading = Loading(1, window=8, workers=2, threads=1)
    found = drawn({"data": photos(pictures)}, words, 140, loading)
    counts = collections.Counter(found)
    assert len(counts) == 60
    assert max(counts.values()) - min(counts.values()) <= 2
    batches = take(loader({"a": photos(pictures), "b": texts()}, words, loading), 16)
    for worker in (0, 1):
        kinds = {name[:4] for name in names(batches[worker::2], words)}
        assert kinds == {"phot", "text"}


def test_a_stream_is_a_function_of_its_seed(pictures, words):
    first = take(loader({"data": photos(pictures)}, words), 6)
    assert all(same(a, b) for a, b in zip(first, take(loader({"data": photos(pictures)}, words), 6), strict=True))
    other = take(loader({"data": photos(pictures)}, words, seed=4), 6)
    assert not same(first[0], other[0])


@pytest.mark.parametrize("host", [0, 1])
def test_mixtures_keep_their_weights_on_every_host_and_after_a_change(pictures, words, host):
    def mixture(weight):
        sources = {"photos": photos(pictures), "texts": Weighted(texts(), weight)}
        return loader(sources, words, process_index=host, process_count=2)

    def share(found):
        return sum(name.startswith("text") for name in found) / len(found)

    iterator = iter(mixture(1 / 3))
    before = names([next(iterator) for _ in range(40)], words)
    assert share(before) == pytest.approx(0.25, abs=0.03)
    state = json.loads(json.dumps(iterator.get_state()))
    iterator.close()
    changed = iter(mixture(3.0))
    changed.set_state(state)
    after = names([next(changed) for _ in range(40)], words)
    changed.close()
    assert share(after) == pytest.approx(0.75, abs=0.05)


def test_a_window_is_finished_with_the_weights_it_was_begun_with(pictures, words):
    """Resumed with other weights in the middle of a window, no record is seen twice in an epoch and none is lost."""

    def stream(weight):
        return iter(loader({"a": photos(pictures), "b": Weighted(texts(60), weight)}, words, Loading(1, window=40)))

    straight, stopped, changed = stream(1.0), stream(1.0), stream(4.0)
    begun = names([next(straight) for _ in range(25)], words)
    seen = names([next(stopped) for _ in range(3)], words)
    changed.set_state(json.loads(json.dumps(stopped.get_state())))
    seen += names([next(changed) for _ in range(40)], words)
    for iterator in (straight, stopped, changed):
        iterator.close()
    assert seen[:40] == begun[:40]
    assert len(set(seen[:80])) == 80
    assert sum(name.startswith("text") for name in seen[40:80]) == 32  # the next window has the new weights


def test_the_split_into_processes_comes_before_mixing(pictures, words):
    """Negative control: mixed first, every host of a power of two would see one kind only (a mixture is periodic)."""
    parts = [grain.MapDataset.range(60).map(lambda _, kind=kind: kind).repeat() for kind in KINDS]
    wrong = grain.MapDataset.mix(parts, [0.5, 0.5])[0::2]
    assert len({wrong[i] for i in range(40)}) == 1


def test_packing_fills_rows_and_loses_nothing(pictures, words):
    batches = take(loader({"photos": photos(pictures), "texts": texts()}, words, Loading(4, window=64)), 12)
    slots = np.concatenate([batch.segment_ids.reshape(-1) for batch, _ in batches])
    assert (slots > 0).mean() > 0.9
    found = names(batches, words)
    assert sum(report.seen for _, report in batches) == len(found)
    counts = collections.Counter(name for name in found if name.startswith("photo"))
    assert len(counts) == 60
    assert max(counts.values()) - min(counts.values()) <= 2  # an epoch is one only after its last window
    for batch, _ in batches:
        for row in range(4):
            used = batch.image_index[row][batch.image_index[row] >= 0]
            np.testing.assert_array_equal(used, np.arange(len(used)))  # pictures lie in the order of their slots
            assert batch.pixels[row, : len(used) // 4].any(axis=(1, 2, 3)).all()


def damage(folder):
    """One record for every way in which a picture can be wrong, and what is told of it."""
    whole = folder / "whole.jpg"
    Image.effect_noise((64, 64), 50).convert("RGB").save(whole)
    contents = {
        "truncated.jpg": (whole.read_bytes()[:900], "bad_image"),
        "empty.png": (b"", "bad_image"),
        "page.jpg": (b"<html>404</html>", "bad_image"),
        "missing.png": (None, "missing_image"),
    }
    for name, (content, _) in contents.items():
        if content is not None:
            (folder / name).write_bytes(content)
    return {name: reason for name, (_, reason) in contents.items()}


def test_bad_records_are_counted_logged_once_and_capped(pictures, words, tmp_path, caplog):
    reasons = damage(tmp_path)
    conversation = photos(pictures, 1)[0].conversations
    bad = [Record(name, (tmp_path / name,), conversation) for name in reasons]
    endless = Record("endless", (), ((Turn("human", "so " * 100), Turn("gpt", "so")),))
    batches = take(loader({"data": InMemory([*photos(pictures), *bad, endless])}, words), 40)
    found = {x.id: x.reason for _, report in batches for x in report.rejected}
    assert found == {**reasons, "endless": "too_long"}
    assert "truncated.jpg" in next(x.detail for _, r in batches for x in r.rejected if x.id == "truncated.jpg")
    tally = Tally(max_bad_fraction=0.05)
    with caplog.at_level(logging.WARNING, "mmfuser_jax"):
        logging.getLogger("mmfuser_jax").propagate = True
        for _, report in batches:
            tally.add(report)
    assert sum("truncated.jpg" in message for message in caplog.messages) == 1
    assert tally.counts["rejected"] == sum(len(report.rejected) for _, report in batches)
    assert tally.counts["seen"] == sum(report.seen for _, report in batches)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "mmfuser_jax"):  # the same id in two files
        Tally(1.0).add(Report(2, 0, (Rejected("row 0", "bad_json", "a:0"), Rejected("row 0", "bad_json", "b:0")), ()))
    assert len(caplog.messages) == 2
    with pytest.raises(RecordError, match=r"11 of 11 records could not be used, more than max_bad_fraction=0\.01"):
        Tally(0.01).add(Report(11, 0, (Rejected("a", "bad_image", "a: broken"),) * 11, ()))
    with pytest.raises(RecordError, match="1 of 5"):
        Tally(0.0).add(Report(5, 0, (Rejected("a", "bad_image", "a: broken"),), ()))


def test_damaged_pictures_are_never_more_than_refused(words, tmp_path, rng):
    """Whatever bytes are wrong in whatever format: a record is used or refused, and nothing else happens."""
    formats = {
        "JPEG": {},
        "PNG": {},
        "GIF": {},
        "WEBP": {},
        "TIFF": {},
        "BMP": {},
        "AVIF": {},
        "JPEG2000": {},
        "PPM": {},
    }
    exif = Image.Exif()
    exif[0x0112] = 6
    turns = (Turn("human", "<image>\nso"), Turn("gpt", "very long"))
    outcomes = collections.Counter()
    for name in formats:
        file = io.BytesIO()
        keeps_exif = {"exif": exif} if name in ("JPEG", "PNG", "WEBP", "TIFF") else {}
        Image.effect_noise((40, 24), 80).convert("RGB").save(file, name, **keeps_exif)
        for _ in range(25):
            content = bytearray(file.getvalue())
            for place in rng.integers(0, len(content), 6):
                content[place] = rng.integers(0, 256)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow warns of some damage
                item = Encode(InMemory([Record("r", (bytes(content),), (turns,))]), words, TILED, 1).random_map(0, rng)
                if isinstance(item, Rejected):
                    outcomes[item.reason] += 1
                    continue
                _, report = Assemble(TILED, Augmentation(), 1).map([Row((item,))])
                outcomes["used" if not report.rejected else report.rejected[0].reason] += 1
    assert outcomes["used"] > 20
    assert outcomes["bad_image"] > 20
    assert set(outcomes) <= {"used", "bad_image", "image_size", "too_long"}


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_outlines_of_turned_pictures_are_those_of_what_is_decoded(name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.new("RGB", (60, 24), (9, 9, 9)).save(file, name, exif=exif)
    outline = TILED.images.outline(file.getvalue())
    assert outline.tiles == TILED.images.decode(outline).tiles  # decode compares the slots itself


def test_an_empty_row_where_a_picture_broke_off(words, tmp_path):
    damage(tmp_path)
    record = Record("r", (tmp_path / "truncated.jpg",), ((Turn("human", "<image>\nso"), Turn("gpt", "very long")),))
    item = Encode(InMemory([record]), words, ROW, 1).random_map(0, np.random.default_rng(0))
    batch, report = Assemble(ROW, Augmentation(), 1).map([Row((item,))])
    assert (batch.segment_ids == 0).all()
    assert (batch.targets == -100).all()
    assert report == Report(1, 0, report.rejected, ())
    assert report.rejected[0].detail.startswith("record r: ")


def test_positions_belong_to_their_data(pictures):
    parts = {"a": Weighted(photos(pictures), 1.0)}
    base = fingerprint(parts, Loading(2), 1)
    assert json.loads(json.dumps(base)) == base
    assert base == fingerprint({"a": Weighted(photos(pictures), 0.2)}, Loading(2, threads=9), 1)
    for other in (
        fingerprint({"a": Weighted(photos(pictures, 59))}, Loading(2), 1),
        fingerprint({"b": Weighted(photos(pictures))}, Loading(2), 1),
        fingerprint(parts, Loading(2, workers=2), 1),
        fingerprint(parts, Loading(2), 2),
    ):
        assert other != base


def test_a_source_needs_a_record_for_every_share(pictures, words):
    with pytest.raises(ValueError, match="3 records cannot be split into 4 shares"):
        loader({"data": photos(pictures, 3)}, words, Loading(1, workers=2), process_count=2)


def test_length_grouping_keeps_modalities_and_lengths_together():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 100, 103) * rng.choice([1, -1], 103)
    order = GroupedOrder(lengths, 8, seed=1)
    stream = np.array([order.map(i) for i in range(3 * 103)])
    for start in range(0, 309, 103):
        assert sorted(stream[start : start + 103]) == list(range(103))
    batches = stream[: 309 // 8 * 8].reshape(-1, 8)
    pure = [len(set(np.sign(lengths[batch]))) == 1 for batch in batches]
    assert np.mean(pure) > 0.8
    assert sum(pure) >= len(pure) - 2 * 3  # but for what was left over of both, at most two batches an epoch
    assert all(np.all(np.diff(np.abs(lengths[b])) <= 0) for b, alone in zip(batches, pure, strict=True) if alone)


def test_grouped_batches_of_workers_are_of_one_modality_too(pictures, words):
    source = InMemory([*photos(pictures), *texts(60)])
    row = RowFormat("short", IMAGES, length=200, tiles=1)
    dataset = make_loader({"data": Weighted(source)}, words, row, Loading(4, "length", workers=2), seed=0)
    kinds = [{name[:4] for name in names([batch], words)} for batch in take(dataset, 30)]
    assert sum(len(kind) == 1 for kind in kinds) >= 26  # at most two of the two workers' batches an epoch are mixed


def test_grouped_batches_are_as_long_as_their_longest(pictures, words):
    source = InMemory([*photos(pictures), *texts()])
    lengths = modality_lengths(source)
    assert lengths[:2].tolist() == [3, 4]  # "<image> so photo0", "<image> so photo1 very"
    assert lengths[60:62].tolist() == [-2, -3]
    row = RowFormat("short", IMAGES, length=200, tiles=1)
    dataset = make_loader({"data": Weighted(source)}, words, row, Loading(4, "length"), seed=0)
    batches = take(dataset, 45)
    assert {batch.tokens.shape for batch, _ in batches} == {(4, 64)}
    found = names(batches, words)
    assert collections.Counter(found[:88]).most_common(1)[0][1] == 1
    with pytest.raises(ValueError, match="length grouping takes one source"):
        make_loader({"a": Weighted(source), "b": Weighted(source)}, words, row, Loading(4, "length"), seed=0)
