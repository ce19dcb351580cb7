"""Rows of JSON files: where they are found, what makes a valid record of them, and what labels they get."""

import contextlib
import copy
import json
import os
import pickle
import random
import threading

import pytest

from mmfuser_jax.data import json_files, labels
from mmfuser_jax.data.json_files import JsonRows
from mmfuser_jax.data.llava_rows import record_from_llava
from mmfuser_jax.data.records import RecordError, turns_from_llava
from tests.llava_files import ids, opened, row, write_lines


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"", []),
        (b"\n \r\n\t\n", []),
        (b'{"a": 1}', [{"a": 1}]),
        (b'\xef\xbb\xbf{"a": "\xc3\xa9"}\r\n\r\n          \n  {"a": 2}\n\n', [{"a": "é"}, {"a": 2}]),
        (b'7\n\n"a"\n{"a": 3}', [7, "a", {"a": 3}]),
    ],
)
def test_lines_of_every_kind(tmp_path, monkeypatch, block, content, rows):
    monkeypatch.setattr(json_files, "BLOCK", block)
    (tmp_path / "rows.jsonl").write_bytes(content)
    source = JsonRows(tmp_path / "rows.jsonl", tmp_path)
    assert [source.row(index) for index in range(len(source))] == rows


def random_value(random, depth=0):
    """JSON that is hard to scan: brackets, quotes and backslashes in texts, nested and empty things."""
    kind = random.randrange(4 if depth > 3 else 6)
    if kind < 2:
        return "".join(random.choices('ab \\"{}[],\n中é', k=random.randrange(9)))
    if kind < 4:
        return random.choice([None, True, -1.5, 10**12, "", "<image>", "human", "gpt", "\\", "\ud83d"])
    if kind == 4:
        return [random_value(random, depth + 1) for _ in range(random.randrange(4))]
    return {
        random.choice(["from", "value", "id", "a\\"]): random_value(random, depth + 1)
        for _ in range(random.randrange(4))
    }


@pytest.mark.parametrize("block", [1, 2, 13, 100, 1 << 20])
def test_a_list_is_found_row_by_row(tmp_path, monkeypatch, block):
    monkeypatch.setattr(json_files, "BLOCK", block)
    generator = random.Random(block)
    for trial in range(25):
        rows = [{"a": random_value(generator)} for _ in range(trial % 5)]
        text = json.dumps(rows, indent=trial % 3 or None, separators=(",", ":") if trial % 2 else None)
        path = tmp_path / f"{trial}.json"
        path.write_bytes((b"\xef\xbb\xbf\n" if trial % 4 == 0 else b"") + text.encode() + b"\r\n " * (trial % 2))
        source = JsonRows(path, tmp_path)
        assert [source.row(index) for index in range(len(source))] == rows


@pytest.mark.parametrize("block", [3, 1 << 20])
@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"a": 1}', r"byte 0: expected \[.*\.jsonl"),
        ("", r"byte 0: expected \["),
        ("[", "byte 1: expected ]"),
        ('[{"a": 1}, {"b": "c', "byte 19: expected ].* cut off"),
        ('[{"a": 1}, {"b": [2]', "byte 11: the row that begins here does not end"),
        ('[{"a": 1}, {"b]', "byte 11: the row that begins here does not end"),
        ('[{"a": 1}, [2]]', "byte 11: expected {"),
        ("[1, 2]", "byte 1: expected a row or the end"),
        ('[{"a": 1} {"b": 2}]', "byte 9: expected one comma"),
        ('[{"a": 1}, 2, {"b": 2}]', "byte 9: expected one comma"),
        ('[{"a": 1},]', "byte 9: expected a row or the end"),
        ('[{"a": 1}], [{"b": 1}]', "byte 9: the list ends here, but the file goes on"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_rows_is_named(tmp_path, monkeypatch, block, content, match):
    monkeypatch.setattr(json_files, "BLOCK", block)
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(ValueError, match=rf"rows\.json: {match}"):
        JsonRows(tmp_path / "rows.json", tmp_path)


def test_rows_are_shared_by_threads_and_pickle_without_their_file(tmp_path):
    rows = JsonRows(write_lines(tmp_path / "rows.jsonl", [row(i) for i in range(200)]), tmp_path)
    assert rows[-1].id == "199"
    with pytest.raises(IndexError):
        rows[200]
    other, read = pickle.loads(pickle.dumps(rows)), {}
    threads = [threading.Thread(target=lambda k=k: read.update({k: ids(other)})) for k in range(4)]
    for thread in [*threads]:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(read.values()) == [[str(i) for i in range(200)]] * 4
    before = rows.fingerprint()
    assert JsonRows(rows.path, tmp_path).fingerprint() == before
    lines = [row(i) for i in range(200)]
    lines[3], lines[4] = row(3, answer="a caat"), row(4, answer="a ct")  # as many bytes
    assert JsonRows(write_lines(rows.path, lines), tmp_path).fingerprint() != before


def test_files_close_with_their_source(tmp_path):
    rows = JsonRows(write_lines(tmp_path / "rows.jsonl", [row(1)]), tmp_path)
    rows[0]
    file = rows._file
    os.fstat(file)
    del rows
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)


def test_broken_lines_are_named_by_file_and_number(tmp_path):
    (tmp_path / "rows.jsonl").write_text(
        '{"id": 1, \n[[[\n' + "[" * 100_000 + "\n\xff\n" + json.dumps(row(None)), "latin-1"
    )
    source = opened(tmp_path / "rows.jsonl")
    assert source[4].id == "rows.jsonl:4"
    for index in range(4):
        with pytest.raises(RecordError, match=rf"record rows\.jsonl:{index}: not JSON") as error:
            source[index]
        assert error.value.reason == "bad_json"


BAD_ROWS = [
    ("x", "schema"),
    ({}, "schema"),
    (row(1) | {"id": [1]}, "schema"),
    (row(1) | {"id": True}, "schema"),
    (row(1) | {"image": 5}, "schema"),
    (row(1) | {"image": ["a.jpg", None]}, "schema"),
    (row(1) | {"image": {"bytes": "a"}}, "schema"),
    (row(1) | {"conversations": "x"}, "schema"),
    (row(1) | {"conversations": ["x"]}, "schema"),
    (row(1) | {"conversations": []}, "empty_turn"),
    (row(1) | {"conversations": [{"from": None, "value": "hi"}]}, "schema"),
    (row(1) | {"conversations": {"from": ["human"], "value": []}}, "schema"),
    (row(1) | {"conversations": row(1)["conversations"][::-1]}, "alternation"),
    (row(1) | {"conversations": [{"from": "system", "value": "hi"}]}, "roles"),
    (row(1) | {"tags": ["a"]}, "schema"),
    (row(1) | {"tags": {"domain": 3}}, "schema"),
    (row(1, answer=" \n"), "empty_turn"),
    (row(1, answer="half \ud83d"), "schema"),
    (row(1, image="\ud83d.jpg"), "schema"),
    (row(1, image=None, question="<image> what?"), "image_markers"),
    (row(1, image=["a.jpg", "b.jpg"]), "image_markers"),
    (row(1, image="../a.jpg"), "image_path"),
    (row(1, image="a/../../a.jpg"), "image_path"),
    (row(1, image="/etc/a.jpg"), "image_path"),
    (row(1, image="a\0.jpg"), "image_path"),
    (row(1, image="."), "image_path"),
]


@pytest.mark.parametrize(("broken", "reason"), BAD_ROWS)
def test_broken_rows_have_a_reason(tmp_path, broken, reason):
    with pytest.raises(RecordError, match="record ") as error:
        record_from_llava(broken, "rows:7", tmp_path)
    assert error.value.reason == reason


def containers(value):
    """All that is not empty and can be written into."""
    if isinstance(value, dict | list) and value:
        yield value
        for part in value.values() if isinstance(value, dict) else value:
            yield from containers(part)


def test_no_row_whatsoever_breaks_otherwise(tmp_path):
    generator, good, forms = random.Random(0), 0, [{}, {"image": ["a.jpg"]}, {"image": {"bytes": b"jpg", "path": None}}]
    for trial in range(6000):
        value = row(1) | {"tags": {"domain": "cats"}} | copy.deepcopy(forms[trial % 3])
        for _ in range(generator.randrange(1, 4)):
            place = generator.choice(list(containers(value)))
            place[generator.choice(list(place) if isinstance(place, dict) else range(len(place)))] = random_value(
                generator
            )
        with contextlib.suppress(RecordError):
            record_from_llava(value, "rows:7", tmp_path)
            good += 1
    assert 100 < good < 5900


def test_rows_without_id_and_pictures_in_several_forms(tmp_path):
    pictures = [
        {"bytes": b"png", "path": "maps/a.png"},
        {"bytes": None, "path": "b.png"},
        b"jpg",
        str(tmp_path / "c.png"),
    ]
    turns = {"from": ["human", "gpt"], "value": ["<image>" * 4, "yes"]}
    record = record_from_llava({"images": pictures, "conversations": turns, "tags": {"source": "x"}}, "t:0", tmp_path)
    assert record.id == "t:0"
    assert record.images == (b"png", tmp_path / "b.png", b"jpg", tmp_path / "c.png")
    assert record.tags == ({"domain": "maps", "language": "en", "type": "judgement", "source": "x"},)
    assert record_from_llava(row(5, image=None) | {"image": ""}, "t", tmp_path).images == ()


LONG = "The man on the left looks happy because he has just won the race and his friends are cheering."
LABELS = [
    ("Describe this image in detail.", LONG, "en", "caption"),
    ("Please provide a description of the given picture.", LONG, "en", "caption"),
    ("", LONG, "en", "caption"),
    ("请详细描述这张图片的内容。", "图片中有一只猫坐在窗台上，看着外面的雨。", "zh", "caption"),
    ("Why does the man look happy?", LONG, "en", "long"),
    ("What objects are present in the image? Please answer in detail.", LONG, "en", "long"),
    ("为什么他很高兴？请给出详细的回答。", "他赢了。", "zh", "long"),
    ("What is it? Answer the question using a single word or phrase.", "yes", "en", "short"),
    ("图中的动物是什么？请用简短的语言回答。", "一只正在窗台上睡觉的橘色的小猫", "zh", "short"),
    ("What colour is the car?", "red", "en", "short"),
    ("Is there a cat? Please answer yes or no.", "Yes, there is.", "en", "judgement"),
    ("图中是否有猫？", "是。", "zh", "judgement"),
    ("Which film?\nA. Alien\nB. Jaws\nC. Heat\nD. Up", "B. Jaws", "en", "choice"),
    ("哪部电影？A．异形 B．大白鲨 C．盗火线", "B", "zh", "choice"),
    ("Which is right? Answer with the option's letter from the given choices directly.", "A", "en", "choice"),
    ("What does the sign say?", "The sign of the small shop on the corner says 欢迎光临 in red letters", "en", "long"),
]


@pytest.mark.parametrize(("question", "answer", "language", "kind"), LABELS)
def test_labels(question, answer, language, kind):
    turns = turns_from_llava(row(1, question=question, answer=answer)["conversations"])
    assert labels.detect(["posters/a/b.jpg"], turns) == {"domain": "posters", "language": language, "type": kind}
    assert "domain" not in labels.detect(["b.jpg"], turns)


def test_exchanges_that_differ_are_mixed():
    yes, red = (row(1, question=question, answer=answer)["conversations"] for question, answer in
                (("Is it red?", "yes"), ("Which colour?", "red")))  # fmt: skip
    assert labels.detect([], turns_from_llava(yes + yes))["type"] == "judgement"
    assert labels.detect([], turns_from_llava(yes + red))["type"] == "mixed"


def test_text_length_counts_words_and_characters():
    assert labels.text_length("a cat, two dogs\n") == 4
    assert labels.text_length("图中有2只猫，very cute。") == 8
    assert labels.text_length("") == 0
