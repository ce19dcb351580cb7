"""Captions: what is asked about a picture, which replies are none, and that they reach the questions."""

import base64
import collections
import io
import json
import re

import pytest
from PIL import Image

from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.pictures.collect import collect
from mmfuser_jax.mminstruct.reasons import MEANINGS as REASONS
from mmfuser_jax.mminstruct.schema import AnswerRow, Texts
from mmfuser_jax.mminstruct.steps.captions import caption_of
from mmfuser_jax.mminstruct.steps.servers import StoppedError
from tests import fake_model
from tests.fake_openai import FakeServer, completion
from tests.step_project import contents, items_of, project_of, run
from tests.test_collect import scene


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
