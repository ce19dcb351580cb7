"""Questions of public sets come out of the files that their authors publish, each with its picture or a reason why not."""

import json
import shutil

import pytest
from PIL import Image

from mmfuser_jax.mminstruct.public_sets import FORMATS, Imported, PublicSetError, Unusable, imported
from mmfuser_jax.mminstruct.questions.items import LETTERS, TYPES, Item
from mmfuser_jax.mminstruct.reasons import SETS as REASONS


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (200, 30, 30)).save(path)


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def dvqa(folder):
    draw(folder / "images/bar_train_00000001.png")
    row = {"image": "bar_train_00000001.png", "template_id": "data", "answer_bbox": []}
    write(folder / "train_qa.json", [
        {**row, "question_id": 7, "question": "Are the bars horizontal?", "answer": "no"},
        {**row, "question_id": 8, "question": "How many bars are there?", "answer": "three"},
        {**row, "question_id": 9, "question": "How many bars are there?", "answer": "two", "image": "gone.png"},
        {**row, "question_id": 10, "question": "How many bars are there?", "answer": "two", "image": "../train_qa.json"},
        {**row, "question": "How many bars are there?", "answer": 3},
    ])  # fmt: skip
    title = {**row, "question_id": 7, "question": "What is the title?", "answer": "Sales"}
    write(folder / "val_easy_qa.json", f'[{json.dumps(title)}, {{"question_id": tru}}]')
    return folder


def figureqa(folder):
    draw(folder / "train1/png/0.png")
    draw(folder / "no_annot_test1/png/4.png")
    row = {"question_string": "Is Red the maximum?", "question_id": 0, "image_index": 0, "color1_name": "Red"}
    write(folder / "train1/qa_pairs.json", {"qa_pairs": [
        {**row, "answer": 1}, {**row, "answer": 0}, {**row, "answer": 2}, {**row, "answer": 1, "image_index": 5},
    ], "total_distinct_questions": 15})  # fmt: skip
    write(folder / "no_annot_test1/qa_pairs.json", {"qa_pairs": [{**row, "image_index": 4}]})
    return folder


def tabmwp(folder):
    for number in ("16", "17", "18", "19"):
        draw(folder / f"tables/{number}.png")
    row = {"choices": None, "unit": None, "table": "a | 1", "ques_type": "free_text", "solution": "Add.\n\n2 + 2 = 4."}
    problems = {
        "16": {**row, "question": "What do both cost?", "answer": "4", "unit": "$"},
        "17": {**row, "question": "Is there a shortage?", "choices": ["surplus", "shortage"], "answer": "shortage"},
        "18": {**row, "question": "Can she afford both?", "choices": ["yes", "no"], "answer": "no"},
        "19": {**row, "question": "Which is it?", "choices": ["red", "blue"], "answer": "green"},
        "20": {**row, "question": "What do both cost?", "answer": "4"},
        "21": "no problem",
    }
    write(folder / "problems_train.json", problems)
    write(folder / "problems_test1k.json", {"16": problems["16"]})
    return folder


def geometry3k(folder):
    row = {"problem_text": "Find x .", "compact_text": "Find x.", "annotat_text": "Find $x$.", "answer": "B",
           "choices": ["3 \\sqrt { 2 }", "-3", "3", "9"], "compact_choices": ["3 \\sqrt{2}", "-3", "3", "9"],
           "detailed_solution": " "}  # fmt: skip
    rows = {"train/0": row, "train/1": {**row, "answer": "E"}, "val/2": {**row, "compact_choices": ["3", "3", "4", "5"]},
            "val/3": {**row, "compact_choices": ["3"]}, "test/4": "{", "test/5": {**row, "compact_choices": None},
            "test/6": row, "test/7": {**row, "answer": "AB"}}  # fmt: skip
    for name, fields in rows.items():
        write(folder / name / "data.json", fields)
        if name != "test/6":
            draw(folder / name / "img_diagram.png")
    return folder


def clevr_math(folder):
    draw(folder / "CLEVR_v1.0/images/train/CLEVR_train_000000.png")
    row = {"question": "Remove all cubes. How many things are left?", "split": "train", "program": [{"inputs": []}],
           "image_filename": "CLEVR_train_000000.png", "template_filename": "subtraction.json"}  # fmt: skip
    write(folder / "clevr-math-train.json", {"info": {"split": "train", "questions": 0}, "questions": [
        {**row, "answer": 5}, {**row, "answer": 0}, {**row, "answer": "some"},
        {**row, "answer": 1, "image_filename": "CLEVR_train_000001.png"},
    ]})  # fmt: skip
    return folder


def tqa(folder):
    draw(folder / "train/question_images/cell_1.png")

    def question(answer, **fields):
        options = {letter: {"processedText": text, "rawText": f"{letter}. {text}"} for letter, text in
                   (("a", "nucleus"), ("b", "wall"), ("c", "TT"), ("d", "Tt"))}  # fmt: skip
        return {"beingAsked": {"processedText": "What is D?"}, "correctAnswer": {"processedText": answer},
                "answerChoices": options, "imagePath": "question_images/cell_1.png", **fields}  # fmt: skip

    questions = {
        "diagramQuestions": {"DQ_1": question("d"), "DQ_2": question("e"), "DQ_3": question("a", beingAsked={})},
        "nonDiagramQuestions": {"NDQ_1": question("a"), "NDQ_2": question("b")},
    }
    write(folder / "train/tqa_v1_train.json", [{"globalID": "L_1", "questions": questions}, {"globalID": "L_2"}])
    return folder


MAKERS = {"clevr_math": clevr_math, "dvqa": dvqa, "figureqa": figureqa, "geometry3k": geometry3k, "tabmwp": tabmwp,
          "tqa": tqa}  # fmt: skip

SOLUTION = "Add.\n\n2 + 2 = 4."
LEFT = "Remove all cubes. How many things are left?"

EXPECTED = {
    "dvqa": {
        "train/7": Item("judgement", "Are the bars horizontal?", "no"),
        "train/8": Item("short", "How many bars are there?", "three"),
        "train/9": "missing_image",
        "train/10": "image_path",
        "train/row 4": "field",
        "val_easy/7": Item("short", "What is the title?", "Sales"),
        "val_easy/row 1": "bad_json",
    },
    "figureqa": {
        "train1/0": Item("judgement", "Is Red the maximum?", "yes"),
        "train1/1": Item("judgement", "Is Red the maximum?", "no"),
        "train1/2": "field",
        "train1/3": "missing_image",
        "no_annot_test1/0": "no_answer",
    },
    "tabmwp": {
        "train/16": Item("short", "What do both cost? (Unit: $)", "4"),
        "train/16/long": Item("long", "What do both cost? (Unit: $)", SOLUTION),
        "train/17": Item("choice", "Is there a shortage?", "B", ("surplus", "shortage")),
        "train/17/long": Item("long", "Is there a shortage?", SOLUTION),
        "train/18": Item("judgement", "Can she afford both?", "no"),
        "train/18/long": Item("long", "Can she afford both?", SOLUTION),
        "train/19": "answer_is_no_option",
        "train/20": "missing_image",
        "train/21": "field",
    },
    "geometry3k": {
        "train/0": Item("choice", "Find $x$.", "B", ("3 \\sqrt{2}", "-3", "3", "9")),
        "train/1": "answer_is_no_option",
        "val/2": "same_options",
        "val/3": "few_options",
        "test/4": "bad_json",
        "test/5": "field",
        "test/6": "missing_image",
        "test/7": "answer_is_no_option",
    },
    "clevr_math": {
        "train/0": Item("short", LEFT, "5"),
        "train/1": Item("short", LEFT, "0"),
        "train/2": "field",
        "train/3": "missing_image",
    },
    "tqa": {
        "train/DQ_1": Item("choice", "What is D?", "D", ("nucleus", "wall", "TT", "Tt")),
        "train/DQ_2": "answer_is_no_option",
        "train/DQ_3": "field",
        "train/NDQ_1": "no_picture",
        "train/NDQ_2": "no_picture",
        "train/lesson 1": "field",
    },
}

SPLITS = {name: list(dict.fromkeys(row.split("/")[0] for row in rows)) for name, rows in EXPECTED.items()}


def outcome(found):
    return found.item if isinstance(found, Imported) else found.reason


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_question_becomes_an_item_or_has_its_reason(tmp_path, name):
    found = list(FORMATS[name](MAKERS[name](tmp_path), SPLITS[name]))
    assert {x.name: outcome(x) for x in found} == EXPECTED[name]
    assert len({x.name for x in found}) == len(found)
    for x in found:
        if isinstance(x, Unusable):
            assert x.reason in REASONS
            assert x.text
        else:
            assert x.item.type in TYPES
            assert x.file.read_bytes().startswith(b"\x89PNG")
            assert x.file.is_relative_to(tmp_path)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_reading_again_gives_the_same_names(tmp_path, name):
    folder = MAKERS[name](tmp_path)
    assert list(FORMATS[name](folder, SPLITS[name])) == list(FORMATS[name](folder, SPLITS[name]))


def names_of(name, folder, splits):
    return [found.name for found in FORMATS[name](folder, splits)]


@pytest.mark.parametrize(("name", "split"), [(name, split) for name, splits in SPLITS.items() for split in splits])
def test_of_other_splits_nothing_is_read(tmp_path, name, split):
    names = names_of(name, MAKERS[name](tmp_path), [split])
    assert sorted(names) == sorted(row for row in EXPECTED[name] if row.startswith(f"{split}/"))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("train", "train1"),
        ("validation", "validation1 validation2"),
        ("validation2", "validation2"),
        ("validation1 validation", "validation1 validation2"),
    ],
)
def test_a_split_in_parts_may_be_named_without_their_numbers(tmp_path, names, expected):
    folder = figureqa(tmp_path)
    for split in ("validation1", "validation2"):
        shutil.copytree(folder / "train1", folder / split)
    read = names_of("figureqa", folder, names.split())
    assert list(dict.fromkeys(name.split("/")[0] for name in read)) == expected.split()


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("split", ["trial", "tr", ""])
def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path, name, split):
    there = ", ".join(sorted(SPLITS[name]))
    with pytest.raises(PublicSetError, match=rf"{tmp_path}: splits: no '{split}' of \S+ is here; there are {there}$"):
        FORMATS[name](MAKERS[name](tmp_path), ["train", split])


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("other", ["nowhere", "empty", "another set"])
def test_a_folder_that_is_not_the_set_is_refused_when_the_reader_is_called(tmp_path, name, other):
    folder = tmp_path / other
    if other != "nowhere":
        folder.mkdir()
    if other == "another set":
        MAKERS["dvqa" if name != "dvqa" else "tqa"](folder)
    with pytest.raises(PublicSetError, match=rf"{other}: does not look like \w+.*: expected \S+ in it"):
        FORMATS[name](folder, SPLITS[name])


@pytest.mark.parametrize(("name", "pictures"), [("dvqa", "images"), ("tabmwp", "tables"), ("clevr_math", "CLEVR_v1.0")])
def test_a_set_without_its_folder_of_pictures_is_refused_at_once(tmp_path, name, pictures):
    folder = MAKERS[name](tmp_path)
    shutil.rmtree(folder / pictures)
    with pytest.raises(PublicSetError, match=f"expected {pictures}"):
        FORMATS[name](folder, SPLITS[name])


@pytest.mark.parametrize(
    ("name", "file", "text", "match"),
    [
        ("dvqa", "train_qa.json", '{"a": 1}', r"train_qa.json: byte 0: expected \["),
        ("tqa", "train/tqa_v1_train.json", '[{"globalID": "L_1"', "tqa_v1_train.json: byte"),
        ("tabmwp", "problems_train.json", "[]", "problems_train.json: not a JSON object"),
        ("tabmwp", "problems_train.json", "{", "problems_train.json: not JSON"),
        ("figureqa", "train1/qa_pairs.json", "[]", r'qa_pairs.json: expected a list under "qa_pairs"'),
        ("figureqa", "train1/qa_pairs.json", '{"qa_pairs": [{}, {"a"', "cut off, after row 1 of 'qa_pairs'"),
        ("clevr_math", "clevr-math-train.json", '{"questions": [{"a": 1} oh]', "after row 1 of 'questions'"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(tmp_path, name, file, text, match):
    folder = MAKERS[name](tmp_path)
    (folder / file).write_text(text)
    with pytest.raises(PublicSetError, match=match):
        list(FORMATS[name](folder, ["train"]))


@pytest.mark.parametrize("block", [128, 200, 1 << 20])
def test_rows_come_out_whole_wherever_the_blocks_of_a_file_end(tmp_path, monkeypatch, block):
    rows = [{"n": n, "text": '[{]}, "“é”\\' + "x" * (n % 30)} for n in range(200)]
    write(tmp_path / "file.json", {"info": {"n": 1}, "rows": rows, "more": 2})
    monkeypatch.setattr(imported, "BLOCK", block)
    assert list(imported.rows_under(tmp_path / "file.json", "rows")) == rows


def test_a_large_file_is_read_as_far_as_it_is_asked_for(tmp_path, monkeypatch):
    folder = figureqa(tmp_path)
    rows = json.dumps(json.loads((folder / "train1/qa_pairs.json").read_text())["qa_pairs"][0])
    (folder / "train1/qa_pairs.json").write_text(f'{{"qa_pairs": [{", ".join([rows] * 50)}, and this is no JSON')
    monkeypatch.setattr(imported, "BLOCK", 4 * len(rows))
    found = FORMATS["figureqa"](folder, ["train"])
    assert [next(found).name for _ in range(50)] == [f"train1/{place}" for place in range(50)]
    with pytest.raises(PublicSetError, match="after row 50"):
        next(found)


def test_bytes_that_are_no_text_refuse_one_question_and_no_other(tmp_path):
    folder = figureqa(tmp_path)
    path = folder / "train1/qa_pairs.json"
    path.write_bytes(path.read_bytes().replace(b"Is Red", b"Is \xff\xfe", 1))
    outcomes = [outcome(x) for x in FORMATS["figureqa"](folder, ["train"])]
    assert outcomes == ["field", *list(EXPECTED["figureqa"].values())[1:4]]


@pytest.mark.parametrize(("count", "reason"), [(1, "few_options"), (2, ""), (8, ""), (9, "many_options")])
def test_a_choice_has_as_many_options_as_there_are_letters_at_most(tmp_path, count, reason):
    folder = tabmwp(tmp_path)
    options = [f"{number} %" for number in range(count)]
    problem = {"question": "How much?", "choices": options, "answer": options[-1], "solution": "Look.", "unit": ""}
    write(folder / "problems_train.json", {"17": problem})
    found, *_ = FORMATS["tabmwp"](folder, ["train"])
    expected = reason or Item("choice", "How much?", LETTERS[count - 1], tuple(options))
    assert outcome(found) == expected
