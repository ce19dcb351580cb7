"""The review page in a real browser: people judge, edit, undo and reload, and lose nothing."""

from playwright.sync_api import expect

from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.questions.items import Item, from_body
from mmfuser_jax.mminstruct.review.decisions import MOST_SECONDS, decisions, verdicts_of
from mmfuser_jax.mminstruct.schema import Verdict
from tests import review_browser
from tests.review_browser import IDLE, counts, press, ready, shown, sign_in, states
from tests.review_project import JUDGEMENT, LONG, SHORT, item, many, project_of, served

browser, visit = review_browser.browser, review_browser.visit  # fixtures


def test_twenty_items_by_keyboard_with_an_edit_undoing_and_a_reload_in_the_middle(tmp_path, visit):
    project = project_of(tmp_path, many(20))
    with served(project, "anna") as url:
        page = ready(visit(url))
        assert page.url == url.partition("?")[0]  # the token is not left in the address
        names = []
        for number in range(8):
            names.append(shown(page))
            press(page, "r", "4") if number % 4 == 3 else press(page, "a")
        assert "8 of 20 done · 8 by you" in counts(page)

        names.append(shown(page))
        press(page, "e")
        page.get_by_label("question").fill("Which colour has the frame?")
        assert page.locator("del").all_inner_texts() != []
        assert "colour has" in "".join(page.locator("ins").all_inner_texts()) or page.locator("ins").count() > 1
        page.get_by_label("C is right").check()
        press(page, "Control+Enter")
        assert shown(page) not in names

        press(page, "u", "u")  # the edit, and what was before it
        assert shown(page) == names[7]
        assert page.locator("#message").inner_text() == "Taken back; decide again."
        assert "7 of 20 done" in counts(page)
        press(page, "r", "1")
        assert shown(page) == names[8]
        press(page, "e")
        page.get_by_label("option B").fill("Navy blue")
        page.reload()
        ready(page)
        assert shown(page) == names[8]
        assert page.get_by_label("option B").input_value() == "Navy blue"
        press(page, "Control+Enter")

        press(page, "ArrowLeft")
        assert shown(page) == names[8]
        assert page.locator("#own").inner_text() == "You have decided: edit."
        assert page.locator(".options ins").inner_text() == "Navy blue"
        press(page, "ArrowRight")
        while page.locator("main").is_visible():
            press(page, "a")
        assert page.locator("#nothing").inner_text() == "There is nothing left for you to look at."
        assert "20 of 20 done · 20 by you" in counts(page)
        page.reload()
        ready(page)
        press(page, "ArrowLeft")
        assert page.locator("main").is_visible()
    found = states(project)
    assert {found[name] for name in names[:3]} == {("accepted", "")}
    assert found[names[3]] == ("rejected", "needs_no_picture")
    assert found[names[7]] == ("rejected", "wrong_answer")
    assert sum(state == "rejected" for state, _ in found.values()) == 2
    with Ledger(project.ledger) as ledger:
        (edited,) = [made for row, made in decisions(ledger) if row.id == names[8]]
    (exchange,) = from_body(edited.body)
    assert (edited.edited, exchange.options, exchange.answer) == (True, ("Red", "Navy blue", "Green", "Black"), "B")


def test_two_people_at_once_share_the_work_and_settle_what_they_disagree_about(tmp_path, visit):
    project = project_of(tmp_path, many(12), twice=0.3)
    with served(project) as url:
        pages = {name: sign_in(visit(url), name) for name in ("anna", "bob")}
        seen = {"anna": [], "bob": []}
        while any(page.locator("main").is_visible() for page in pages.values()):
            now = [shown(page) for page in pages.values() if page.locator("main").is_visible()]
            for name, page in pages.items():
                if page.locator("main").is_visible():
                    seen[name].append(shown(page))
                    press(page, "a") if name == "anna" else press(page, "r", "1")
                else:
                    page.reload()
                    ready(page)
            assert len(now) == len(set(now)) or now[0] in set(seen["anna"]) & set(seen["bob"])
        both = set(seen["anna"]) & set(seen["bob"])
        with Ledger(project.ledger) as ledger:
            assert {row.id for row, made in decisions(ledger) if len(made.reviewers) == 2} == both
        assert 0 < len(both) < 12
        assert set(seen["anna"]) | set(seen["bob"]) == {row.id for row in many(12)}
        assert sum(map(len, seen.values())) == 12 + len(both)

        page = pages["anna"]
        page.get_by_label("show").select_option("conflicts")
        ready(page)
        assert "some take it, others reject it" in page.locator("#others").inner_text()
        assert "bob: reject, the answer is wrong" in page.locator("#others").inner_text()
        for _ in both:
            press(page, "a")
        assert page.locator("#nothing").inner_text() == "There is no conflict to settle."
        assert "agreement" in page.locator("#agreement").inner_text()
    assert {states(project)[name] for name in both} == {("accepted", "")}


def test_an_edit_that_is_refused_says_why_and_is_kept(tmp_path, visit):
    with served(project_of(tmp_path, [item("x")]), "anna") as url:
        page = ready(visit(url))
        press(page, "e")
        page.get_by_label("option A").fill("Blue")
        press(page, "Control+Enter")
        assert page.locator("#message").inner_text() == "two options are the same"
        assert page.get_by_label("option A").input_value() == "Blue"
        page.get_by_label("option B").fill("")
        page.get_by_label("A is right").check()
        page.get_by_role("button", name="one more option").click()
        page.get_by_label("option E").fill("Pink")
        press(page, "Escape", "Escape")
        assert page.locator(".options li").all_inner_texts()[0].startswith("A")
        press(page, "e")
        assert page.get_by_label("option A").input_value() == "Red"  # left as it was
        for label, text in (("option A", ""), ("question", "Which colour has the frame?")):
            page.get_by_label(label).fill(text)
        press(page, "Control+Enter")
        press(page, "ArrowLeft")
        assert "right" in page.locator(".options li").first.inner_text()
        press(page, "e")
        assert page.get_by_label("option A").input_value() == "Blue"
        assert page.get_by_label("A is right").is_checked()


def test_a_round_of_a_conversation_can_be_left_out(tmp_path, visit):
    project = project_of(tmp_path, [item("x", LONG, SHORT, JUDGEMENT)])
    with served(project, "anna") as url:
        page = ready(visit(url))
        assert page.locator(".question").all_inner_texts() == [one.question for one in (LONG, SHORT, JUDGEMENT)]
        press(page, "e")
        page.get_by_label("keep this round").nth(1).uncheck()
        page.get_by_label("No", exact=True).check()
        press(page, "Control+Enter", "ArrowLeft")
        assert page.locator(".left-out .question").all_inner_texts() == [SHORT.question]
    with Ledger(project.ledger) as ledger:
        (verdict,) = verdicts_of(ledger, "x")
    assert [(one.type, one.answer) for one in from_body(verdict.body)] == [("long", LONG.answer), ("judgement", "no")]


def test_seconds_are_counted_while_the_page_is_seen_and_up_to_a_limit(tmp_path, visit, browser):
    project = project_of(tmp_path, many(3))
    with served(project, "anna") as url:
        context = browser.new_context()
        page = context.new_page()
        page.clock.install()
        page.goto(url)
        ready(page)
        names = [shown(page)]
        page.clock.fast_forward(20_000)
        see(page, hidden=True)
        page.clock.fast_forward(100_000)
        see(page, hidden=False)
        page.reload()
        ready(page)
        page.clock.fast_forward(5_000)
        press(page, "a")
        names.append(shown(page))
        page.clock.fast_forward(3_600_000)
        press(page, "a")
        context.close()
    with Ledger(project.ledger) as ledger:
        seconds = [verdicts_of(ledger, name)[0].seconds for name in names]
    assert 25 <= seconds[0] < 45
    assert seconds[1] == MOST_SECONDS


def see(page, hidden):
    page.evaluate(f"""() => {{
      Object.defineProperty(document, "hidden", {{ configurable: true, get: () => {str(hidden).lower()} }});
      document.dispatchEvent(new Event("visibilitychange"));
    }}""")


def test_a_key_that_is_pressed_twice_or_held_judges_one_item_only(tmp_path, visit):
    project = project_of(tmp_path, many(5))
    with served(project, "anna") as url:
        page = ready(visit(url))
        posted = []
        page.on("request", lambda request: posted.append(request.url) if request.method == "POST" else None)
        page.evaluate("""() => {
          for (const repeat of [false, false, true, true]) {
            document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "a", repeat, bubbles: true }));
          }
        }""")
        page.locator(IDLE).wait_for()
        assert "1 of 5 done" in counts(page)
        assert len(posted) == 1


def test_when_the_server_is_gone_the_page_says_so_and_loses_nothing(tmp_path, visit):
    project = project_of(tmp_path, many(2))
    with served(project, "anna") as url:
        page = ready(visit(url))
        name = shown(page)
        page.route("**/api/verdict", lambda route: route.abort())
        press(page, "e")
        page.get_by_label("question").fill("Which colour has the frame?")
        press(page, "Control+Enter")
        assert page.locator("#message").inner_text() == "The server does not answer. Is it still running?"
        assert page.get_by_label("question").input_value() == "Which colour has the frame?"
        page.unroute("**/api/verdict")
        press(page, "Control+Enter")
        assert shown(page) != name
    assert states(project)[name] == ("accepted", "")


def test_a_name_is_asked_once_and_can_be_changed(tmp_path, visit):
    project = project_of(tmp_path, many(3))
    with served(project) as url:
        page = visit(url)
        sign_in(page, "  anna   b ")
        press(page, "a")
        page.reload()
        ready(page)
        expect(page.locator("#reviewer")).to_have_text("anna b")
        page.locator("#reviewer").click()
        sign_in(page, "carla")
        press(page, "a")
    with Ledger(project.ledger) as ledger:
        assert {verdict.reviewer for verdict in ledger.rows(Verdict)} == {"anna b", "carla"}


def test_filters_choose_what_is_shown_and_keys_mean_items_afterwards(tmp_path, visit):
    rows = [
        *many(3),
        item("zh", Item("short", "海报上的日期是什么？", "五月十二日"), language="zh"),
        item("odd", JUDGEMENT, state="doubtful", reason="length"),
    ]
    with served(project_of(tmp_path, rows), "anna") as url:
        page = ready(visit(url))
        assert shown(page) == "odd"
        assert (
            page.locator("#doubt-note").inner_text()
            == "Doubtful: a question, option or answer is too short or too long."
        )
        page.get_by_label("language").select_option("zh")
        ready(page)
        assert shown(page) == "zh"
        press(page, "a")
        assert (
            page.locator("#nothing").inner_text() == "There is nothing left for you to look at that fits the filters."
        )
        page.get_by_label("language").select_option("")
        ready(page)
        assert shown(page) == "odd"
