"""Records, templates and masks, packing, pictures, and the resumable pipeline."""

import json

import numpy as np
import pytest
from PIL import Image

from mmfuser_jax.data import (
    TEMPLATES,
    Record,
    Turn,
    easy_vqa,
    encode_conversation,
    encode_prompt,
    load_tokenizer,
    preprocess_image,
)
from mmfuser_jax.data.conversation import render
from mmfuser_jax.data.images import fit_image, open_image
from mmfuser_jax.data.packing import branch, expand_images, pack_row
from mmfuser_jax.data.pictures import ImageFormat, Picture
from mmfuser_jax.data.pipeline import Augmentation, RowFormat, ToRow, make_loader
from mmfuser_jax.data.records import RecordError, turns_from_llava
from mmfuser_jax.data.sources import load_records
from mmfuser_jax.data.tokenizer import train_word_tokenizer

WORDS = "USER ASSISTANT what is this a cat dog no yes and : ? . , assistant user the A chat between curious"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_word_tokenizer([WORDS], tmp_path_factory.mktemp("tokenizer"))


def talk(*turns):
    return tuple(Turn(("human", "gpt")[i % 2], text) for i, text in enumerate(turns))


def read(tokenizer, ids):
    return tokenizer.decode([int(i) for i in ids if i >= 0])


def test_only_answers_are_supervised(tokenizer):
    conversation = [
        {"from": "human", "value": "what is this?\n<image>"},
        {"from": "gpt", "value": "a cat"},
        {"from": "human", "value": "what?"},
        {"from": "gpt", "value": "cat and dog"},
    ]
    ids, labels = encode_conversation(conversation, tokenizer, "short")
    assert ids[0] == tokenizer.bos_id
    assert list(ids).count(-200) == 1
    assert list(ids).index(-200) == 3  # <s> USER : <image>
    kept = labels != -100
    np.testing.assert_array_equal(ids[kept], labels[kept])
    assert list(labels[kept]).count(tokenizer.eos_id) == 2
    assert read(tokenizer, labels[kept]) == "a cat cat and dog"


def test_templates_render_and_await_an_answer(tokenizer):
    turns = talk("<image>\nwhat is this?", "a cat")
    assert render(turns, TEMPLATES["short"]) == [
        ("USER: <image>\nwhat is this? ", False),
        ("ASSISTANT:", False),
        (" a cat</s>", True),
    ]
    assert render(turns, TEMPLATES["plain"]) == [("<image>", False), ("a cat\n", True)]
    v1 = render(turns, TEMPLATES["v1"])
    assert v1[0][0].startswith(
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives"
    )
    assert [text for text, _ in v1[1:3]] == ["USER: <image>\nwhat is this? ", "ASSISTANT:"]
    prompt = encode_prompt(turns[:1], tokenizer, "short")
    full, _ = encode_conversation(
        [{"from": "human", "value": turns[0].text}, {"from": "gpt", "value": "a cat"}], tokenizer, "short"
    )
    np.testing.assert_array_equal(prompt, full[: len(prompt)])
    with pytest.raises(ValueError, match="no conversation template 'v9'; there are v1, short, plain"):
        encode_conversation([], tokenizer, "v9")


def test_max_length_cuts(tokenizer):
    ids, labels = encode_conversation(
        [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "cat"}], tokenizer, "short", 4
    )
    assert len(ids) == len(labels) == 4


@pytest.mark.parametrize(
    ("record", "match"),
    [
        (Record("7", (), ()), "record 7: no conversation"),
        (Record("7", (), ((),)), "empty conversation"),
        (Record("7", (), (talk("hi", ""),)), "record 7: turn 1 is empty"),
        (Record("7", (), ((Turn("gpt", "hi"),),)), "turn 0 is by gpt, expected human"),
        (Record("7", (), ((Turn("robot", "hi"),),)), "unknown role 'robot'"),
        (Record("7", (), (talk("<image> hi", "yes"),)), "1 <image> markers for 0 images"),
        (Record("7", (), (talk("hi", "yes"),), ({}, {})), "2 tags for 1 conversations"),
    ],
)
def test_broken_records_are_named(record, match):
    with pytest.raises(RecordError, match=match):
        record.validate()


def test_llava_turns_need_text():
    with pytest.raises(RecordError, match="record x: turn 0 needs text"):
        turns_from_llava([{"from": "human", "value": 3}], "x")
    with pytest.raises(RecordError, match="unknown role 'system'"):
        turns_from_llava([{"from": "system", "value": "hi"}])


def test_expand_images():
    plain, tiled = (np.arange(2), 2), (np.array([1, -2, 3]), 4)
    tokens, index, source = expand_images(np.array([1, -200, 7, -200]), [plain, tiled])
    assert (tokens.tolist(), index.tolist(), source.tolist()) == (
        [1, 0, 0, 7, 0, 0, 0], [-1, 0, 1, -1, 3, -2, 5], [0, 1, 1, 2, 3, 3, 3],
    )  # fmt: skip
    with pytest.raises(RecordError, match="2 image markers for 1 pictures"):
        expand_images(np.array([1, -200, 7, -200]), [plain])


IMAGES = ImageFormat("square", 8, (0.5, 0.5, 0.5), tokens=2)


def picture(size=8):
    return Picture(np.arange(size * size * 3, dtype=np.uint8).reshape(1, size, size, 3), np.arange(2))


def test_branches_share_the_trunk():
    first = (np.array([1, 5, -200, 6, 7, 2]), np.array([-100, -100, -100, -100, 7, 2]))
    second = (np.array([1, 5, -200, 8, 2]), np.array([-100, -100, -100, -100, 2]))
    example = branch([first, second], [picture()], IMAGES)
    assert example.tokens.tolist() == [1, 5, 0, 0, 6, 7, 2, 8, 2]
    assert example.targets.tolist() == [-100, -100, -100, -100, 7, 2, -100, 2, -100]
    assert example.branch_ids.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2]
    assert example.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 4, 5]
    with pytest.raises(RecordError, match="begin alike"):
        branch([first, (np.array([1, 6, -200, 8]), np.full(4, -100))], [picture()], IMAGES)


def test_a_caption_is_predicted_from_the_last_image_slot():
    example = branch([(np.array([1, -200, 9, 3]), np.array([-100, -100, 9, 3]))], [picture()], IMAGES)
    assert example.tokens.tolist() == [1, 0, 0, 9, 3]
    assert example.targets.tolist() == [-100, -100, 9, 3, -100]


def test_rows_pack_segments_with_their_pictures():
    a = branch([(np.array([1, -200, 9]), np.array([-100, -100, 9]))], [picture()], IMAGES)
    b = branch([(np.array([1, 4]), np.array([-100, 4]))], [], IMAGES)
    row = pack_row([a, b, a], length=12, tiles=3, image_tokens=2)
    assert row.segment_ids.tolist() == [1] * 4 + [2] * 2 + [3] * 4 + [0] * 2
    assert row.image_index.tolist() == [-1, 0, 1, -1, -1, -1, -1, 2, 3, -1, -1, -1]
    assert row.pixels.shape == (3, 8, 8, 3)
    np.testing.assert_array_equal(row.pixels[1], a.pixels[0])
    assert not row.pixels[2].any()
    with pytest.raises(RecordError, match="10 tokens and 2 picture tiles do not fit a row of 9 tokens"):
        pack_row([a, b, a], length=9, tiles=3, image_tokens=2)


def test_pictures_are_padded_or_cropped_to_square():
    wide = Image.fromarray(np.full((20, 40, 3), 200, np.uint8))
    padded = fit_image(wide, "pad", 16, mean=(0.5, 0.5, 0.5))
    assert padded.shape == (16, 16, 3)
    assert np.all(padded[0] == 127)
    assert np.all(padded[8] == 200)
    assert np.all(fit_image(wide, "square", 16) == 200)
    values = preprocess_image(wide, "square", 16, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, (200 / 255 - 0.5) / 0.25, rtol=1e-6)
    with pytest.raises(ValueError, match="aspect 'round'"):
        fit_image(wide, "round", 16)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_every_mode_becomes_rgb(mode, tmp_path):
    path = tmp_path / "x.tiff"
    Image.new("RGB", (8, 8), (10, 200, 30)).convert(mode).save(path)
    assert open_image(path).mode == "RGB"


def test_unreadable_pictures_are_named(tmp_path):
    page = tmp_path / "page.png"
    page.write_text("<html>404</html>")
    with pytest.raises(RecordError, match=r"page\.png: not a readable picture"):
        open_image(page)
    with pytest.raises(RecordError, match=r"nothing\.png: no such picture"):
        open_image(tmp_path / "nothing.png")
    huge = tmp_path / "huge.png"
    Image.new("1", (20_000, 8_000)).save(huge)
    with pytest.raises(RecordError, match="pixels are more than"):
        open_image(huge)


def test_augmentation_keeps_the_shape(rng):
    pixels = picture(16).pixels[0]
    seen = {Augmentation(shift=2, flip=True)(pixels, rng).tobytes() for _ in range(50)}
    assert len(seen) > 20
    np.testing.assert_array_equal(Augmentation()(pixels, rng), pixels)


def test_easy_vqa_splits():
    counts = {split: load_records("easy_vqa/questions", split) for split in easy_vqa.SPLITS}
    assert [len(counts[split]) for split in easy_vqa.SPLITS] == [3600, 400, 1000]
    questions = {split: sum(len(r.conversations) for r in records) for split, records in counts.items()}
    assert questions["train"] + questions["validation"] == 38_575
    assert questions["test"] == 9_673
    assert not {r.images for r in counts["train"]} & {r.images for r in counts["validation"]}
    types = {tag["type"] for record in counts["test"] for tag in record.tags}
    assert types == {"yes/no", "color", "shape"}
    with pytest.raises(ValueError, match="no data source 'coco'"):
        load_records("coco", "train")


def test_captions_say_what_the_answers_say():
    """Every caption agrees with every answer about its picture, and every match with the caption."""
    questions = {record.id: record for record in load_records("easy_vqa/questions", "train")}
    for record in load_records("easy_vqa/matches", "train"):
        (_, color, shape) = record.conversations[0][1].text.split()
        for turns, tag in zip(questions[record.id].conversations, questions[record.id].tags, strict=True):
            if tag["type"] != "yes/no":
                assert turns[1].text == {"color": color, "shape": shape}[tag["type"]]
        assert len(record.conversations) == 12
        for turns in record.conversations[1:]:
            word = turns[0].text.removeprefix("<image>\n").removesuffix("?")
            assert turns[1].text == ("yes" if word in (color, shape) else "no")


def make_transform(tokenizer, conversations=2):
    row = RowFormat("short", ImageFormat("square", 32, (0.5, 0.5, 0.5), tokens=16), length=120)
    return ToRow(tokenizer, row, conversations, Augmentation(2, True))


@pytest.fixture(scope="module")
def records():
    return load_records("easy_vqa/questions", "train")[:24]


@pytest.fixture(scope="module")
def words(records, tmp_path_factory):
    texts = [turn.text for record in records for turns in record.conversations for turn in turns]
    return train_word_tokenizer(["USER: ASSISTANT:", *texts], tmp_path_factory.mktemp("words"))


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in vars(a))


def test_pipeline_is_a_function_of_its_seed_and_resumes_anywhere(records, words):
    def loader(seed):
        return iter(make_loader(records, make_transform(words), batch_size=4, seed=seed))

    straight = take(loader(3), 12)
    assert all(same(a, b) for a, b in zip(straight, take(loader(3), 12), strict=True))
    assert not same(straight[0], take(loader(4), 1)[0])
    stopped = loader(3)
    take(stopped, 5)
    state = json.loads(json.dumps(stopped.get_state()))
    resumed = loader(3)
    resumed.set_state(state)
    assert all(same(a, b) for a, b in zip(straight[5:], take(resumed, 7), strict=True))


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_every_record_once_per_epoch_over_all_hosts(records, words, hosts):
    row = RowFormat("short", ImageFormat("square", 32, (0.5, 0.5, 0.5), tokens=16), length=120)
    transform = ToRow(words, row, 1, Augmentation())
    share = len(records) // hosts
    epochs = [[], []]
    for host in range(hosts):
        loader = make_loader(records, transform, batch_size=1, seed=0, process_index=host, process_count=hosts)
        seen = [batch.pixels.tobytes() for batch in take(iter(loader), 2 * share)]
        epochs[0] += seen[:share]
        epochs[1] += seen[share:]
    everything = sorted(transform.random_map(r, np.random.default_rng(0)).pixels.tobytes() for r in records)
    assert len(set(everything)) == len(records)
    assert sorted(epochs[0]) == sorted(epochs[1]) == everything
    assert epochs[0] != epochs[1]


def test_augmentation_does_not_depend_on_the_number_of_hosts(records, words):
    def batches(host, hosts):
        loader = make_loader(
            records, make_transform(words), batch_size=1, seed=0, process_index=host, process_count=hosts
        )
        return take(iter(loader), 8)

    alone, first, second = batches(0, 1), batches(0, 2), batches(1, 2)
    assert all(same(alone[2 * i], first[i]) and same(alone[2 * i + 1], second[i]) for i in range(4))


def test_a_broken_picture_names_its_record(records, words, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not a picture")
    record = Record("row-17", (bad,), records[0].conversations)
    with pytest.raises(RecordError, match=r"record row-17: .*bad\.png: not a readable picture"):
        make_transform(words).random_map(record, np.random.default_rng(0))


def test_a_row_that_overflows_names_its_record(records, words):
    with pytest.raises(RecordError, match="do not fit a row of 120 tokens"):
        make_transform(words, conversations=50).random_map(
            Record("long", records[0].images, records[0].conversations * 3), np.random.default_rng(0)
        )


def test_tokenizer_folder_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
