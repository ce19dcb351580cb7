"""What passed becomes a data set that everybody's tools read: the same bytes each time, whole or not there."""

import collections
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from huggingface_hub import DatasetCard
from PIL import Image

from mmfuser_jax.data import labels
from mmfuser_jax.data.grouping import modality_lengths
from mmfuser_jax.data.records import Turn
from mmfuser_jax.data.sources import SourceSpec, open_source
from mmfuser_jax.locks import LockedError, locked
from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.export import exporting, plots
from mmfuser_jax.mminstruct.export.errors import ExportError
from mmfuser_jax.mminstruct.export.exporting import FORMATS, export_project, slug_of
from mmfuser_jax.mminstruct.export.selection import REASONS, TAGS
from mmfuser_jax.mminstruct.export.suffixes import load_suffixes
from mmfuser_jax.mminstruct.export.turns import TurnsError, conversation
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import CONFIG, Project
from mmfuser_jax.mminstruct.questions.items import LANGUAGES, TYPES, YES_NO, Item, as_body
from mmfuser_jax.mminstruct.questions.seed_questions import domain_names
from mmfuser_jax.mminstruct.review.decisions import decisions
from mmfuser_jax.mminstruct.schema import AnswerRow, Export, ImageRow, ItemRow, Verdict
from mmfuser_jax.prepare.audit import audit
from mmfuser_jax.prepare.build import verify
from tests.nursery import nursery
from tests.test_collect import scene
from tests.test_evaluate import is_drawn

DOMAINS = ("posters", "ocr")
WORDS = {"en": "What does the red sign over the door say", "zh": "门上方的红色牌子写着什么"}


def item(kind, language, number):
    """A question that no other is like."""
    rng = random.Random(f"{kind} {language} {number}")
    mark = "?" if language == "en" else "？"
    question = f"{WORDS[language]} {number}{mark}"
    if kind == "judgement":
        return Item(kind, question, rng.choice(("yes", "yes", "no")))
    if kind == "choice":
        options = tuple(f"{text} {number}" for text in ("Café", "a|b <i>", "🙂", "停车"))
        return Item(kind, question, rng.choice("ABCD"), options)
    word = "open " if language == "en" else "营业中"
    return Item(kind, question, (word * (1 if kind == "short" else rng.randrange(20, 60))).strip())


def row_of(name, image, domain, kind, language, exchanges, state="good", **fields):
    given = {"answer": f"answer of {name}", "step": "generate", "reason": "" if state == "good" else "length"}
    return ItemRow(
        id=name, image=image, domain=domain, type=kind, language=language, body=as_body(exchanges),
        question=exchanges[0].question, state=state, **{**given, **fields},
    )  # fmt: skip


def fill(project, pictures=3, each=2, domains=DOMAINS):
    """A ledger as the steps before leave it: items of all kinds, some refused, some looked at."""
    rng, count = random.Random(0), 0
    with Ledger(project.ledger) as ledger, ledger.changes():
        for domain in domains:
            for number in range(pictures):
                sha = add_picture(project, ledger, domain, f"{domain} {number}")
                for kind in (*TYPES, "conversation"):
                    for language in LANGUAGES:
                        for _ in range(each):
                            count += 1
                            add_item(ledger, rng, f"i{count:05d}", sha, domain, kind, language)


def add_picture(project, ledger, domain, name, kept=True):
    buffer = io.BytesIO()
    scene(int(hashlib.sha256(name.encode()).hexdigest()[:6], 16)).save(buffer, "PNG")
    content = buffer.getvalue()
    sha = hashlib.sha256(content).hexdigest()
    store.keep(project.images, sha, ".png", content)
    local = project.folder.parent / "pictures" / f"{name}.png"
    origin = f"https://host{len(name) % 2}.org/{name}.png" if domain == "posters" else str(local)
    ledger.add(
        ImageRow(sha, domain, ".png", 160, 120, len(content), origin, "CC BY 4.0", 0, "kept" if kept else "dropped")
    )
    return sha


def add_item(ledger, rng, name, sha, domain, kind, language):
    kinds = ("short", "long", "judgement", "choice") if kind == "conversation" else (kind,)
    exchanges = [item(each, language, f"{name}{place}") for place, each in enumerate(kinds)]
    state = rng.choice(("good", "good", "good", "doubtful", "refused"))
    row = row_of(
        name, sha, domain, kind, language, exchanges, state, step="expand" if kind == "conversation" else "generate"
    )
    ledger.add(row)
    ledger.add(
        AnswerRow(row.answer, row.step, domain, sha, kind, language, f"{kind}.{language} 0a1b2c3d", count_of(name), "m-4",
                  "…", "stop", "", "", 1, 1000, 100, 0.002, 1.0, read=1)
    )  # fmt: skip
    if state != "refused" and rng.random() < 0.6:
        said = rng.choice(("accept", "accept", "edit", "reject"))
        edited = [dataclasses.replace(x, question=f"Edited: {x.question}") for x in exchanges]
        body, reason = (as_body(edited) if said == "edit" else "", "wrong_answer" if said == "reject" else "")
        ledger.add(Verdict(name, "anna", said, reason, body, 0, 7.5))
        if rng.random() < 0.3:
            ledger.add(Verdict(name, "ben", "accept", seconds=4.0))


def count_of(name):
    return int(name.lstrip("i"))


def project_of(folder, **export):
    folder.mkdir(parents=True)
    config = {
        "name": "Tried set",
        "collect": {"sources": [{"domain": "ocr", "folder": "../pictures"}]},
        "export": {"licence": "cc-by-4.0", **export},
    }
    (folder / CONFIG).write_text(yaml.safe_dump(config))
    return Project(folder)


def export(project, folder, formats=("jsonl",), workers=1, *, plotted=False):
    """Plots take most of the time, and few tests look at them."""
    with Ledger(project.ledger) as ledger, pytest.MonkeyPatch.context() as patch:
        if not plotted:
            patch.setattr(plots, "plot_card", lambda *_: [])
        return export_project(project, ledger, folder, formats, workers)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = project_of(tmp_path_factory.mktemp("tried") / "project")
    fill(project)
    return project


@pytest.fixture(scope="module")
def exported(project):
    """Everything in every format."""
    folder = project.folder.parent / "exported"
    return folder, export(project, folder, list(FORMATS), plotted=True)


def rows_of(folder):
    return [json.loads(line) for line in (folder / "tried_set.jsonl").read_text(encoding="utf-8").split("\n") if line]


def decided(project):
    with Ledger(project.ledger) as ledger:
        return {item.id: (item, decision) for item, decision in decisions(ledger)}


def bytes_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What is written


def test_what_passed_is_written_and_the_rest_has_a_reason(project, exported):
    folder, counts = exported
    rows, known = rows_of(folder), decided(project)
    with Ledger(project.ledger) as ledger:
        ((all_items, refused),) = ledger.query("SELECT count(*), sum(state = 'refused') FROM items")
    assert len(rows) == counts.items
    assert counts.items + sum(counts.left_out.values()) == all_items
    assert counts.left_out["refused"] == refused
    assert set(counts.left_out) == {"refused", "rejected", "conflict", "doubtful", "balance"} <= set(REASONS)
    expected = {
        name
        for name, (item, decision) in known.items()
        if decision.state == "accepted" or (decision.state == "open" and item.state == "good")
    }
    written = {row["id"] for row in rows}
    assert written <= expected
    assert {known[name][0].type for name in expected - written} == {"judgement"}
    assert len(expected - written) == counts.left_out["balance"]


def test_only_what_people_took_where_that_is_wanted(project, tmp_path):
    other = project_of(tmp_path / "project", unreviewed=False, balance=False)
    shutil.copytree(project.images, other.images)
    shutil.copy(project.ledger, other.ledger)
    counts = export(other, tmp_path / "out")
    states = [decision.state for _, decision in decided(other).values()]
    assert counts.items == states.count("accepted")
    assert counts.left_out["unreviewed"] > 0
    assert "balance" not in counts.left_out


def test_judgements_have_as_many_yes_as_no_in_every_domain_and_language(project, exported, tmp_path):
    def answers(folder):
        return collections.Counter(
            (row["tags"]["domain"], row["tags"]["language"], row["conversations"][1]["value"])
            for row in rows_of(folder)
            if row["tags"]["type"] == "judgement"
        )

    other = project_of(tmp_path / "project", balance=False)
    shutil.copytree(project.images, other.images)
    shutil.copy(project.ledger, other.ledger)
    export(other, tmp_path / "out")
    before, after = answers(tmp_path / "out"), answers(exported[0])
    pairs = {(domain, language) for domain, language, _ in before}
    for domain, language in pairs:
        fewer = min(before[domain, language, word] for word in YES_NO[language])
        assert [after[domain, language, word] for word in YES_NO[language]] == [fewer, fewer]
    assert sum(after.values()) > 0
    assert before != after


def test_an_edited_item_is_written_as_it_was_edited(project, exported):
    edited = {name for name, (_, decision) in decided(project).items() if decision.edited}
    seen = 0
    for row in rows_of(exported[0]):
        question = row["conversations"][0]["value"]
        assert question.startswith("<image>\nEdited: ") == (row["id"] in edited) == (row["tags"]["edited"] == "yes")
        seen += row["id"] in edited
    assert seen > 3


def test_a_row_says_where_it_comes_from(project, exported):
    known = decided(project)
    with Ledger(project.ledger) as ledger:
        for row in rows_of(exported[0]):
            tags, (item, decision) = row["tags"], known[row["id"]]
            image, answer = ledger.image(item.image), ledger.row(AnswerRow, "key = ?", (item.answer,))
            assert tuple(tags) == TAGS
            assert (tags["domain"], tags["type"], tags["language"]) == (item.domain, item.type, item.language)
            assert (tags["model"], tags["prompt"], tags["seed"]) == (answer.model, answer.prompt, str(answer.seed))
            assert tags["reviewers"] == ", ".join(decision.reviewers)
            assert row["image"] == f"images/{image.domain}/{tags['sha256']}.png"
            assert tags["licence"] == "CC BY 4.0"
            assert tags["origin"] == (image.origin if "://" in image.origin else f"pictures/{Path(image.origin).name}")
    assert str(project.folder.parent) not in (exported[0] / "tried_set.jsonl").read_text(encoding="utf-8")


def test_turns_of_every_type():
    choice = Item("choice", "Which?", "B", ("one", "two"))
    (human, gpt) = conversation(row_of("a", "s", "ocr", "choice", "en", [choice]), as_body([choice]))
    lines = human.text.split("\n")
    assert lines[:4] == ["<image>", "Which?", "A. one", "B. two"]
    assert lines[4] in load_suffixes()["choice"]["en"]
    assert gpt == Turn("gpt", "B")
    for language, answer, expected in (
        ("en", "no", "No"),
        ("zh", "no", "否"),
        ("zh", "是", "是"),
        ("en", "Yes.", "Yes"),
    ):
        judged = Item("judgement", "有吗？", answer)
        assert (
            conversation(row_of("a", "s", "ocr", "judgement", language, [judged]), as_body([judged]))[1].text
            == expected
        )


def test_within_several_rounds_a_long_answer_is_not_asked_for():
    exchanges = [
        Item("long", "Why?", "Because of this."),
        Item("short", "How many?", "two"),
        Item("long", "So?", "It is."),
    ]
    turns = conversation(row_of("a", "s", "ocr", "conversation", "en", exchanges), as_body(exchanges))
    assert [turn.role for turn in turns] == ["human", "gpt"] * 3
    assert turns[0].text == "<image>\nWhy?"
    assert turns[2].text.startswith("How many? ")
    assert turns[4].text == "So?"


@pytest.mark.parametrize(
    ("reason", "kind", "body"),
    [
        ("image_marker", "short", as_body([Item("short", "Where is the <image> here?", "left")])),
        ("image_marker", "long", as_body([Item("long", "What?", "An <image>.")])),
        ("empty_text", "short", as_body([Item("short", "What?", " \n")])),
        ("not_unicode", "short", json.dumps([dataclasses.asdict(Item("short", "What?", "\ud83d"))])),
        ("few_options", "choice", as_body([Item("choice", "Which?", "A", ("one",))])),
        ("many_options", "choice", as_body([Item("choice", "Which?", "A", tuple("abcdefghi"))])),
        ("answer_is_no_option", "choice", as_body([Item("choice", "Which?", "C", ("one", "two"))])),
        ("answer_is_no_option", "choice", as_body([Item("choice", "Which?", "AB", ("one", "two"))])),
        ("not_yes_or_no", "judgement", as_body([Item("judgement", "Is it?", "perhaps")])),
        ("bad_body", "short", "not JSON"),
        ("bad_body", "short", "[]"),
        ("bad_body", "short", '{"type": "short"}'),
        ("bad_body", "short", '[{"type": "short", "question": 3, "answer": "a", "options": []}]'),
        ("bad_body", "short", as_body([Item("long", "What?", "It is.")])),
        ("bad_body", "short", as_body([Item("short", "What?", "It", ("a", "b"))])),
        ("bad_body", "conversation", as_body([Item("riddle", "What?", "It"), Item("long", "What?", "It is.")])),
    ],
)  # fmt: skip
def test_an_item_that_would_break_a_row_is_refused_with_its_reason(reason, kind, body):
    with pytest.raises(TurnsError) as caught:
        conversation(
            dataclasses.replace(row_of("a", "s", "ocr", kind, "en", [Item("short", "What?", "it")]), body=body), body
        )
    assert caught.value.reason == reason


def test_what_cannot_be_written_is_counted_and_odd_words_survive(tmp_path):
    project = project_of(tmp_path / "project")
    odd = 'Line one\nline two\t"quoted" \\ back 😀 \u2028 é \x00 <b>'
    with Ledger(project.ledger) as ledger, ledger.changes():
        sha = add_picture(project, ledger, "ocr", "one")
        dropped = add_picture(project, ledger, "ocr", "two", kept=False)
        ledger.add(row_of("odd", sha, "ocr", "long", "en", [Item("long", odd, odd * 200)]))
        ledger.add(row_of("marker", sha, "ocr", "short", "en", [Item("short", "Is <image> here?", "no")]))
        ledger.add(row_of("gone", dropped, "ocr", "short", "en", [Item("short", "What is it?", "no")]))
        ledger.add(row_of("nowhere", "0" * 64, "ocr", "short", "en", [Item("short", "What is it?", "no")]))
    counts = export(project, tmp_path / "out", ["jsonl", "llava", "parquet"])
    assert counts.left_out == {"no_picture": 2, "image_marker": 1}
    assert (counts.items, counts.pictures) == (1, 1)
    for name in ("tried_set.jsonl", "tried_set.json", "data/train-00000-of-00001.parquet"):
        (record,) = open_source(SourceSpec(str(tmp_path / "out" / name)))
        human, gpt = record.conversations[0]
        assert human.text.startswith(f"<image>\n{odd}")
        assert gpt.text == (odd * 200).strip()


def test_items_of_public_sets_are_written_without_a_model(tmp_path):
    project = project_of(tmp_path / "project")
    with Ledger(project.ledger) as ledger, ledger.changes():
        sha = add_picture(project, ledger, "ocr", "one")
        taken = row_of(
            "a", sha, "ocr", "short", "en", [Item("short", "How many bars?", "4")], step="dvqa", answer="train/1"
        )
        ledger.add(taken)
    export(project, tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    assert (row["tags"]["step"], row["tags"]["model"], row["tags"]["seed"]) == ("dvqa", "", "")
    numbers = json.loads((tmp_path / "out/card/statistics.json").read_text())
    assert numbers["sets"] == {"dvqa": 1}
    assert (numbers["cost"]["made"], numbers["cost"]["usd_per_item"]) == (0, None)
    assert "| dvqa | 1 |" in (tmp_path / "out/README.md").read_text()


# How questions ask for the form of their answers


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", TYPES)
def test_every_suffix_alone_says_what_type_is_wanted(kind, language):
    wordings = load_suffixes()[kind][language]
    assert len(wordings) == len(set(wordings)) == 8
    for wording in wordings:
        gap = "" if language == "zh" else " "
        for answer in ("It.", "word " * 30):  # which alone would say short, and long
            question = f"{WORDS[language]}{gap}{wording}"
            assert labels.exchange_type(question, answer, single=True) == kind, wording
            assert labels.detect([], [Turn("human", question), Turn("gpt", "")])["language"] == language
    assert set(load_suffixes()) == set(TYPES)


def test_types_of_all_rows_are_recognised_from_their_words(exported):
    for row in rows_of(exported[0]):
        turns = [Turn(entry["from"], entry["value"]) for entry in row["conversations"]]
        found = labels.detect([row["image"]], turns)
        kind = row["tags"]["type"]
        assert found["type"] == ("mixed" if kind == "conversation" else kind)


def test_a_name_has_the_same_suffix_always_and_names_differ():
    asked = Item("short", "What?", "it")
    texts = [
        conversation(row_of(f"i{x}", "s", "ocr", "short", "en", [asked]), as_body([asked]))[0].text for x in range(400)
    ]
    again = [
        conversation(row_of(f"i{x}", "s", "ocr", "short", "en", [asked]), as_body([asked]))[0].text for x in range(400)
    ]
    assert texts == again
    counts = collections.Counter(texts)
    assert len(counts) == 8
    assert min(counts.values()) > 25


# That everybody's tools read it


def conversations_of(source):
    """Id of an item → its turns, of every record."""
    return {
        tags["item"]: [(turn.role, turn.text) for turn in turns]
        for record in source
        for turns, tags in zip(record.conversations, record.tags, strict=True)
    }


def expected_conversations(folder):
    return {row["id"]: [(x["from"], x["value"]) for x in row["conversations"]] for row in rows_of(folder)}


@pytest.mark.parametrize("name", ["tried_set.jsonl", "tried_set.json", "tried_set", "data"])
def test_the_data_path_reads_back_what_was_written(project, exported, name):
    folder, counts = exported
    source = open_source(SourceSpec(str(folder / name)))
    assert conversations_of(source) == expected_conversations(folder)
    assert len(source) == (counts.pictures if name == "tried_set" else counts.items)
    for record in source:
        (picture,) = record.images
        content = picture if isinstance(picture, bytes) else picture.read_bytes()
        assert {tags["sha256"] for tags in record.tags} == {hashlib.sha256(content).hexdigest()}
    tags = {tag["item"]: dict(tag) for record in source for tag in record.tags}
    assert tags == {row["id"]: row["tags"] for row in rows_of(folder)}


def test_e2_the_rows_a_line_are_found_by_the_reader_of_a_release(exported, tmp_path):
    """The reference's loader looks for .json only, and its release is .jsonl."""
    release = tmp_path / "release"
    (release / "jsons_all").mkdir(parents=True)
    shutil.copy(exported[0] / "tried_set.jsonl", release / "jsons_all/qa.jsonl")
    source = open_source(SourceSpec(str(release), image_folder=str(exported[0])))
    assert conversations_of(source) == expected_conversations(exported[0])
    assert all(Path(image).is_file() for record in source for image in record.images)


def test_e4_chinese_rows_are_as_long_as_they_are(exported):
    """The reference counts words between blanks, by which a Chinese row is one or two words long."""
    source = open_source(SourceSpec(str(exported[0] / "tried_set.jsonl")))
    lengths = modality_lengths(source)
    chosen = [x.tags[0]["language"] == "zh" and x.tags[0]["type"] == "long" for x in source]
    assert min(lengths[np.array(chosen)]) > 60
    numbers = json.loads((exported[0] / "card/statistics.json").read_text())
    assert numbers["lengths"]["long"]["zh"]["answer_median"] >= 60
    assert numbers["lengths"]["long"]["zh"]["answer_median"] > numbers["lengths"]["short"]["zh"]["answer_most"]


@pytest.mark.parametrize("name", ["tried_set.jsonl", "tried_set", "data"])
def test_an_audit_finds_nothing(exported, name):
    report = audit(SourceSpec(str(exported[0] / name)))
    assert report["accepted"] == report["rows"] > 0
    assert report["pictures"]["unusable"] == report["pictures"]["same_content"] == 0
    assert report["duplicates"]["id"]["count"] == report["duplicates"]["content"]["count"] == 0
    assert set(report["domains"]) == set(DOMAINS)
    assert set(report["types"]) == {*TYPES, "conversation"}


def test_array_records_hold_every_picture_once_and_are_as_built(exported):
    folder, counts = exported
    line = verify(folder / "tried_set/1.0.0")
    assert f"({counts.pictures} records)" in line
    source = open_source(SourceSpec(str(folder / "tried_set")))
    assert len({record.id for record in source}) == counts.pictures
    assert not list(folder.glob(".*"))


def test_datasets_loads_pictures_and_words(exported, tmp_path):
    folder, counts = exported
    table = datasets.load_dataset(
        "parquet", data_files=str(folder / "data/train-*.parquet"), split="train", cache_dir=str(tmp_path)
    )
    assert table.num_rows == counts.items
    row, expected = table[3], rows_of(folder)[3]
    assert isinstance(row["image"], Image.Image)
    assert row["image"].size == (160, 120)
    assert row["conversations"] == expected["conversations"]
    assert row["tags"] == expected["tags"]


def test_a_parquet_file_stores_a_picture_once_however_many_rows_show_it(exported):
    folder, counts = exported
    pictures = sum(path.stat().st_size for path in (folder / "images").rglob("*.png"))
    rows = (folder / "tried_set.jsonl").stat().st_size
    size = sum(path.stat().st_size for path in (folder / "data").iterdir())
    assert counts.items > 5 * counts.pictures
    assert size < pictures + rows


def test_parquet_files_are_cut_to_size(project, exported, tmp_path, monkeypatch):
    from mmfuser_jax.mminstruct.export import parquet

    monkeypatch.setattr(parquet, "GROUP_BYTES", 2000)
    monkeypatch.setattr(parquet, "FILE_BYTES", 5000)
    export(project, tmp_path / "out", ["jsonl", "parquet"])
    names = sorted(path.name for path in (tmp_path / "out/data").iterdir())
    assert len(names) > 2
    assert names[0] == f"train-00000-of-{len(names):05d}.parquet"
    source = open_source(SourceSpec(str(tmp_path / "out/data")))
    assert conversations_of(source) == expected_conversations(exported[0])


def test_pictures_are_second_names_of_the_stored_files_or_copies(project, exported, tmp_path, monkeypatch):
    row = rows_of(exported[0])[0]
    kept = store.place(project.images, row["tags"]["sha256"], ".png")
    before = kept.stat().st_mtime_ns
    export(project, tmp_path / "both", ["llava", "jsonl"])
    assert (exported[0] / row["image"]).samefile(kept)
    assert (tmp_path / "both" / row["image"]).samefile(kept)
    assert kept.stat().st_mtime_ns == before  # never written to again under its other name

    def fails(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", fails)
    export(project, tmp_path / "out")
    assert not (tmp_path / "out" / row["image"]).samefile(kept)
    assert (tmp_path / "out" / row["image"]).read_bytes() == kept.read_bytes()


# That nothing is half written


def test_the_same_ledger_gives_the_same_bytes_whatever_the_processes(project, exported, tmp_path):
    again = export(project, tmp_path / "out", list(reversed(FORMATS)), workers=2, plotted=True)
    assert again == exported[1]
    assert bytes_of(tmp_path / "out") == bytes_of(exported[0])


def test_an_export_replaces_the_one_before_and_is_written_down_once(project, exported, tmp_path):
    folder = tmp_path / "out"
    export(project, folder, ["llava"])
    assert (folder / "tried_set.json").exists()
    first, second = export(project, folder), export(project, folder)
    assert first == second
    assert not (folder / "tried_set.json").exists()
    with Ledger(project.ledger) as ledger:
        written = list(ledger.rows(Export, "path = ?", (str(folder),)))
    assert [row.format for row in written] == ["llava", "jsonl"]
    assert (written[1].conversations, written[1].pictures) == (first.items, first.pictures)
    assert not list(tmp_path.glob(".*"))


def victim(folder):
    """In a child that is killed: exports into `folder`/out what is in its project."""
    export(Project(folder / "project"), folder / "out", ["jsonl", "parquet"])


def test_a_kill_leaves_the_old_or_the_new(project, tmp_path):
    shutil.copytree(project.folder, tmp_path / "project")
    out, draft = tmp_path / "out", tmp_path / ".out.draft"
    victim(tmp_path)
    old = bytes_of(out.rename(tmp_path / "old"))
    with Ledger(tmp_path / "project/ledger.sqlite") as ledger:
        ledger.add(Verdict(rows_of(tmp_path / "old")[0]["id"], "carl", "reject", "unclear", "", 1))
    rng, ends = random.Random(0), collections.Counter()
    with nursery("tests.test_export", tmp_path) as children:
        begun = time.monotonic()
        children.begin("victim")
        assert children.end() == 0, children.errors()
        took, new = time.monotonic() - begun, bytes_of(out)
        assert new != old
        for life in range(6):
            shutil.rmtree(out)
            shutil.copytree(tmp_path / "old", out)
            child, deadline = children.begin("victim"), time.monotonic() + rng.uniform(0, took)
            while children.lives(child) and time.monotonic() < deadline:
                if life % 2 and (draft / "README.md").exists():  # now or soon the two change places
                    break
                time.sleep(0.001)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            ends[children.end()] += 1
            assert bytes_of(out) in (old, new)
            ends["old"] += bytes_of(out) == old
        children.begin("victim")
        assert children.end() == 0, children.errors()
    assert ends[-signal.SIGKILL] >= 3
    assert ends["old"] >= 1
    assert bytes_of(out) == new
    assert not list(tmp_path.glob(".*"))


def test_where_folders_cannot_change_places_the_old_one_comes_back(project, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_exchange", lambda *_: False)
    export(project, tmp_path / "out", ["llava"])
    old = bytes_of(tmp_path / "out")
    renames = []
    rename = Path.rename

    def dies(path, target):
        renames.append(path)
        if len(renames) == 2:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dies)
        with pytest.raises(KeyboardInterrupt):
            export(project, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    exporting._restore(tmp_path / "out")
    assert bytes_of(tmp_path / "out") == old
    export(project, tmp_path / "out")
    assert (tmp_path / "out/tried_set.jsonl").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_second_export_to_the_same_place_waits_for_its_turn(project, tmp_path):
    with locked(tmp_path / ".out.draft"), pytest.raises(LockedError, match="a run is going on here"):
        export(project, tmp_path / "out")


def test_mistakes_are_said_in_a_line(project, tmp_path):
    with pytest.raises(ExportError, match="no format tar; there are llava, jsonl, parquet, arrayrecord"):
        export(project, tmp_path / "out", ["jsonl", "tar"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match="holds something else than an export"):
        export(project, tmp_path / "mine")
    with pytest.raises(ExportError, match="holds something else"):
        export(project, project.folder)
    with pytest.raises(ExportError, match="nothing to export: there are no items; run generate first"):
        export(project_of(tmp_path / "empty"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_picture_that_is_not_what_it_was_is_an_error(project, tmp_path, name, damage):
    shutil.copytree(project.folder, tmp_path / "project")
    picture = next((tmp_path / "project/images").rglob("*.png"))
    picture.unlink()
    if damage == "changed":
        scene(99).save(picture)
    message = "cannot be read" if damage == "gone" else "has changed since it was collected"
    with pytest.raises(ExportError, match=f"{picture.name}: {message}"):
        export(Project(tmp_path / "project"), tmp_path / "out", [name])
    assert not (tmp_path / "out").exists()


def test_names_of_files_are_plain():
    assert slug_of("Tried set") == "tried_set"
    assert slug_of("24 domains (v2)") == "set_24_domains_v2"
    assert slug_of("数据") == "set"
    assert [slug_of(name) for name in ("data", "images", "card")] == ["set_data", "set_images", "set_card"]


# The card


def cells(card, first):
    """Cells of the row that begins so."""
    (line,) = [line for line in card.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_head_is_what_the_hub_reads(exported):
    card = DatasetCard((exported[0] / "README.md").read_text(encoding="utf-8"))
    assert (card.data.license, card.data.language, card.data.size_categories) == ("cc-by-4.0", ["en", "zh"], ["n<1K"])
    assert card.data.task_categories == ["visual-question-answering", "image-text-to-text"]
    files = card.data.to_dict()["configs"][0]["data_files"]
    assert files == [{"split": "train", "path": "data/train-*.parquet"}]
    assert list(exported[0].glob(files[0]["path"]))


def test_a_licence_that_the_hub_does_not_know_is_another(tmp_path, project):
    for licence, expected in (("", ("unknown", None)), ("ours", ("other", "ours"))):
        other = project_of(tmp_path / f"p{licence}", licence=licence)
        shutil.copytree(project.images, other.images)
        shutil.copy(project.ledger, other.ledger)
        export(other, tmp_path / f"out{licence}")
        data = DatasetCard((tmp_path / f"out{licence}/README.md").read_text()).data
        assert (data.license, data.to_dict().get("license_name")) == expected
        assert data.to_dict()["configs"][0]["data_files"][0]["path"] == "tried_set.jsonl"


def test_numbers_of_the_card_are_those_of_the_files(project, exported):
    folder, counts = exported
    card, rows = (folder / "README.md").read_text(encoding="utf-8"), rows_of(folder)
    exchanges = sum(len(row["conversations"]) // 2 for row in rows)
    assert f"{counts.items:,} items ({exchanges:,} questions with answers) about {counts.pictures} pictures" in card
    columns = [(kind, language) for kind in (*TYPES, "conversation") for language in LANGUAGES]
    head = next(line for line in card.splitlines() if line.startswith("| domain | pictures |"))
    assert head.count(" (en)") == head.count(" (zh)") == 5
    for domain in DOMAINS:
        found = collections.Counter(
            (row["tags"]["type"], row["tags"]["language"]) for row in rows if row["tags"]["domain"] == domain
        )
        pictures = len({row["image"] for row in rows if row["tags"]["domain"] == domain})
        line = next(x for x in card[card.index(head) :].splitlines() if x.startswith(f"| {domain} |"))
        assert [int(x) for x in line.strip("| ").split("|")[1:]] == [
            pictures, *(found[column] for column in columns), sum(found.values()),
        ]  # fmt: skip
    for letter, count in collections.Counter(
        row["conversations"][1]["value"] for row in rows if row["tags"]["type"] == "choice"
    ).items():
        assert cells(card, letter)[1] == str(count)
    answers = [row["conversations"][1]["value"] for row in rows if row["tags"]["type"] == "short"]
    lengths = json.loads((folder / "card/statistics.json").read_text())["lengths"]
    medians = {lengths["short"][language]["answer_median"] for language in LANGUAGES}
    assert np.median([labels.text_length(answer) for answer in answers]) in (*medians, np.mean(list(medians)))


def test_the_card_says_who_looked_and_what_they_said(project, exported):
    card, known = (exported[0] / "README.md").read_text(encoding="utf-8"), decided(project)
    numbers = json.loads((exported[0] / "card/statistics.json").read_text())
    for domain in DOMAINS:
        mine = [decision for item, decision in known.values() if item.domain == domain]
        looked = [decision for decision in mine if decision.state != "open"]
        expected = {
            "items": len(mine), "looked_at": len(looked),
            "accepted": sum(x.state == "accepted" and not x.edited for x in looked),
            "edited": sum(x.state == "accepted" and x.edited for x in looked),
            "rejected": sum(x.state == "rejected" for x in looked),
            "conflict": sum(x.state == "conflict" for x in looked),
        }  # fmt: skip
        assert numbers["review"]["domain"][domain] == expected
        assert f"{expected['edited']} ({100 * expected['edited'] / len(looked):.1f} %)" in card
    rejected = sum(decision.state == "rejected" for _, decision in known.values())
    assert cells(card, "the answer is wrong")[1] == str(rejected)
    assert cells(card, "people disagree on it")[1] == str(exported[1].left_out["conflict"])


def test_the_card_says_what_it_cost_and_how_that_is_known(project, exported):
    card = (exported[0] / "README.md").read_text(encoding="utf-8")
    with Ledger(project.ledger) as ledger:
        spent = ledger.spent()
        ((seconds, verdicts),) = ledger.query("SELECT sum(seconds), count(*) FROM verdicts")
    people = seconds / 3600 * 20
    assert cells(card, "together")[1] == f"{spent + people:,.4f}"
    each = (spent + people) / exported[1].items
    assert cells(card, "an item")[1] == f"{each:,.4f}"
    assert cells(card, "people")[1:] == [
        f"{people:,.4f}", f"{seconds / 3600:,.2f} hours over {verdicts} verdicts measured, $20.00 an hour stated",
    ]  # fmt: skip
    assert cells(card, "an item written by hand")[1:] == ["0.5000", f"stated, which is {0.5 / each:,.1f} times as much"]
    assert "m-4" in card
    assert "choice.zh 0a1b2c3d" in card
    assert [cells(card, name)[1] for name in ("host1.org", "local files")] == ["3", "3"]


def test_the_card_shows_how_to_load_it_and_that_does_load_it(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(exported[0])
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == len(FORMATS)
    for block in blocks:
        assert len(block.strip().splitlines()) == 3
        exec(block, {})
        assert "human" in capsys.readouterr().out


def test_plots_are_drawn_and_shown(project, exported, tmp_path):
    card = (exported[0] / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[.*?\]\((.*?)\)", card)
    assert shown == [f"card/{name}.png" for name in ("domains", "balance", "review", "cost")]
    assert all(is_drawn(exported[0] / path) for path in shown)
    export(project, tmp_path / "out")
    assert "![" not in (tmp_path / "out/README.md").read_text(encoding="utf-8")


def test_many_domains_fit(tmp_path):
    project = project_of(tmp_path / "project")
    fill(project, pictures=1, each=1, domains=domain_names())
    counts = export(project, tmp_path / "out", plotted=True)
    assert counts.pictures == len(domain_names())
    for name in ("domains", "review"):
        with Image.open(tmp_path / f"out/card/{name}.png") as plot:
            assert plot.height > 20 * len(domain_names())
