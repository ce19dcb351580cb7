"""What the review page shows in a real browser: whatever a model wrote stays text, and everything fits."""

import pytest
from playwright.sync_api import expect

from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.questions.items import Item, from_body
from mmfuser_jax.mminstruct.review.decisions import verdicts_of
from tests import review_browser
from tests.review_browser import counts, press, ready
from tests.review_project import CHOICE, LONG, answer, item, project_of, served

browser, visit = review_browser.browser, review_browser.visit  # fixtures


def test_without_the_token_the_browser_sees_nothing(tmp_path, browser):
    with served(project_of(tmp_path, [item("x")])) as url:
        context = browser.new_context()
        page = context.new_page()
        for path in ("", "page.js", "api/start", "picture/picture", "?token=wrong"):
            answer = page.goto(url.partition("?")[0] + path)
            assert answer.status == 403
            assert (
                page.locator("body").inner_text()
                == "403: open the address that the program has printed, with its token"
            )
        context.close()


EVIL = (
    "<script>window.hacked = 1; alert(1)</script>",
    '<img src=x onerror="window.hacked = 1; alert(1)">',
    "<svg onload=alert(1)><iframe srcdoc='<script>parent.hacked = 1</script>'>",
    "</p></article><script>alert(1)</script>",
)


def test_scripts_in_captions_questions_options_and_provenance_stay_text(tmp_path, visit):
    choice = Item("choice", f"Evil {EVIL[0]}?", "A", EVIL)
    long = Item("long", f"Long {EVIL[1]}?", f"{EVIL[0]} {EVIL[1]}")
    project = project_of(tmp_path, [item("a", choice), item("b", long, Item("short", EVIL[3], EVIL[2]))], twice=1.0)
    with Ledger(project.ledger) as ledger:
        ledger.add(answer("other caption", "caption", "picture", "".join(EVIL)))
        ledger.query("UPDATE answers SET model = ?, prompt = ?", EVIL[:2])
        ledger.query("UPDATE images SET origin = ?", EVIL[1:2])
        ledger.query("UPDATE items SET state = 'doubtful', reason = ?", EVIL[:1])
    with served(project, EVIL[0]) as url:
        page = ready(visit(url))
        for _ in range(2):
            for texts in (EVIL[0], EVIL[1]):
                assert texts in page.locator("body").inner_text()
            press(page, "e")
            page.get_by_label("question").first.press("End")
            page.keyboard.type(f" {EVIL[1]}")
            assert page.locator("ins").count()
            press(page, "Control+Enter")
        press(page, "ArrowLeft", "ArrowLeft")
        assert EVIL[1] in page.locator(".question").first.inner_text()
        assert page.evaluate("window.hacked") is None
        assert page.locator("main img, main script, main svg, main iframe").count() == 1  # the picture
        assert page.locator("#picture").get_attribute("src") == "picture/picture"
    with Ledger(project.ledger) as ledger:
        assert EVIL[1] in from_body(verdicts_of(ledger, "a")[0].body)[0].question


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_usual_items_need_no_scrolling_and_everything_has_a_label(tmp_path, visit, scheme):
    words = (
        "The poster shows a title in capital letters, a date, a place and a price, all of them centred on light paper. "
    )
    talk = [Item("long", f"What does part {x} of the poster say to visitors?", words) for x in range(4)]
    project = project_of(tmp_path, [item("a"), item("b", *talk), item("c", LONG, image="other")])
    with Ledger(project.ledger) as ledger:
        ledger.query("UPDATE answers SET text = ? WHERE step = 'caption'", (words * 10,))
    with served(project, "anna") as url:
        page = ready(visit(url, color_scheme=scheme))
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(23, 25, 28)" if scheme == "dark" else "rgb(246, 245, 242)")
        for _ in range(3):
            assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")
            assert page.evaluate(
                "(({ scrollHeight, clientHeight }) => scrollHeight <= clientHeight)(document.getElementById('item'))"
            )
            size = page.locator("#picture").bounding_box()
            assert size["height"] > 250
            page.keyboard.press("e")
            unnamed = "[...document.querySelectorAll('input, select, textarea')].filter((x) => !x.labels.length && !x.ariaLabel).length"
            assert page.evaluate(unnamed) == 0
            press(page, "Escape", "a")


def test_help_and_the_closer_look(tmp_path, visit):
    with served(project_of(tmp_path, [item("x")]), "anna") as url:
        page = ready(visit(url))
        page.keyboard.press("?")
        expect(page.locator("#help")).to_be_visible()
        page.keyboard.press("a")  # nothing happens behind it
        page.keyboard.press("Escape")
        expect(page.locator("#help")).to_be_hidden()
        assert "0 of 1 done" in counts(page)
        before = page.locator("#picture").bounding_box()["width"]
        press(page, "z")
        assert page.locator("#picture").bounding_box()["width"] == pytest.approx(3 * before)
        page.locator("#frame").click()
        assert page.locator("#picture").bounding_box()["width"] == before
        press(page, "r")
        assert page.locator("#reasons button").count() == 9
        press(page, "Escape")
        expect(page.locator("#reasons")).to_be_hidden()


WORDS = (
    ("a red box", "a blue box", [["same", "a "], ["gone", "red"], ["new", "blue"], ["same", " box"]]),
    ("一张海报", "一张大海报", [["same", "一张"], ["new", "大"], ["same", "海报"]]),
    ("", "new", [["new", "new"]]),
    ("old", "", [["gone", "old"]]),
    ("same", "same", [["same", "same"]]),
    ("x " * 2000, "y", [["gone", "x " * 2000], ["new", "y"]]),
)


def test_what_has_changed_is_shown_by_words(tmp_path, visit):
    with served(project_of(tmp_path, [item("x", CHOICE)]), "anna") as url:
        page = ready(visit(url))
        for before, after, expected in WORDS:
            assert (
                page.evaluate("async ([a, b]) => (await import('/words.js')).changes(a, b)", [before, after])
                == expected
            )
