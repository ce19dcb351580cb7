"""Questions and answers made of captions: what is kept of a reply, mended, judged by a second model, or refused."""

import collections
import json
import re

import pytest

from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.questions.items import LETTERS, Item, from_body
from mmfuser_jax.mminstruct.questions.keeping import shuffled
from mmfuser_jax.mminstruct.questions.seed_questions import load_domains
from mmfuser_jax.mminstruct.reasons import MEANINGS as REASONS
from mmfuser_jax.mminstruct.steps.judging import Judge
from tests import fake_model
from tests.fake_openai import FakeServer
from tests.step_project import STEPS, items_of, project_of, run


@pytest.mark.parametrize("json_schema", [True, False])
def test_pictures_become_questions_of_all_types_in_both_languages(tmp_path, json_schema):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, json_schema=json_schema)
        run(project)
    assert all(
        ("response_format" in body) == json_schema
        for body in server.bodies
        if "describe" not in str(body)[:300] and "描述图片" not in str(body)[:300]
    )
    counts = collections.Counter((row.type, row.language) for row in items_of(project, "state = 'good'"))
    wanted = {"judgement": 4, "choice": 3, "short": 3, "long": 3, "conversation": 1}
    assert counts == {(kind, language): 3 * each for kind, each in wanted.items() for language in ("en", "zh")}
    for row in items_of(project, "state = 'good'"):
        for item in from_body(row.body):
            assert all(re.search("[\u4e00-\u9fff]", text) is not None for text in (item.question,)) == (
                row.language == "zh"
            )
            assert item.type != "choice" or (len(item.options) == 4 and item.answer in LETTERS[:4])


def test_a2_seed_questions_of_the_domain_are_shown(tmp_path):
    with FakeServer(fake_model.reply) as server:
        run(project_of(tmp_path, server, domain="landmark"))
    shown = [body for body in server.bodies if "These examples show" in str(body)]
    assert len(shown) == 3 * 4
    seeds = {seed["en"] for seeds in load_domains()["landmark"].seeds.values() for seed in seeds}
    for body in shown:
        lines = re.findall(r"(?m)^- (.+)$", body["messages"][1]["content"])
        assert len(lines) == 3
        assert set(lines) <= seeds


def test_what_a_reply_lacks_is_asked_for(tmp_path):
    """The first reply has one good question, one with a placeholder, one without an answer."""

    def reply(body, before):
        text = str(body["messages"])
        if "one to five words" in text and "asked this before" not in text:
            return "<Q1>How many lamps?</Q1><A1>19</A1><Q2>Who is {person}?</Q2><A2>Ann</A2><Q3>Where?</Q3>"
        return fake_model.reply(body)

    with FakeServer(reply) as server:
        project = project_of(tmp_path, server, 1, json_schema=False, config={"languages": ["en"]})
        run(project, "caption", "generate")
    rows = items_of(project, "type = 'short'")
    assert sorted(row.reason for row in rows) == ["", "", "", "", "no_answer", "placeholder"]
    (mending,) = (b["messages"][1]["content"] for b in server.bodies if "asked this before" in str(b))
    assert "Write 2 questions" in mending
    assert "- How many lamps?: 19" in mending
    assert REASONS["placeholder"] in mending
    assert "Who is {person}?" in mending
    assert REASONS["no_answer"] in mending


def test_a_reply_that_stays_bad_is_given_up_and_accounted_for(tmp_path):
    def reply(body, before):
        return "Here you are: nothing." if "one to five words" in str(body) else fake_model.reply(body)

    with FakeServer(reply) as server:
        project = project_of(tmp_path, server, 1, config={"languages": ["en"]})
        run(project, "caption", "generate")
        asked = len(server.bodies)
        run(project, "generate")
        assert len(server.bodies) == asked
    assert [row.reason for row in items_of(project, "type = 'short'")] == ["no_items"] * 3
    assert asked == 1 + 3 + 3


def test_judgements_are_asked_for_until_both_answers_are_there(tmp_path):
    def reply(body, before):
        said = fake_model.reply(body)
        if "yes or no:" in str(body) and "asked this before" not in str(body):
            items = json.loads(said)["items"]
            return json.dumps({"items": [item for item in items if item["answer"] == "yes"]})
        return said

    with FakeServer(reply) as server:
        project = project_of(tmp_path, server, 1, config={"languages": ["en"]})
        run(project, "caption", "generate")
    (mending,) = (b["messages"][1]["content"] for b in server.bodies if "asked this before" in str(b))
    assert "0 whose answer is yes and 2 whose answer is" in mending
    answers = collections.Counter(
        from_body(x.body)[0].answer for x in items_of(project, "type = 'judgement' AND state = 'good'")
    )
    assert answers["no"] == 2


def test_questions_that_many_pictures_have_and_those_of_benchmarks_are_refused(tmp_path):
    (tmp_path / "benchmark.jsonl").write_text(
        json.dumps({"text": "<image>\nWhich colour is the WALL?\nAnswer with the letter."}) + "\n"
    )
    (tmp_path / "lines.txt").write_text("What stands on the right?\n\n")
    config = {
        "languages": ["en"],
        "generate": {"most_same": 2, "repairs": 0, "benchmarks": ["../benchmark.jsonl", "../lines.txt"]},
    }

    def reply(body, before):
        if "one to five words" in str(body):
            return '{"items": [{"question": "Is it day?", "answer": "yes"}, {"question": "What stands on the right?", "answer": "x"}]}'
        return fake_model.reply(body)

    with FakeServer(reply) as server:
        project = project_of(tmp_path, server, 4, config=config)
        run(project, "caption", "generate")
    short = collections.Counter(row.reason for row in items_of(project, "type = 'short'"))
    assert short == {"": 2, "overused": 2, "benchmark": 4}
    choice = collections.Counter(row.reason for row in items_of(project, "type = 'choice'"))
    assert choice["benchmark"] == 4


def test_the_right_option_is_at_every_place_as_often():
    item = Item("choice", "Which?", "A", ("red", "green", "blue", "black"))
    drawn = [shuffled(item, str(seed)) for seed in range(4000)]
    counts = collections.Counter(x.answer for x in drawn)
    assert all(900 < counts[letter] < 1100 for letter in "ABCD")
    assert all(x.answer_text == "red" and sorted(x.options) == sorted(item.options) for x in drawn)
    assert shuffled(item, "7") == shuffled(item, "7")


@pytest.mark.parametrize("last", ["All of the above", "以上都是", "Both A and B", "None of these"])
def test_options_that_speak_of_others_stay_where_they_are(last):
    item = Item("choice", "Which?", "A", ("red", "green", "blue", last))
    assert all(shuffled(item, str(seed)) == item for seed in range(20))


def test_a_second_model_s_doubts_are_for_people(tmp_path):
    def reply(body, before):
        text = str(body["messages"])
        if "check the questions" in text:
            return "No, the wall is not that colour." if "is the wall" in text.lower() else "Yes."
        return fake_model.reply(body)

    with FakeServer(reply) as server:
        config = {"languages": ["en"]}
        project = project_of(tmp_path, server, 2, steps=(*STEPS, "judge"), config=config)
        run(project, "caption", "generate")
        asked = len(server.bodies)
        run(project, "generate")
        assert len(server.bodies) == asked
    judged = {row.id: row for row in items_of(project, "state = 'doubtful'")}
    assert len(judged) == 4  # one judgement and one choice of each picture
    assert {row.reason for row in judged.values()} == {"judge"}
    assert all("the wall" in row.body.lower() for row in judged.values())
    assert len(items_of(project, "state = 'good'")) == 2 * 13 - 4


def test_no_second_model_is_asked_about_items_whose_picture_was_dropped(tmp_path):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 2, config={"languages": ["en"]})
        run(project, "caption", "generate")
    judge = Judge(load_domains())
    with Ledger(project.ledger) as ledger:
        assert len(list(judge.asks(ledger))) == 2 * 13
        first, second = sorted(set(judge.images(ledger)))
        ledger.query("UPDATE images SET state = 'dropped', reason = 'replaced' WHERE sha = ?", (first,))
        assert set(judge.images(ledger)) == {second}
        assert {ask.image for ask in judge.asks(ledger)} == {second}


def test_conversations_have_enough_rounds_or_none(tmp_path):
    def reply(body, before):
        said = fake_model.reply(body)
        if "conversation of" in str(body) and "asked this before" not in str(body):
            return json.dumps({"items": json.loads(said)["items"][:2]})
        return said

    with FakeServer(reply) as server:
        project = project_of(tmp_path, server, 1, config={"languages": ["en"], "expand": {"rounds": 4}})
        run(project)
    rows = items_of(project, "type = 'conversation'")
    assert sorted(row.reason for row in rows) == ["", "few_rounds"]
    (good,) = (row for row in rows if row.state == "good")
    assert len(from_body(good.body)) >= 4
    assert "conversation of 6 rounds" in str(server.bodies)
