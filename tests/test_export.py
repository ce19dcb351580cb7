"""What passed becomes rows of a data set, and the rest has a reason."""

import collections
import json
import shutil
from pathlib import Path

import pytest

from mmfuser_jax.data.sources import SourceSpec, open_source
from mmfuser_jax.mminstruct.export.errors import ExportError
from mmfuser_jax.mminstruct.export.exporting import FORMATS, slug_of
from mmfuser_jax.mminstruct.export.selection import REASONS, TAGS
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import Project
from mmfuser_jax.mminstruct.questions.items import YES_NO, Item
from mmfuser_jax.mminstruct.schema import AnswerRow, Verdict
from tests import exports
from tests.exports import add_picture, bytes_of, decided, export, project_of, row_of, rows_of
from tests.test_collect import scene

project = exports.project  # a fixture


@pytest.fixture(scope="module")
def exported(project):
    """The rows alone: other formats and plots take most of the time."""
    folder = project.folder.parent / "exported"
    return folder, export(project, folder)


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
    lines = counts.lines()
    assert len(lines) == len(counts.left_out)
    assert f"{counts.left_out['conflict']} left out: people disagree on it" in lines
    assert [int(line.split()[0]) for line in lines] == sorted(counts.left_out.values(), reverse=True)


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
            numbers = {"anna": "reviewer 1", "ben": "reviewer 2"}
            assert tags["reviewers"] == ", ".join(numbers[name] for name in decision.reviewers)
            assert row["image"] == f"images/{image.domain}/{tags['sha256']}.png"
            assert tags["licence"] == "CC BY 4.0"
            assert tags["origin"] == (image.origin if "://" in image.origin else f"pictures/{Path(image.origin).name}")
    assert str(project.folder.parent) not in (exported[0] / "tried_set.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("named", [False, True])
def test_people_are_numbered_in_the_order_in_which_they_began_unless_names_are_wanted(tmp_path, named):
    project = project_of(tmp_path / "project", **({"reviewer_names": True} if named else {}))
    people = ["zoe@example.org", "Anna Bloom"]
    with Ledger(project.ledger) as ledger, ledger.changes():
        sha = add_picture(project, ledger, "ocr", "one")
        for name in ("a", "b"):
            ledger.add(row_of(name, sha, "ocr", "short", "en", [Item("short", f"What is {name}?", "a word")]))
        ledger.add(Verdict("b", people[0], "accept", seconds=1.0))
        for name in reversed(people):
            ledger.add(Verdict("a", name, "accept", seconds=1.0))
    export(project, tmp_path / "out", ["jsonl", "llava"])
    called = people if named else ["reviewer 1", "reviewer 2"]
    assert [row["tags"]["reviewers"] for row in rows_of(tmp_path / "out")] == [", ".join(called[::-1]), called[0]]
    first, second = sorted(called)
    assert f"Agreement: {first} and {second}: 1 of 1 the same" in (tmp_path / "out/README.md").read_text()
    found = {name for name, content in bytes_of(tmp_path / "out").items() for x in people if x.encode() in content}
    assert found == ({"README.md", "card/statistics.json", "tried_set.json", "tried_set.jsonl"} if named else set())


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


def test_mistakes_are_said_in_a_line(project, tmp_path):
    with pytest.raises(ExportError, match="no format tar; there are llava, jsonl, parquet, arrayrecord"):
        export(project, tmp_path / "out", ["jsonl", "tar"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match=r"holds something else than an export \(thesis.txt\); choose another folder"):
        export(project, tmp_path / "mine")
    with pytest.raises(ExportError, match=r"thesis.txt: is a file"):
        export(project, tmp_path / "mine/thesis.txt")
    with pytest.raises(ExportError, match="holds something else"):
        export(project, project.folder)
    with pytest.raises(ExportError, match="nothing to export: there are no items yet; give the command run first"):
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
