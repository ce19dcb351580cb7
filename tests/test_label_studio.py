"""Items go to Label Studio as its tasks, and its export comes back as verdicts, once however often it is read."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import CONFIG, Project
from mmfuser_jax.mminstruct.questions.items import Item, as_body, from_body
from mmfuser_jax.mminstruct.review.decisions import MOST_SECONDS, REJECTIONS, decisions, verdicts_of
from mmfuser_jax.mminstruct.review.edits import EditError
from mmfuser_jax.mminstruct.review.label_studio import LabelStudioError, read_tasks, write_tasks
from mmfuser_jax.mminstruct.review.label_studio_text import as_text, from_text
from mmfuser_jax.mminstruct.schema import Verdict
from tests.review_project import CHOICE, JUDGEMENT, LONG, SHORT, item, project_of, say

CONVERSATION = item("conversation", LONG, SHORT, CHOICE)
ROWS = [item("choice"), CONVERSATION, item("odd", JUDGEMENT, state="doubtful", reason="judge", image="other")]


@pytest.fixture
def project(tmp_path):
    return project_of(tmp_path, ROWS)


def written(project):
    path = project.folder / "tasks.json"
    with Ledger(project.ledger) as ledger:
        found = write_tasks(project, ledger, path)
    return found, {task["data"]["item"]: task for task in json.loads(path.read_text(encoding="utf-8"))}


def annotated(task, verdict="accept", text=None, reason=None, **fields):
    """A task as Label Studio exports it in its format JSON, with one annotation that began with the prediction."""
    (prediction,) = task["predictions"]
    result = json.loads(json.dumps(prediction["result"]))
    if text is not None:
        result[0]["value"]["text"] = [text]
    for name, choice in (("verdict", verdict), ("reason", reason)):
        if choice:
            value = {"choices": [choice]}
            result.append(
                {"id": f"r-{name}", "from_name": name, "to_name": "picture", "type": "choices", "value": value}
            )
    annotation = {
        "id": 1001, "completed_by": 3, "result": result, "was_cancelled": False, "ground_truth": False,
        "created_at": "2026-08-09T10:00:00.000000Z", "updated_at": "2026-08-09T10:00:09.000000Z", "lead_time": 7.25,
        "prediction": {}, "result_count": 2, "task": 12, **fields,
    }  # fmt: skip
    return {"id": 12, "data": task["data"], "annotations": [annotation], "drafts": [], "predictions": [], "project": 1}


def read(project, tasks, reviewer=""):
    path = project.folder / "export.json"
    path.write_text(tasks if isinstance(tasks, str) else json.dumps(tasks), encoding="utf-8")
    with Ledger(project.ledger) as ledger:
        found = read_tasks(project, ledger, path, reviewer)
        return found, [verdict for row in ROWS for verdict in verdicts_of(ledger, row.id)]


def test_tasks_have_what_a_person_needs_and_the_text_as_a_prediction(project):
    found, tasks = written(project)
    assert (found.tasks, found.left_out) == (3, ())
    assert list(tasks) == ["odd", "choice", "conversation"]  # doubtful ones first
    data = tasks["odd"]["data"]
    assert data["image"] == "/data/local-files/?d=images/ot/other.png"
    assert (project.folder / data["image"].partition("?d=")[2]).exists()
    assert data["about"] == "posters · judgement · en · doubtful: another model says that it is wrong"
    assert data["caption"] == "A poster with a blue frame, other."
    (prediction,) = tasks["choice"]["predictions"]
    assert prediction["model_version"] == "a-model"
    assert [(one["from_name"], one["to_name"], one["type"]) for one in prediction["result"]] == [
        ("text", "picture", "textarea")
    ]
    assert prediction["result"][0]["value"]["text"] == [
        "[Question 1]\nWhat colour is the frame of the poster?\n[Options 1]\nA. Red\nB. Blue\nC. Green\nD. Black\n[Answer 1]\nB"
    ]
    ids = [one["id"] for task in tasks.values() for one in task["predictions"][0]["result"]]
    assert len(set(ids)) == 3


def test_every_name_of_a_prediction_and_of_the_data_is_in_the_config_and_the_other_way_round(project):
    found, tasks = written(project)
    tree = ElementTree.parse(found.config).getroot()
    named = {element.get("name"): element for element in tree.iter() if element.get("name")}
    for task in tasks.values():
        for one in task["predictions"][0]["result"]:
            assert named[one["from_name"]].tag.lower() == one["type"]
            assert named[one["from_name"]].get("toName") == one["to_name"]
        shown = {element.get("value", "")[1:] for element in tree.iter() if element.get("value", "").startswith("$")}
        assert shown == set(task["data"]) - {"item"}
    assert {element.get("toName") for element in tree.iter() if element.get("toName")} <= set(named)
    aliases = {choice.get("alias"): choice.get("value") for choice in named["reason"].iter("Choice")}
    assert aliases == REJECTIONS


def test_only_what_is_still_open_is_written(project):
    with Ledger(project.ledger) as ledger:
        say(ledger, "choice", "anna", "accept")
    assert set(written(project)[1]) == {"conversation", "odd"}


@pytest.mark.parametrize(
    "one",
    [
        CHOICE, LONG, SHORT, JUDGEMENT,
        Item("long", "问题“一”，是什么？", "答案：（一）。\n\n第二段<script>"),
        Item("choice", "A. or B.?", "A", ("“A. b”", "B) c", "12:30", "[Answer 1] x")),
        Item("short", "[Question]?", "[Options 1] and more"),
    ],
)  # fmt: skip
def test_a_text_is_read_as_it_was_written(one):
    body = as_body([one, LONG])
    wanted = [
        {"place": place, "question": x.question, "answer": x.answer, "options": list(x.options)}
        for place, x in enumerate((one, LONG))
    ]
    assert from_text(as_text(body)) == wanted


def test_an_item_that_would_not_come_back_the_same_is_left_out_and_named(tmp_path):
    odd = Item("short", "What does it say?\n[Answer 1]", "12 May")
    project = project_of(tmp_path, [item("x", odd), item("y")])
    found, tasks = written(project)
    assert (found.tasks, found.left_out, set(tasks)) == (1, ("x",), {"y"})


@pytest.mark.parametrize(
    "text", ["", "hello", "[Question 0]\nx", "x\n[Question 1]\ny", "[Question 1]\nx\n[Question 1]\ny"]
)
def test_a_text_without_its_headings_is_refused(text):
    with pytest.raises(EditError, match="heading"):
        from_text(text)


def test_verdicts_come_back_with_their_person_and_seconds(project):
    _, tasks = written(project)
    changed = as_text(ROWS[0].body).replace("Green", "Teal").replace("[Answer 1]\nB", "[Answer 1]\nC")
    found, verdicts = read(
        project,
        [
            annotated(tasks["choice"], text=changed),
            annotated(tasks["conversation"], completed_by={"id": 4, "email": "bob@example.org"}, lead_time=1e6),
            annotated(tasks["odd"], "reject", reason="unclear", completed_by={"id": 5, "email": ""}),
        ],
    )
    assert found.errors == ()
    assert found.counts == {"accept": 1, "edit": 1, "reject": 1}
    edited = as_body([Item("choice", CHOICE.question, "C", ("Red", "Blue", "Teal", "Black"))])
    assert verdicts == [
        Verdict("choice", "user 3", "edit", body=edited, seconds=7.25),
        Verdict("conversation", "bob@example.org", "accept", seconds=MOST_SECONDS),
        Verdict("odd", "user 5", "reject", "unclear", seconds=7.25),
    ]
    with Ledger(project.ledger) as ledger:
        assert {row.id: made.state for row, made in decisions(ledger)} == {
            "choice": "accepted", "conversation": "accepted", "odd": "rejected",
        }  # fmt: skip


def test_reading_twice_adds_nothing_even_after_the_verdict_was_taken_back(project):
    _, tasks = written(project)
    export = [annotated(tasks["choice"]), annotated(tasks["odd"], "reject", reason=REJECTIONS["harmful"])]
    _, before = read(project, export)
    found, after = read(project, export)
    assert (found.counts, after) == ({"unchanged": 2}, before)
    with Ledger(project.ledger) as ledger:
        say(ledger, "choice", "user 3", "undone")
    found, _ = read(project, export)
    assert found.counts == {"unchanged": 2}
    with Ledger(project.ledger) as ledger:
        assert [made.state for row, made in decisions(ledger) if row.id == "choice"] == ["open"]
    found, _ = read(project, [annotated(tasks["choice"], lead_time=9.0), export[1]])  # looked at again
    assert found.counts == {"accept": 1, "unchanged": 1}


def test_a_round_that_was_deleted_is_left_out_of_the_conversation(project):
    _, tasks = written(project)
    text = as_text(CONVERSATION.body)
    without = text[: text.index("[Question 2]")] + text[text.index("[Question 3]") :]
    _, (verdict,) = read(project, [annotated(tasks["conversation"], text=without)])
    assert (verdict.verdict, from_body(verdict.body)) == ("edit", (LONG, CHOICE))


def test_skipped_tasks_and_drafts_are_no_verdicts(project):
    _, tasks = written(project)
    skipped = annotated(tasks["choice"], was_cancelled=True)
    draft = annotated(tasks["odd"])
    draft["drafts"], draft["annotations"] = draft["annotations"], []
    found, verdicts = read(project, [skipped, draft])
    assert (found.counts, found.errors, verdicts) == ({"cancelled": 1}, (), [])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"verdict": ""}, "neither accepted nor rejected"),
        ({"verdict": "maybe"}, "neither accepted nor rejected"),
        ({"verdict": "reject", "reason": "mood"}, "no reason 'mood'"),
        ({"text": "[Question 1]\nWhat?\n[Answer 1]\nZ"}, "a choice with fewer than two options"),
        ({"text": "hello"}, "begins with the heading"),
        ({"result": None}, "no list of results"),
        ({"result": [{"from_name": "verdict"}]}, "a result has no value"),
        ({"result": ["x"]}, "a result has no value"),
        ({"result": [{"from_name": "verdict", "value": {"choices": ["accept", "reject"]}}]}, "'verdict' has not one text"),
        ({"lead_time": "long"}, "lead_time is 'long'"),
        ({"lead_time": -1}, "lead_time is -1"),
    ],
)  # fmt: skip
def test_an_annotation_that_cannot_be_taken_is_a_line_with_its_task_and_the_others_are_taken(project, change, match):
    _, tasks = written(project)
    found, verdicts = read(project, [annotated(tasks["choice"], **change), annotated(tasks["odd"])])
    (error,) = found.errors
    assert "export.json: task 12: " in error
    assert match in error
    assert "\n" not in error
    assert [verdict.item for verdict in verdicts] == ["odd"]


def test_a_task_of_another_project_is_a_line(project):
    _, tasks = written(project)
    tasks["choice"]["data"]["item"] = "elsewhere"
    found, verdicts = read(project, [annotated(tasks["choice"])])
    assert "task 12: this project has no item 'elsewhere'" in found.errors[0]
    assert verdicts == []


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", "not a list of tasks"),
        ('[{"id": 7, "image": "x", "verdict": "accept"}]', "task 7: no data and annotations; .* not JSON-MIN"),
        ('[{"data": {}, "annotations": [1]}]', "task 1: an annotation is no object"),
        ("[1]", "task 1: no data"),
    ],
)
def test_a_file_that_is_no_export_is_refused_in_one_line(project, content, match):
    with pytest.raises(LabelStudioError, match=f"export.json: {match}"):
        read(project, content)


def test_a_name_stands_for_one_person_only(project):
    _, tasks = written(project)
    one, other = annotated(tasks["choice"]), annotated(tasks["odd"], completed_by=4)
    _, verdicts = read(project, [one], reviewer="anna")
    assert [verdict.reviewer for verdict in verdicts] == ["anna"]
    with pytest.raises(LabelStudioError, match=r"several people \(user 3, user 4\); leave"):
        read(project, [one, other], reviewer="anna")


def test_what_label_studio_needs_to_show_the_pictures_is_said(project):
    found, tasks = written(project)
    root = re.search(r"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=(\S+) label-studio start", found.settings)[1]
    assert "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true " in found.settings
    assert (Path(root) / tasks["odd"]["data"]["image"].partition("?d=")[2]).is_file()
    images = re.search(r"with the path (\S+),", found.settings)[1]
    assert Path(images) == project.images.resolve()
    assert str(found.config) in found.settings


def test_a_folder_that_is_not_there_is_named_as_it_was_given(project):
    path = project.folder / "nowhere" / "tasks.json"
    with Ledger(project.ledger) as ledger, pytest.raises(LabelStudioError) as caught:
        write_tasks(project, ledger, path)
    assert str(caught.value).startswith(f"{path}: cannot be written (No such file or directory); ")


def test_an_annotation_may_not_ask_what_a_benchmark_asks(project):
    (project.folder / "bench.txt").write_text("Which month is it?\n")
    config = project.folder / CONFIG
    config.write_text(config.read_text() + "generate: {benchmarks: [bench.txt]}\n")
    _, tasks = written(project)
    text = as_text(ROWS[0].body).replace(CHOICE.question, "Which month is it?")
    found, verdicts = read(Project(project.folder), [annotated(tasks["choice"], text=text)])
    assert "benchmark" in found.errors[0]
    assert verdicts == []
