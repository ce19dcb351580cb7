"""Records, templates and masks, packing, pictures, and the resumable pipeline."""

import jax
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
from mmfuser_jax.data.images import fit_image, open_image, upright_size
from mmfuser_jax.data.packing import branch, expand_images, pack_rows, plan_rows, truncate
from mmfuser_jax.data.pictures import ImageFormat, Picture
from mmfuser_jax.data.records import RecordError, turns_from_llava
from mmfuser_jax.data.resize import fast_resize
from mmfuser_jax.data.rows import Augmentation
from mmfuser_jax.data.sources import SourceSpec, open_source
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
    batch = pack_rows([[a, b, a], []], length=12, tiles=3, images=IMAGES)
    row, empty = (jax.tree.map(lambda x, i=i: x[i], batch) for i in (0, 1))
    assert not empty.segment_ids.any()
    assert (empty.targets == -100).all()
    assert row.segment_ids.tolist() == [1] * 4 + [2] * 2 + [3] * 4 + [0] * 2
    assert row.image_index.tolist() == [-1, 0, 1, -1, -1, -1, -1, 2, 3, -1, -1, -1]
    assert row.pixels.shape == (3, 8, 8, 3)
    np.testing.assert_array_equal(row.pixels[1], a.pictures[0].pixels[0])
    assert not row.pixels[2].any()
    with pytest.raises(RecordError, match="10 tokens and 2 picture tiles do not fit a row of 9 tokens"):
        pack_rows([[a, b, a]], length=9, tiles=3, images=IMAGES)


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


@pytest.mark.parametrize("size", [336, 224, 112, 37])
def test_padding_is_resized_as_if_all_of_the_square_were(size, rng):
    """Only the lines that show the picture are resized; the rest is known. The fast way is a level off at times."""
    for width, height in ((500, 375), (375, 500), (640, 1), (1, 640), (100, 99), (size, size), (40, 30), (901, 33)):
        levels = Image.fromarray(rng.integers(0, 256, (height // 3 + 1, width // 3 + 1, 3)).astype(np.uint8))
        image = levels.resize((width, height), Image.Resampling.BICUBIC)
        side = max(width, height)
        square = Image.new("RGB", (side, side), (122, 116, 104))
        square.paste(image, ((side - width) // 2, (side - height) // 2))
        whole = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC)).astype(int)
        np.testing.assert_array_equal(fit_image(image, "pad", size), whole)
        off = np.abs(fit_image(image, "pad", size, resize=fast_resize) - whole)
        assert off.max() <= 2
        assert (off > 1).mean() < 1e-4  # and none of real pictures, see test_bench.py
        assert (off > 0).mean() < 0.02


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
    with pytest.raises(RecordError, match="more than 64,000,000 pixels"):
        open_image(huge)


def test_16_bit_and_turned_pictures_look_as_people_see_them(tmp_path):
    grey = np.array([[0, 100, 30_000, 65_535]] * 3, np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.asarray(open_image(tmp_path / "grey.png"))[0, :, 0].tolist() == [0, 0, 117, 255]
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    half = np.zeros((8, 16, 3), np.uint8)
    half[:, :8] = 255
    Image.fromarray(half).save(tmp_path / "turned.png", exif=exif)
    content = (tmp_path / "turned.png").read_bytes()
    for file in (tmp_path / "turned.png", content):
        turned = open_image(file)
        assert turned.size == upright_size(file) == (8, 16)
        assert np.asarray(turned)[0].all()
        assert not np.asarray(turned)[-1].any()


def test_truncation_keeps_pictures_whole():
    ids = np.array([1, -200, 5, 6, 7, -200, 8, 9])
    labels = np.array([-100, -100, -100, 6, 7, -100, -100, 9])
    example = branch([(ids, labels)], [picture(), picture()], IMAGES)
    assert truncate(example, 10) is example
    for length, kept, pictures in ((9, 9, 2), (8, 8, 2), (7, 6, 1), (6, 6, 1), (5, 5, 1)):
        cut = truncate(example, length)
        assert (cut.length, len(cut.pictures)) == (kept, pictures), length
        assert (cut.image_index >= 0).sum() == 2 * pictures
        assert cut.targets.tolist() == [*example.targets[: kept - 1].tolist(), -100]
    with pytest.raises(RecordError, match="10 tokens, and no answer among the first 1") as error:
        truncate(example, 2)
    assert error.value.reason == "too_long"


def test_rows_are_planned_full_and_complete(rng):
    lengths, tiles = rng.integers(5, 60, 300), rng.integers(0, 3, 300)
    rows = plan_rows(lengths.tolist(), tiles.tolist(), 100, 6)
    assert sorted(i for row in rows for i in row) == list(range(300))
    assert all(lengths[row].sum() <= 100 and tiles[row].sum() <= 6 for row in rows)
    assert lengths.sum() / (100 * len(rows)) > 0.95
    few = plan_rows(lengths.tolist(), [3] * 300, 100, 6)  # pictures can be what fills a row
    assert max(map(len, few)) == 2


def test_augmentation_keeps_the_shape(rng):
    pixels = picture(16).pixels[0]
    seen = {Augmentation(shift=2, flip=True)(pixels, rng).tobytes() for _ in range(50)}
    assert len(seen) > 20
    np.testing.assert_array_equal(Augmentation()(pixels, rng), pixels)


def test_easy_vqa_splits():
    counts = {split: open_source(SourceSpec("easy_vqa/questions", split)) for split in easy_vqa.SPLITS}
    assert [len(counts[split]) for split in easy_vqa.SPLITS] == [3600, 400, 1000]
    questions = {split: sum(len(r.conversations) for r in records) for split, records in counts.items()}
    assert questions["train"] + questions["validation"] == 38_575
    assert questions["test"] == 9_673
    assert not {r.images for r in counts["train"]} & {r.images for r in counts["validation"]}
    types = {tag["type"] for record in counts["test"] for tag in record.tags}
    assert types == {"yes/no", "color", "shape"}
    with pytest.raises(ValueError, match="coco"):
        open_source(SourceSpec("coco", "train"))


def test_captions_say_what_the_answers_say():
    """Every caption agrees with every answer about its picture, and every match with the caption."""
    questions = {record.id: record for record in open_source(SourceSpec("easy_vqa/questions", "train"))}
    for record in open_source(SourceSpec("easy_vqa/matches", "train")):
        (_, color, shape) = record.conversations[0][1].text.split()
        for turns, tag in zip(questions[record.id].conversations, questions[record.id].tags, strict=True):
            if tag["type"] != "yes/no":
                assert turns[1].text == {"color": color, "shape": shape}[tag["type"]]
        assert len(record.conversations) == 12
        for turns in record.conversations[1:]:
            word = turns[0].text.removeprefix("<image>\n").removesuffix("?")
            assert turns[1].text == ("yes" if word in (color, shape) else "no")


def test_tokenizer_folder_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
