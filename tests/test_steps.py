"""Steps that ask a model: what they ask, what they keep of the replies, and that nothing is lost, doubled or made up."""

import base64
import collections
import io
import json
import os
import random
import re
import shutil
import signal
import time

import pytest
import yaml
from PIL import Image

from mmfuser_jax.locks import LockedError, locked
from mmfuser_jax.mminstruct.asking.endpoints import AskingError
from mmfuser_jax.mminstruct.asking.shards import merge
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.pictures.collect import collect
from mmfuser_jax.mminstruct.project import CONFIG, Project, ProjectError, init_project
from mmfuser_jax.mminstruct.questions.items import LETTERS, Item, from_body
from mmfuser_jax.mminstruct.questions.keeping import shuffled
from mmfuser_jax.mminstruct.questions.seed_questions import load_domains
from mmfuser_jax.mminstruct.reasons import MEANINGS as REASONS
from mmfuser_jax.mminstruct.schema import AnswerRow, Batch, ItemRow, Texts
from mmfuser_jax.mminstruct.steps.captions import caption_of
from mmfuser_jax.mminstruct.steps.estimating import estimate
from mmfuser_jax.mminstruct.steps.work import StoppedError, Way, work
from tests import fake_model
from tests.fake_openai import FakeServer, completion
from tests.nursery import nursery
from tests.test_collect import scene

STEPS = ("caption", "generate", "expand")


def project_of(folder, server, pictures=3, *, domain="posters", tags=(), steps=STEPS, config=None, **settings):
    """A project with pictures in its store, and a server."""
    source = folder / "source"
    source.mkdir(parents=True, exist_ok=True)
    for seed in range(pictures):
        scene(seed).save(source / f"{seed}.png")
    init_project(folder / "project", "tried", domain, source)
    path = folder / "project" / CONFIG
    fields = yaml.safe_load(path.read_text()) | (config or {})
    fields["collect"]["sources"][0]["tags"] = list(tags)
    fields["servers"] = [
        {"base_url": server.base_url, "model": "gpt-4o-mini", "steps": list(steps), "patience": 0.01, **settings}
    ]
    path.write_text(yaml.safe_dump(fields, allow_unicode=True))
    project = Project(folder / "project")
    with Ledger(project.ledger) as ledger:
        collect(project, ledger)
    return project


def run(project, *steps):
    with Ledger(project.ledger) as ledger:
        for step in steps or STEPS:
            work(project, ledger, step)


def contents(project, costs=True):
    """What came of it, without times."""
    with Ledger(project.ledger) as ledger:
        dropped = {"seconds", "attempts"} | (set() if costs else {"usd", "input_tokens", "output_tokens"})
        answers = [
            {name: value for name, value in vars(row).items() if name not in dropped}
            for row in ledger.rows(AnswerRow, order="key")
        ]
        return answers, [vars(row) for row in ledger.rows(ItemRow, order="id")]


def items_of(project, where="1", values=()):
    with Ledger(project.ledger) as ledger:
        return list(ledger.rows(ItemRow, where, values, "id"))


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


def test_again_it_asks_and_changes_nothing(tmp_path):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server)
        run(project)
        before, asked = contents(project), len(server.bodies)
        run(project)
        assert len(server.bodies) == asked
    assert contents(project) == before


def test_the_order_of_answers_changes_nothing(tmp_path):
    rng = random.Random(0)

    def late(body, before):
        time.sleep(rng.random() * 0.01)
        return fake_model.reply(body)

    found = []
    for name, reply in (("a", fake_model.reply), ("b", late)):
        with FakeServer(reply) as server:
            project = project_of(tmp_path / name, server)
            run(project)
        found.append(contents(project))
    assert found[0] == found[1]


def test_a1_an_error_is_never_data(tmp_path):
    with FakeServer(lambda *_: (500, {}, {"error": {"message": "error"}})) as server:
        project = project_of(tmp_path, server, 1, config={"languages": ["en"]})
        with pytest.raises(StoppedError, match=r"caption: 1 questions had no answer .*run it again"):
            run(project)
        assert {x["reason"] for x in contents(project)[0]} == {"busy"}
        server.reply = lambda *_: "error"
        run(project)
        with Ledger(project.ledger) as ledger:
            assert caption_of(ledger, next(iter(ledger.query("SELECT sha FROM images")))[0], "en") == ""
    assert {x["reason"] for x in contents(project)[0]} <= {"busy", "caption_short"}
    assert not items_of(project)


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


def test_a3_captions_reach_the_questions_with_tags_and_texts(tmp_path):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 1, tags=["film", "sea"])
        with Ledger(project.ledger) as ledger, ledger.changes():
            sha = ledger.query("SELECT sha FROM images")[0][0]
            ledger.add(Texts(sha, json.dumps(["GRAND SALE"])))
        run(project)
        with Ledger(project.ledger) as ledger:
            captions = {language: caption_of(ledger, sha, language) for language in ("en", "zh")}
    for body in server.bodies:
        text = json.dumps(body["messages"], ensure_ascii=False)
        assert "film,sea" in text.replace(", ", ",")
        assert "GRAND SALE" in text
    questions = [
        body["messages"][1]["content"] for body in server.bodies if isinstance(body["messages"][1]["content"], str)
    ]
    assert len(questions) >= 10
    assert all((captions["en"] in text) != (captions["zh"] in text) for text in questions)


def test_a6_a_picture_without_words_is_not_dropped(tmp_path):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 4)
        run(project, "caption")
        with Ledger(project.ledger) as ledger:
            shas = [sha for (sha,) in ledger.query("SELECT sha FROM images")]
            assert all(caption_of(ledger, sha, "en") for sha in shas)
            assert len(shas) == 4


def test_c3_a_caption_in_another_language_is_asked_for_again(tmp_path):
    def reply(body, before):
        said = fake_model.reply(body)
        wrong = "Chinese" not in str(body) and "中文" in str(body) and "这样问过你" not in str(body)
        return fake_model.describe("x", "en") if wrong and "描述图片" in str(body) else said

    with FakeServer(reply) as server:
        project = project_of(tmp_path, server, 2)
        run(project, "caption")
        with Ledger(project.ledger) as ledger:
            reasons = collections.Counter((x.language, x.reason) for x in ledger.rows(AnswerRow))
            assert reasons == {("en", ""): 2, ("zh", "caption_language"): 2, ("zh", ""): 2}
            for (sha,) in ledger.query("SELECT sha FROM images"):
                assert re.search("[\u4e00-\u9fff]", caption_of(ledger, sha, "zh"))
                assert not re.search("[\u4e00-\u9fff]", caption_of(ledger, sha, "en"))


def test_c4_pictures_are_sent_large_enough_for_small_print(tmp_path):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 1)
        run(project, "caption")
        server.bodies.clear()
        scene(5, (300, 150)).resize((3000, 1500)).save(tmp_path / "source" / "large.png")
        with Ledger(project.ledger) as ledger:
            collect(project, ledger)
        run(project, "caption")
    assert len(server.bodies) == 2
    for body in server.bodies:
        part = body["messages"][1]["content"][1]["image_url"]
        picture = Image.open(io.BytesIO(base64.b64decode(part["url"].partition("base64,")[2])))
        assert picture.size == (1024, 512)
        assert part.get("detail", "auto") != "low"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("I'm sorry, I cannot see the image.", "caption_refusal"),
        ("A boat.", "caption_short"),
        ((200, {}, completion("On the left there", {"model": "m"}, "length")), "cut_off"),
        ((200, {}, completion(None, {"model": "m"}, refusal="No.")), "refusal"),
        ((200, {}, completion("", {"model": "m"}, "content_filter")), "content_filter"),
    ],
)
def test_captions_that_are_of_no_use(tmp_path, said, reason):
    with FakeServer(lambda *_: said) as server:
        project = project_of(tmp_path, server, 1, config={"languages": ["en"]})
        run(project)
    answers, items = contents(project)
    assert {x["reason"] for x in answers} == {reason}
    assert len(answers) == (1 if reason == "content_filter" else 3)
    assert not items
    assert reason in REASONS
    if reason == "cut_off":
        assert [body["max_tokens"] for body in server.bodies] == [1024, 2048, 2048]


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


def test_mistakes_with_benchmarks_are_named(tmp_path):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 1, config={"generate": {"benchmarks": ["gone.txt"]}})
        with pytest.raises(ProjectError, match=r"gone.txt: generate.benchmarks: No such file"):
            run(project, "generate")
        (project.folder / "gone.txt").write_text("\n")
        with pytest.raises(ProjectError, match=r"gone.txt: no question in it"):
            run(project, "generate")


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


def test_the_budget_ends_a_step_and_a_higher_one_goes_on(tmp_path):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 4, config={"budget_usd": 0.001})
        with pytest.raises(StoppedError, match=r"budget_usd \(\$0.001\)"):
            run(project)
        with Ledger(project.ledger) as ledger:
            assert 0 < ledger.spent() <= 0.001
        path = project.folder / CONFIG
        path.write_text(path.read_text().replace("budget_usd: 0.001", "budget_usd: 1.0"))
        project = Project(project.folder)
        run(project)
    assert len(items_of(project, "state = 'good'")) == 4 * 2 * 14


def test_b5_all_that_led_to_an_answer_is_kept(tmp_path):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 1)
        run(project)
        with Ledger(project.ledger) as ledger:
            rows = list(ledger.rows(AnswerRow))
            assert ledger.spent() == pytest.approx(len(rows) * (100 * 0.15 + 20 * 0.6) / 1e6)
    for row in rows:
        assert (row.model, row.finish, row.attempts) == ("gpt-4o-mini", "stop", 1)
        assert (row.input_tokens, row.output_tokens) == (100, 20)
        assert re.fullmatch(r"\w+\.(en|zh) [0-9a-f]{8}", row.prompt)
        assert 0 < row.seconds < 60
    assert len({row.seed for row in rows}) == len(rows)
    assert sorted(row.seed for row in rows) == sorted(body["seed"] for body in server.bodies)


def test_servers_of_a_step_are_alike_and_there_is_one(tmp_path):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 1, steps=["caption"])
        run(project, "caption")
        with pytest.raises(ProjectError, match=r"project.yaml: servers: none for generate; add one"):
            run(project, "generate")
        path = project.folder / CONFIG
        fields = yaml.safe_load(path.read_text())
        fields["servers"].append(fields["servers"][0] | {"model": "gpt-4o"})
        path.write_text(yaml.safe_dump(fields))
        with pytest.raises(
            ProjectError, match=r"servers of caption: model is gpt-4o and gpt-4o-mini; make it the same"
        ):
            run(Project(project.folder), "caption")


def test_what_was_foretold_is_near_what_it_came_to(tmp_path):
    """The server counts tokens as many do: four letters each, or one Chinese character and a half."""

    def tokens(text):
        wide = sum(ord(letter) > 0x2E80 for letter in text)
        return round(wide / 1.5 + (len(text) - wide) / 4)

    def reply(body, before):
        said = fake_model.reply(body)
        content = body["messages"][1]["content"]
        words = content if isinstance(content, str) else content[0]["text"]
        answer = completion(said, body)
        answer["usage"] = {
            "prompt_tokens": tokens(words + body["messages"][0]["content"]) + (765 if words is not content else 0),
            "completion_tokens": tokens(said) * 2, "total_tokens": 0,
        }  # fmt: skip
        return 200, {}, answer

    with FakeServer(reply) as server:
        project = project_of(tmp_path, server, 12)
        with Ledger(project.ledger) as ledger:
            foretold = {x.step: x for x in estimate(project, ledger)}
            for step in STEPS:
                work(project, ledger, step)
            for step, x in foretold.items():
                asked, usd = ledger.query("SELECT count(*), sum(usd) FROM answers WHERE step = ?", (step,))[0]
                assert not x.measured
                assert x.asks <= asked
                assert 0.3 * usd < x.usd < 3 * usd < 3 * x.most
            scene(77).save(tmp_path / "source" / "new.png")
            collect(project, ledger)
            again = estimate(project, ledger)
            before = ledger.spent()
            for step in STEPS:
                work(project, ledger, step)
            assert all(x.measured for x in again[:2])
            assert sum(x.usd for x in again) == pytest.approx(ledger.spent() - before, rel=0.5)


KILLED = 10
"""Pictures of the project whose processes are killed."""


def works(folder):
    """In a child that is killed."""
    run(Project(folder / "project"))


def test_thirty_kills_in_all_steps_lose_and_double_nothing(tmp_path):
    with FakeServer(fake_model.reply) as server:
        calm = project_of(tmp_path / "calm", server, KILLED)
        run(calm)
    rng, kills = random.Random(1), 0
    with FakeServer(fake_model.reply, latency=0.005) as server:
        project = project_of(tmp_path / "killed", server, KILLED, most=8)
        path = tmp_path / "killed" / "errors"
        with nursery("tests.test_steps", tmp_path / "killed") as children:
            while kills < 30:
                sent, child = len(server.bodies), children.begin("works")
                while len(server.bodies) < sent + rng.randrange(1, 12) and children.lives(child):
                    time.sleep(rng.random() * 0.01)
                if not children.lives(child):
                    break
                os.kill(child, signal.SIGKILL)
                assert children.end() == -signal.SIGKILL, children.errors()
                kills += 1
            children.begin("works")
            assert children.end() == 0, path.read_text()
    assert kills == 30
    answers, items = contents(project)
    expected = contents(calm)
    assert items == expected[1]
    assert answers == expected[0]
    assert len(answers) <= len(server.bodies) <= len(answers) + kills * 8


def without_money(rows):
    return [{name: value for name, value in row.items() if name != "usd"} for row in rows]


def test_questions_in_files_come_to_the_same_at_half_the_price(tmp_path):
    with FakeServer(fake_model.reply) as server:
        direct = project_of(tmp_path / "direct", server, 2)
        run(direct)
        filed = project_of(tmp_path / "filed", server, 2, batch=True, patience=0.001)
        run(filed)
    (answers, items), (expected, expected_items) = contents(filed), contents(direct)
    assert items == expected_items
    assert without_money(answers) == without_money(expected)
    assert [x["usd"] for x in answers] == pytest.approx([x["usd"] / 2 for x in expected])


def test_parts_asked_on_two_machines_are_merged_to_the_same(tmp_path):
    with FakeServer(fake_model.reply) as server:
        whole = project_of(tmp_path / "whole", server, 6)
        run(whole)
        main = project_of(tmp_path / "main", server, 6)
        for index in range(2):
            copy = tmp_path / f"copy{index}"
            shutil.copytree(main.folder, copy)
            with Ledger(copy / main.ledger.name) as ledger:
                for step in STEPS:
                    work(Project(copy), ledger, step, Way(f"{index}/2"))
        asked = len(server.bodies)
        with Ledger(main.ledger) as ledger:
            taken = [merge(ledger, tmp_path / f"copy{index}" / main.ledger.name) for index in range(2)]
            assert merge(ledger, tmp_path / "copy0" / main.ledger.name) == 0
        assert min(taken) > 0
        run(main)
        assert len(server.bodies) == asked
    assert contents(main) == contents(whole)


@pytest.mark.parametrize("shard", ["1", "2/2", "a/b", "-1/2"])
def test_a_part_that_is_none_is_refused(tmp_path, shard):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 1)
        with Ledger(project.ledger) as ledger, pytest.raises(ValueError, match="shard"):
            work(project, ledger, "caption", Way(shard))


def test_two_processes_cannot_ask_at_once(tmp_path):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 1)
        with locked(project.folder), pytest.raises(LockedError, match="a run is going on here"):
            run(project)


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ((503, {}, {"error": {"message": "later"}}), "none of the first 8 questions was answered .busy"),
        ((400, {}, {"error": {"message": "no such parameter"}}), "refused_by_server: .*no such parameter"),
        ((200, {}, "<html>welcome</html>"), "garbage"),
        ((402, {}, {"error": {"message": "no credit"}}), "no credit"),
    ],
)
def test_a_server_that_answers_nothing_ends_it_before_it_costs_every_question(tmp_path, said, match):
    with FakeServer(lambda *_: said) as server:
        project = project_of(tmp_path, server, 12)
        with pytest.raises(AskingError, match=match):
            run(project, "caption")
        assert contents(project) == ([], [])
        server.reply = fake_model.reply
        run(project, "caption")
    assert {x["reason"] for x in contents(project)[0]} == {""}


def test_a_question_that_was_refused_is_asked_again_once_the_project_has_changed(tmp_path):
    def reply(body, before):
        if "response_format" in body:
            return 400, {}, {"error": {"message": "no schema here"}}
        return fake_model.reply(body)

    with FakeServer(reply) as server:
        project = project_of(tmp_path, server, 1, config={"languages": ["en"], "generate": {"types": ["short"]}})
        run(project, "caption", "generate")
        assert [x["reason"] for x in contents(project)[0] if x["step"] == "generate"] == ["refused_by_server"]
        asked = len(server.bodies)
        run(project, "generate")
        assert len(server.bodies) == asked
        path = project.folder / CONFIG
        fields = yaml.safe_load(path.read_text())
        fields["servers"][0]["json_schema"] = False
        path.write_text(yaml.safe_dump(fields))
        run(Project(project.folder), "generate")
    assert len(items_of(project, "state = 'good'")) == 3


def test_what_was_paid_becomes_items_whatever_ends_the_step(tmp_path):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 6, config={"budget_usd": 0.01})
        run(project, "caption")
        with Ledger(project.ledger) as ledger:
            spent = ledger.spent()
        path = project.folder / CONFIG
        path.write_text(path.read_text().replace("budget_usd: 0.01", f"budget_usd: {spent + 0.0015}"))
        project = Project(project.folder)
        with pytest.raises(StoppedError, match="budget_usd"):
            run(project, "generate")
        with Ledger(project.ledger) as ledger:
            assert ledger.query("SELECT count(*) FROM answers WHERE read = 0") == [(0,)]
            assert spent < ledger.spent() <= spent + 0.0015
    assert items_of(project, "state = 'good'")


def mends_late(body, before):
    """Half of the first replies lack something, and what mends them repeats what other types ask."""
    said = fake_model.reply(body)
    text = body["messages"][1]["content"]
    if isinstance(text, list) or "conversation" in body["messages"][0]["content"]:
        return said
    items = json.loads(said)["items"]
    if "asked this before" not in text:
        return json.dumps({"items": items[: 1 + len(text) % 3]})
    return json.dumps({"items": [{**items[0], "question": "Which colour do all things have?"}, *items]})


def test_kills_amid_repairs_change_nothing(tmp_path):
    config = {"languages": ["en"], "generate": {"most_same": 3}}
    with FakeServer(mends_late) as server:
        calm = project_of(tmp_path / "calm", server, 8, config=config)
        run(calm)
    assert "repeated" in {row.reason for row in items_of(calm)}
    rng, kills = random.Random(2), 0
    with FakeServer(mends_late, latency=0.005) as server:
        project = project_of(tmp_path / "killed", server, 8, config=config, most=4)
        with nursery("tests.test_steps", tmp_path / "killed") as children:
            while kills < 12:
                sent, child = len(server.bodies) + rng.randrange(1, 14), children.begin("works")
                while len(server.bodies) < sent and children.lives(child):
                    time.sleep(0.002)
                if not children.lives(child):
                    break
                os.kill(child, signal.SIGKILL)
                assert children.end() == -signal.SIGKILL, children.errors()
                kills += 1
            if kills == 12:
                children.begin("works")
            assert children.end() == 0, children.errors()
    assert kills >= 5
    assert contents(project) == contents(calm)


def test_mistakes_with_seeds_and_keys_are_named(tmp_path):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 1)
        path = project.folder / CONFIG
        text = path.read_text()
        for old, new, match in (
            ("generate:\n", "generate:\n  seeds: gone\n", "gone: no such folder of seed questions"),
            ("generate:\n", "generate:\n  seeds: own\n", "no domain is called poster;"),
            ("model: gpt", "keys: [sk-proj-SECRET]\n  model: gpt", "keys themselves stand in no file"),
            ("languages:", "languages: [en, en]\nx:", "languages: .*each only once"),
        ):
            (project.folder / "own").mkdir(exist_ok=True)
            (project.folder / "own" / "poster.yaml").write_text("a: b")
            assert old in text
            path.write_text(text.replace(old, new, 1))
            with pytest.raises(ValueError, match=match) as error:
                run(Project(project.folder), "generate")
            assert "SECRET" not in str(error.value)


def test_questions_before_captions_are_told_what_is_missing(tmp_path, caplog):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 1)
        with caplog.at_level("WARNING", "mmfuser_jax"):
            run(project, "generate")
        assert "generate: no picture has a caption yet; run caption first" in caplog.text
        caplog.clear()
        run(project)
    assert "no picture has a caption" not in caplog.text


@pytest.mark.parametrize(("batch", "step"), [(False, "caption"), (True, "generate"), (False, "generate")])
def test_files_on_their_way_are_taken_first(tmp_path, batch, step):
    with FakeServer(fake_model.reply) as server:
        project = project_of(tmp_path, server, 1, batch=batch, patience=0.001)
        with Ledger(project.ledger) as ledger:
            keys = json.dumps({"step": step, "usd": {"a": 0.1}})
            ledger.add(Batch("file1", server.base_url, "", keys, "sent"))
        with pytest.raises(ProjectError, match=f"take their answers first: {step}, with batch: true"):
            run(project, "caption")
        assert not server.bodies
