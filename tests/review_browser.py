"""The review page in a real browser, and the keys that people press in it."""

import shutil

import pytest
from playwright.sync_api import sync_playwright

from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.review.decisions import decisions

IDLE = "body:not(.busy):not(:has(dialog[open]))"
SHOWN = f"{IDLE}:has(.exchange), {IDLE}:has(#nothing:not([hidden]))"


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if not path:
        pytest.fail("no chromium here; install it with: apt-get install chromium", pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens a page for a person of their own, and sees that nothing goes wrong or elsewhere in it."""
    contexts, wrong = [], []

    def open_page(url, **settings):
        context = browser.new_context(viewport={"width": 1280, "height": 800}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: request.url.startswith(url.partition("?")[0]) or wrong.append(request.url))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)
        page.locator(IDLE).wait_for()


def ready(page):
    page.locator(SHOWN).wait_for()
    return page


def sign_in(page, name):
    """Gives a name where the page asks for it."""
    page.get_by_label("Your name").fill(name)
    page.keyboard.press("Enter")
    return ready(page)


def shown(page):
    """Id of the item."""
    return page.locator("#provenance").inner_text().rpartition("item ")[2]


def states(project):
    with Ledger(project.ledger) as ledger:
        return {row.id: (made.state, made.reason) for row, made in decisions(ledger)}


def counts(page):
    return page.locator("#counts").inner_text()
