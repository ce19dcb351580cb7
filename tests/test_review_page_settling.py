"""The review page in a real browser: edits that are kept, conflicts that are settled, and what people are told."""

import pytest
from playwright.sync_api import expect

from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.questions.items import Item, from_body
from mmfuser_jax.mminstruct.review.decisions import decisions, verdicts_of
from tests import review_browser
from tests.review_browser import counts, press, ready, shown, sign_in, states
from tests.review_project import CHOICE, LONG, SHORT, changed, item, many, project_of, say, served

browser, visit = review_browser.browser, review_browser.visit  # fixtures


def decided(project, name="x"):
    """(verdict, exchanges of the body that is used)."""
    with Ledger(project.ledger) as ledger:
        (made,) = [made for row, made in decisions(ledger) if row.id == name]
        return verdicts_of(ledger, name)[-1].verdict, from_body(made.body)


def edited(page, label, text):
    press(page, "e")
    page.get_by_label(label).fill(text)
    press(page, "Control+Enter", "ArrowLeft")


def test_who_accepts_what_they_have_edited_keeps_the_edit(tmp_path, visit):
    project = project_of(tmp_path, [item("x", SHORT)])
    with served(project, "anna") as url:
        page = ready(visit(url))
        edited(page, "answer", "10 May")
        assert page.locator(".answer ins").inner_text() == "10"
        press(page, "a", "ArrowLeft")
        assert page.locator("#own").inner_text() == "You have decided: edit."
        assert decided(project) == ("edit", (Item("short", SHORT.question, "10 May"),))

        press(page, "e", "Alt+g")
        assert page.get_by_label("answer").input_value() == SHORT.answer
        press(page, "Control+Enter", "ArrowLeft")
        assert page.locator("#own").inner_text() == "You have decided: accept."
        assert decided(project) == ("accept", (SHORT,))


def test_what_was_written_is_not_lost_by_one_press_of_escape(tmp_path, visit):
    with served(project_of(tmp_path, [item("x", SHORT)]), "anna") as url:
        page = ready(visit(url))
        press(page, "e", "Escape")
        expect(page.locator("#saving")).to_be_hidden()  # nothing was written
        press(page, "e")
        answer = page.get_by_label("answer")
        answer.fill("10 May")
        for event in ({"isComposing": True}, {"keyCode": 229}):
            answer.dispatch_event("keydown", {"key": "Escape", "bubbles": True, **event})
        assert page.locator("#message").inner_text() == ""
        press(page, "Escape")
        assert page.locator("#message").inner_text() == "Esc once more drops what you have written."
        assert answer.input_value() == "10 May"
        answer.press("End")
        page.keyboard.type("!")
        press(page, "Escape")
        assert answer.input_value() == "10 May!"
        press(page, "Escape")
        assert page.locator(".answer").inner_text() == SHORT.answer


def test_after_a_verdict_that_is_saved_without_another_item_coming_no_key_does_harm(tmp_path, visit):
    project = project_of(tmp_path, [item("x", SHORT), item("y", SHORT)])
    with served(project, "anna") as url:
        page = ready(visit(url))
        press(page, "e")
        page.get_by_label("answer").fill("10 May")
        page.route("**/api/next*", lambda route: route.abort())
        for key in ("Control+Enter", "Escape", "Alt+g", "Control+Enter", "a", "e", "r", "1"):
            press(page, key)
            assert page.locator("#message").inner_text() == "The server does not answer. Is it still running?"
        expect(page.locator("textarea")).to_have_count(0)
        assert page.locator(".answer ins").inner_text() == "10"  # as it was saved
        for button in page.locator("#reasons button").all():
            button.evaluate("button => button.click()")
        page.unroute("**/api/next*")
        press(page, "ArrowRight")
        assert shown(page) == "y"
    assert decided(project) == ("edit", (Item("short", SHORT.question, "10 May"),))


def test_a_shortened_conversation_is_edited_again_as_it_was(tmp_path, visit):
    project = project_of(tmp_path, [item("x", CHOICE, LONG, SHORT)])
    with served(project, "anna") as url:
        page = ready(visit(url))
        press(page, "e")
        page.get_by_label("question").nth(0).fill("Which of these is on the poster?")
        page.get_by_label("option D").fill("A cat")
        page.get_by_label("D is right").check()
        page.get_by_label("keep this round").nth(2).uncheck()
        press(page, "Control+Enter", "ArrowLeft")
        assert page.locator(".left-out .question").all_inner_texts() == [SHORT.question]
        press(page, "e")
        assert [box.is_checked() for box in page.get_by_label("keep this round").all()] == [True, True, False]
        assert page.get_by_label("option D").input_value() == "A cat"
        page.get_by_label("option C").fill("A dog")
        press(page, "Control+Enter")
    choice = Item("choice", "Which of these is on the poster?", "D", ("Red", "Blue", "A dog", "A cat"))
    assert decided(project) == ("edit", (choice, LONG))


def disagreeing(tmp_path, *verdicts):
    project = project_of(tmp_path, [item("x")], twice=1.0)
    with Ledger(project.ledger) as ledger:
        for given in verdicts:
            say(ledger, "x", *given)
    return project


EDIT = changed(CHOICE, question="Which colour has the frame?")
CONFLICT = (("anna", "edit", "", changed(CHOICE, answer="A")), ("bob", "edit", "", EDIT), ("dora", "reject", "unclear"))


@pytest.mark.parametrize(
    ("key", "verdict", "body"), [("2", "edit", EDIT), ("3", "reject", item("x").body), ("a", "accept", item("x").body)]
)
def test_a_conflict_is_settled_by_what_one_of_the_people_has_said(tmp_path, visit, key, verdict, body):
    project = disagreeing(tmp_path, *CONFLICT)
    with served(project, "carla") as url:
        page = ready(visit(url))
        page.get_by_label("show").select_option("conflicts")
        ready(page)
        assert page.get_by_role("button", name="take this").count() == 3
        press(page, "e")
        assert page.get_by_role("button", name="take this").first.is_disabled()
        press(page, "Escape", key)
        assert page.locator("#nothing").inner_text() == "There is no conflict to settle."
        press(page, "1")
        assert page.locator("#message").inner_text() == ""
        assert page.locator(".take").count() == 0
    with Ledger(project.ledger) as ledger:
        last = verdicts_of(ledger, "x")[-1]
        ((_, made),) = decisions(ledger)
    assert (last.reviewer, last.verdict, last.final) == ("carla", verdict, 1)
    assert last.reason == ("unclear" if key == "3" else "")
    assert (made.state, made.body) == ("rejected" if key == "3" else "accepted", body)


def test_a_conflict_that_vanishes_while_somebody_settles_it_blocks_nobody(tmp_path, visit):
    project = disagreeing(tmp_path, ("anna", "accept"), ("bob", "reject", "unclear"))
    with served(project) as url:
        pages = {name: sign_in(visit(url), name) for name in ("carla", "bob")}
        carla = pages["carla"]
        carla.get_by_label("show").select_option("conflicts")
        ready(carla)
        press(pages["bob"], "u", "a")
        press(carla, "r", "1")
        assert "there is no conflict about item 'x' to be settled" in carla.locator("#message").inner_text()
        expect(carla.locator("#others")).to_be_hidden()
        press(carla, "a")
        assert carla.locator("#nothing").inner_text() == "There is no conflict to settle."
    assert states(project)["x"] == ("accepted", "")


def test_who_has_done_their_part_is_told_that_a_second_person_is_wanted(tmp_path, visit):
    project = project_of(tmp_path, many(2), twice=1.0)
    with served(project, "anna") as url:
        page = ready(visit(url))
        press(page, "a", "a")
        assert "0 of 2 done" in counts(page)
        assert page.locator("#nothing").inner_text() == (
            "There is nothing left for you to look at. "
            "2 items wait for a second person, who can open the same address under another name."
        )
        with Ledger(project.ledger) as ledger:
            ledger.add(item("new", SHORT))
        press(page, "ArrowRight")  # looks again
        assert shown(page) == "new"


def test_nobody_gets_past_the_question_for_a_name_without_one(tmp_path, visit):
    with served(project_of(tmp_path, many(2))) as url:
        page = visit(url)
        expect(page.locator("#ask-name")).to_be_visible()
        expect(page.locator("#reviewer")).to_have_text("name?")
        for _ in range(3):
            page.keyboard.press("Escape")
            expect(page.locator("#ask-name")).to_be_visible()
        page.evaluate("document.getElementById('forward').click()")
        page.evaluate("document.getElementById('domain').dispatchEvent(new Event('change'))")
        assert page.locator("#message").inner_text() == ""
        sign_in(page, "anna")
        press(page, "a")
        assert "1 of 2 done" in counts(page)
        page.locator("#reviewer").click()
        page.keyboard.press("Escape")  # with a name, that is a way out
        expect(page.locator("#ask-name")).to_be_hidden()
