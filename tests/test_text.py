"""Text against the reference: tokens, labels and prompts of stored conversations; and what must hold of any text."""

import gzip
import itertools
import json
import pickle
import shutil

import numpy as np
import pytest
import tokenizers
from conftest import GOLDEN
from tokenizers import AddedToken, decoders, models, normalizers

from mmfuser_jax.data import (
    TEMPLATES,
    Turn,
    encode_conversation,
    encode_prompt,
    get_template,
    load_tokenizer,
    prompt_text,
)
from mmfuser_jax.data.conversation import render
from mmfuser_jax.data.records import RecordError, turns_from_llava
from mmfuser_jax.data.templates import Style
from mmfuser_jax.data.tokenizer import train_word_tokenizer

TEXT = GOLDEN / "text"
TRAINED = ("plain", "v0", "v1", "v0_mmtag", "v1_mmtag", "llava_llama_2")
QUESTIONS = [Turn("human", "<image>\nWhat is this?"), Turn("gpt", "A cat."), Turn("human", "What colour?")]
TEXTS = [
    "A small red triangle.",
    "  two spaces, one behind ",
    "图中有一个人。他在骑车。",
    "mixed 中文 and 😀👩‍👧 and café naïve",
    "tabs\tand\n\nlines\r\n",
    "\x00 control, \u00a0 no-break, ﬁ ligature, e\u0301 combining",
    "1,234.5 <b>&amp;</b> {'a': [1]} \\n",
    "<0x0A> and < s > are only text",
    "",
]


def lines(name):
    data = (TEXT / name).read_bytes()
    text = gzip.decompress(data) if name.endswith(".gz") else data
    return [json.loads(line) for line in text.decode().splitlines()]


@pytest.fixture(scope="module")
def rows():
    return lines("conversations.jsonl.gz")


def folder_of(path, **files):
    """A tokenizer folder with the golden vocabulary and some JSON files."""
    shutil.copy(TEXT / "tokenizer.model", path)
    for name, fields in files.items():
        (path / f"{name}.json").write_text(json.dumps(fields))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("sentencepiece"))


@pytest.fixture(scope="module")
def slow(folder):
    """The golden tokenizer by its `legacy` rule."""
    return {legacy: load_tokenizer(folder, legacy) for legacy in (True, False)}


@pytest.fixture(scope="module")
def fast(slow, tmp_path_factory):
    """The same vocabulary as a `tokenizer.json`, as transformers 4.37 converts it."""
    pieces = slow[True]._model.ids
    pairs = [
        (pieces[piece], piece[:cut], piece[cut:])
        for piece in pieces
        for cut in range(1, len(piece))
        if not piece.startswith("<0x") and piece[:cut] in pieces and piece[cut:] in pieces
    ]
    bpe = models.BPE(pieces, [pair[1:] for pair in sorted(pairs)], unk_token="<unk>", byte_fallback=True)
    tokenizer = tokenizers.Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in ("<unk>", "<s>", "</s>")])
    path = tmp_path_factory.mktemp("json")
    tokenizer.save(str(path / "tokenizer.json"))
    return load_tokenizer(path)


@pytest.fixture(scope="module")
def multimodal(tmp_path_factory):
    """With tokens added after pre-training, as LLaVA's checkpoints have them."""
    return load_tokenizer(
        folder_of(
            tmp_path_factory.mktemp("multimodal"),
            tokenizer_config={"legacy": False, "pad_token": None},
            special_tokens_map={"pad_token": "<unk>", "additional_special_tokens": ["<im_start>", "<im_end>"]},
            added_tokens={"<im_patch>": 1000, "<im_start>": 1001, "<im_end>": 1002, "<im_end_of_all>": 1003},
        )
    )


def thrown_away(row):
    return all(label == -100 for label in row["labels"])


def encoded(row, tokenizer, template=None):
    limit = row["model_max_length"]
    ids, labels = encode_conversation(row["conversations"], tokenizer, template or row["template"], limit)
    return ids.tolist(), labels.tolist()


def expected(row):
    """The reference cuts rows with a picture only after its preprocessing."""
    limit = row["model_max_length"]
    return row["input_ids"][:limit], row["labels"][:limit]


def of(rows, template, legacy):
    found = [row for row in rows if (row["template"], row["legacy"]) == (template, legacy)]
    assert len(found) > 10
    return found


# --- Training text against the reference


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("template", TRAINED)
def test_conversations_equal_the_reference(rows, slow, template, legacy):
    chosen = of(rows, template, legacy)
    for row in chosen:
        ids, labels = encoded(row, slow[legacy])
        assert ids == expected(row)[0], row["record"]
        if not thrown_away(row):
            assert labels == expected(row)[1], row["record"]
    kept = [row for row in chosen if not thrown_away(row)]
    for other in set(TRAINED) - {template}:
        assert all(encoded(row, slow[legacy], other) != expected(row) for row in kept)


@pytest.mark.parametrize("template", ["v1", "v1_mmtag", "llava_llama_2"])
def test_the_legacy_rule_matters_after_the_first_answer(rows, slow, template):
    for legacy in (True, False):
        for row in of(rows, template, legacy):
            turns = turns_from_llava(row["conversations"])
            text = "".join(piece for piece, _ in render(turns, TEMPLATES[template]))
            assert (encoded(row, slow[not legacy])[0] != expected(row)[0]) == ("</s>" in text.removesuffix("</s>"))


@pytest.mark.parametrize("template", TRAINED)
def test_tokenizer_json_gives_the_same(rows, fast, template):
    for row in of(rows, template, True):
        ids, labels = encoded(row, fast)
        assert ids == expected(row)[0]
        assert labels == expected(row)[1] or thrown_away(row)


def test_rows_that_the_reference_throws_away_are_supervised_as_the_others(rows, slow):
    """Answers and their end tokens, no more and no less; spaces are not compared, for decoding drops some."""
    thrown = [row for row in rows if thrown_away(row)]
    assert len(thrown) > 40
    for row in thrown:
        tokenizer = slow[row["legacy"]]
        ids, labels = encoded(row, tokenizer)
        kept = [label for label in labels if label != -100]
        assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
        answers = [turn["value"] for turn in row["conversations"] if turn["from"] == "gpt"]
        spoken = "".join(f"{answer}</s>" for answer in answers if answer)
        assert kept.count(tokenizer.eos_id) == spoken.count("</s>")
        assert "".join(tokenizer.decode(kept).split()) == "".join(spoken.replace("</s>", "").split())


def test_counting_tokens_of_parts_would_not_do(rows, slow):
    """The reference's rule, parts tokenised by themselves, loses step where ours does not."""
    tokenizer = slow[False]
    whole = tokenizer.encode("USER: a ASSISTANT: b</s>USER: c ASSISTANT: d</s>").ids
    parts = [[*tokenizer.encode(f"USER: {a} ASSISTANT: {b}").ids, tokenizer.eos_id] for a, b in ("ab", "cd")]
    assert len(whole) != sum(map(len, parts))


# --- What the rules say, on small texts


def talk(*values, first="human"):
    roles = itertools.islice(itertools.cycle(("human", "gpt") if first == "human" else ("gpt", "human")), len(values))
    return [{"from": role, "value": value} for role, value in zip(roles, values, strict=True)]


def shown(pieces):
    """Text with the supervised pieces in brackets."""
    return "".join(f"[{text}]" if flag else text for text, flag in pieces)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("short", "USER: <image>\nWhat is this? ASSISTANT:[ A cat.</s>]USER: What colour? "),
        ("v0", "{system}\n\n[###] Human: <image>\nWhat is this?\n[### Assistant: A cat.\n][###] Human: What colour?\n[### ]"),
        (
            "mistral_instruct",
            "[INST] <image>\nWhat is this? [/INST][ A cat. </s>][INST] What colour? [/INST]",
        ),
        (
            "mpt",
            "<|im_start|>system\n{system}<|im_end|><|im_start|>user\n<image>\nWhat is this?<|im_end|>"
            "<|im_start|>assistant\n[A cat.<|im_end|>]<|im_start|>user\nWhat colour?<|im_end|>",
        ),
        ("plain", "<image>[A cat.\n]"),
    ],
)  # fmt: skip
def test_training_text(template, text):
    assert shown(render(QUESTIONS, TEMPLATES[template])) == text.replace("{system}", TEMPLATES[template].system)


def test_turns_without_words_leave_their_header():
    turns = [Turn("human", ""), Turn("gpt", ""), Turn("human", "x"), Turn("gpt", "y")]
    assert shown(render(turns, TEMPLATES["short"])) == "USER:ASSISTANT:USER: x ASSISTANT:[ y</s>]"
    assert shown(render(turns, TEMPLATES["mistral_instruct"])) == "[INST] x [/INST][ y </s>]"


def test_conversations_begin_with_the_human():
    turns = [Turn("gpt", "opening"), *QUESTIONS]
    assert render(turns, TEMPLATES["v1"]) == render(QUESTIONS, TEMPLATES["v1"])
    assert "opening" in shown(render(turns, TEMPLATES["v0"]))
    with pytest.raises(RecordError, match="turn 1 is by human, expected gpt"):
        render([Turn("human", "a"), Turn("human", "b")], TEMPLATES["v1"])


@pytest.mark.parametrize(
    ("value", "images", "text"),
    [
        ("Look at <image> here", 1, "<image>\nLook at  here"),
        ("  <image>", 1, "<image>"),
        ("  no picture ", 1, "  no picture "),
        ("<image>\n<image>\nWhich?", 1, "<image>\nWhich?"),
        ("<image>\n<image>\nWhich?", 2, "<image>\n<image>\nWhich?"),
        ("<image> or <image>, not <image>?", 2, "<image>\n<image>\nor , not ?"),
        ("<image> gone", 0, " gone"),
    ],
)
def test_pictures_of_a_turn(slow, value, images, text):
    got = encode_conversation(talk(value, "yes"), slow[False], "short", images=images)
    want = encode_conversation(talk(text, "yes"), slow[False], "short", images=9)
    np.testing.assert_array_equal(got, want)
    assert (got[0] == -200).sum() == text.count("<image>")


def test_pictures_of_several_turns_are_kept(slow):
    ids, _ = encode_conversation(talk("<image>\none", "a", "two <image>", "b"), slow[True], "v1", images=2)
    assert (ids == -200).sum() == 2


def test_pictures_are_framed_as_asked(multimodal):
    frame = [multimodal._require("<im_start>"), -200, multimodal._require("<im_end>")]
    for ids in (
        encode_conversation(talk("<image>\nHi", "a"), multimodal, "v1", im_start_end=True)[0],
        encode_prompt(QUESTIONS, multimodal, "v1", im_start_end=True),
    ):
        place = ids.tolist().index(-200)
        assert ids[place - 1 : place + 2].tolist() == frame
    assert frame[0] not in encode_conversation(talk("<image>\nHi", "a"), multimodal, "v1")[0]
    tagged = get_template("v1_mmtag", im_start_end=True)
    assert "USER: <Image><im_start><image><im_end></Image>\nWhat is this? " in dict(render(QUESTIONS, tagged))


# --- Prompts


@pytest.mark.parametrize("row", lines("prompts.jsonl"), ids=lambda row: row["template"])
def test_prompts_equal_the_reference(row, slow):
    template = TEMPLATES[row["template"]]
    assert prompt_text(QUESTIONS, template) == row["prompt"]
    assert template.stop == row["stop"]
    assert prompt_text(QUESTIONS[:1], template) != row["prompt"]
    ids = encode_prompt(QUESTIONS, slow[True], row["template"])
    before, after = row["prompt"].split("<image>")
    assert ids.tolist() == [1, *slow[True].encode(before).ids, -200, *slow[True].encode(after).ids]


def test_prompts_are_what_training_continues(slow):
    """Except where the reference trains on other text than it prompts with."""
    for name, template in TEMPLATES.items():
        ids, labels = encode_conversation(talk("<image>\nWhat is this?", "A cat."), slow[False], name)
        prompt = encode_prompt(QUESTIONS[:1], slow[False], name)
        begins = ids[: len(prompt)].tolist() == prompt.tolist() and bool((labels[: len(prompt)] == -100).all())
        assert begins == (template.style is not Style.SECTIONS and not template.mmtag), name


# --- Tokenizers


@pytest.mark.parametrize("kind", ["legacy", "not legacy", "multimodal", "json"])
def test_any_text_comes_back_and_offsets_cover_it(kind, slow, multimodal, fast):
    tokenizer = {"legacy": slow[True], "not legacy": slow[False], "multimodal": multimodal, "json": fast}[kind]
    for text in TEXTS + ["".join(pair) for pair in itertools.permutations(TEXTS, 2)]:
        encoding = tokenizer.encode(text)
        assert tokenizer.decode(encoding.ids) == text.strip()
        check_offsets(encoding, text)


def check_offsets(encoding, text):
    begins, ends = ([offset[i] for offset in encoding.offsets] for i in (0, 1))
    assert begins == sorted(begins)
    assert ends == sorted(ends)
    assert all(begin < end for begin, end in encoding.offsets)
    assert {i for begin, end in encoding.offsets for i in range(begin, end)} == set(range(len(text)))


def pieces(tokenizer, text):
    names = {index: piece for piece, index in tokenizer._model.ids.items()}
    names |= {token.id: token.text for token in tokenizer._added.values()}
    return [names[index] for index in tokenizer.encode(text).ids]


@pytest.mark.parametrize(
    ("text", "legacy", "not_legacy"),
    [
        ("the</s>the", "▁the </s> ▁the", "▁the </s> t he"),
        ("</s>the", "</s> ▁the", "</s> t he"),
        ("the</s> the", "▁the </s> ▁ ▁the", "▁the </s> ▁the"),
        (" the", "▁ ▁the", "▁ ▁the"),
        (" </s>", "▁ ▁ </s>", "▁ ▁ </s>"),
        ("<s></s>", "<s> </s>", "<s> </s>"),
        ("é", "▁ <0xC3> <0xA9>", "▁ <0xC3> <0xA9>"),
        ("中</s>中", "▁ 中 </s> ▁ 中", "▁ 中 </s> 中"),
        ("▁the", "▁ ▁the", "▁ ▁the"),
        ("", "", ""),
    ],
)
def test_where_the_space_goes(slow, text, legacy, not_legacy):
    assert pieces(slow[True], text) == legacy.split()
    assert pieces(slow[False], text) == not_legacy.split()
    for tokenizer in slow.values():
        check_offsets(tokenizer.encode(text), text)


def test_bytes_of_a_character_share_its_span(slow):
    offsets = slow[True].encode("a😀b").offsets
    assert offsets == [(0, 1), (1, 2), (1, 2), (1, 2), (1, 2), (2, 3)]


def test_added_tokens_are_split_off(multimodal):
    assert multimodal.vocab_size == 1004
    assert not multimodal.legacy
    text = "<im_start>the<im_patch> the</s><im_end_of_all>"
    assert pieces(multimodal, text) == ["<im_start>", "t", "he", "<im_patch>", "▁the", "</s>", "<im_end_of_all>"]
    check_offsets(multimodal.encode(text), text)
    # The config does not name <im_patch> as special: the space before the text stays, and decoding shows the token.
    assert pieces(multimodal, "<im_patch>") == ["▁", "<im_patch>"]
    assert multimodal.decode(multimodal.encode(text).ids) == "the<im_patch> the<im_end_of_all>"
    assert multimodal.decode([-200, 1, *multimodal.encode("the").ids, 5000]) == "the"


def test_added_tokens_of_newer_folders(tmp_path):
    added = {"1000": {"content": "<mask>", "lstrip": True, "rstrip": False, "special": True}}
    config = {"added_tokens_decoder": added, "mask_token": {"content": "<mask>"}, "eos_token": {"content": "</s>"}}
    tokenizer = load_tokenizer(folder_of(tmp_path, tokenizer_config=config))
    assert pieces(tokenizer, "the  <mask> the") == ["▁the", "<mask>", "▁", "▁the"]
    check_offsets(tokenizer.encode("the  <mask> the"), "the  <mask> the")
    assert tokenizer.decode(tokenizer.encode("the<mask>").ids) == "the"


def test_legacy_comes_from_the_config_unless_given(tmp_path, folder):
    folder_of(tmp_path, tokenizer_config={"legacy": False})
    assert load_tokenizer(folder).legacy is True
    assert load_tokenizer(tmp_path).legacy is False
    assert load_tokenizer(tmp_path, legacy=True).legacy is True


def test_tokenizers_travel_to_loader_workers(slow):
    for tokenizer in slow.values():
        copy = pickle.loads(pickle.dumps(tokenizer))
        assert copy.encode("the</s>the") == tokenizer.encode("the</s>the")


def test_sentencepiece_goes_before_json(folder, tmp_path):
    train_word_tokenizer(["the"], tmp_path)
    assert load_tokenizer(tmp_path).vocab_size == 4
    with pytest.raises(ValueError, match=r"tokenizer\.json: legacy=True is a rule of tokenizer\.model only"):
        load_tokenizer(tmp_path, legacy=True)
    assert load_tokenizer(folder_of(tmp_path)).vocab_size == 1000


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({}, r"no tokenizer\.model and no tokenizer\.json"),
        ({"tokenizer.model": "<html>404</html>"}, r"tokenizer\.model: not a sentencepiece model"),
        ({"tokenizer.model": ""}, r"tokenizer\.model: not a sentencepiece model"),
        ({"tokenizer.json": "<html>404</html>"}, r"tokenizer\.json: not a tokenizer"),
        ({"tokenizer_config.json": "{"}, r"tokenizer_config\.json: not JSON"),
        ({"added_tokens.json": "[]"}, r"added_tokens\.json: not a JSON object"),
        ({"tokenizer_config.json": '{"eos_token": "<end>"}'}, r"tokenizer\.model: no token '<end>'"),
        ({"tokenizer_config.json": '{"added_tokens_decoder": {"7": "x"}}'}, "added tokens not as transformers saves"),
    ],
)
def test_broken_folders_are_named(tmp_path, files, match):
    if any(name not in ("tokenizer.model", "tokenizer.json") for name in files):
        folder_of(tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises((FileNotFoundError, ValueError), match=match) as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_special_tokens_follow_the_config(tmp_path):
    """No <unk> (as in LLaMA 3): padding is another token; no first token where the config says so."""
    train_word_tokenizer(["USER: ASSISTANT: hi"], tmp_path)
    assert load_tokenizer(tmp_path).starts == [1]
    config = {"unk_token": "<nothing>", "pad_token": "hi", "add_bos_token": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    hi = tokenizer.encode("hi").ids
    assert [tokenizer.pad_id] == hi
    assert encode_conversation([{"from": "human", "value": "hi"}], tokenizer, "short")[0].tolist()[0] != 1
