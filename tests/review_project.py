"""A project whose items people review, a server that shows them, and what people say of them."""

import contextlib
import queue
import threading

import yaml
from PIL import Image

from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import CONFIG, Project
from mmfuser_jax.mminstruct.questions.items import Item, as_body
from mmfuser_jax.mminstruct.review.server import addresses, opened_review
from mmfuser_jax.mminstruct.schema import AnswerRow, ImageRow, ItemRow, Verdict

TOKEN = "a-token-of-the-test"
CHOICE = Item("choice", "What colour is the frame of the poster?", "B", ("Red", "Blue", "Green", "Black"))
LONG = Item(
    "long", "What does the poster announce?", "It announces a chess tournament in the town hall, on a day in May."
)
SHORT = Item("short", "Which day is printed on the poster?", "12 May")
JUDGEMENT = Item("judgement", "Is the frame of the poster blue?", "yes")


def item(name, *exchanges, state="good", reason="", image="picture", domain="posters", language="en"):
    """A row of the ledger."""
    exchanges = exchanges or (CHOICE,)
    kind = exchanges[0].type if len(exchanges) == 1 else "conversation"
    body = as_body(exchanges)
    return ItemRow(name, f"answer {image}", "generate", image, domain, kind, language, body, name, state, reason)


def many(count, **fields):
    return [item(f"{number:05d}", image=f"{number % 50:03d}", **fields) for number in range(count)]


def project_of(tmp_path, items, **review):
    """A project with a picture and its captions for each that the items are about."""
    folder = tmp_path / "project"
    folder.mkdir()
    fields = {"name": "tried", "review": {"share": 1.0, "least": 0, "twice": 0.0, **review}}
    (folder / CONFIG).write_text(yaml.safe_dump(fields))
    project = Project(folder)
    with Ledger(project.ledger) as ledger, ledger.changes():
        for row in items:
            ledger.add(row)
        for number, sha in enumerate(sorted({row.image for row in items})):
            path = store.place(project.images, sha, ".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (80, 60), (40 + number % 200, 90, 160)).save(path)
            ledger.add(ImageRow(sha, "posters", ".png", 80, 60, 1, f"/pictures/{sha}.png", "", 0, "kept"))
            ledger.add(answer(f"answer {sha}", "generate", sha, "Q1"))
            ledger.add(answer(f"caption {sha}", "caption", sha, f"A poster with a blue frame, {sha}."))
    return project


def answer(key, step, image, text):
    return AnswerRow(
        key, step, "posters", image, "caption", "en", "caption@1", 0, "a-model", text, "stop", "", "", 1, 1, 1, 0.0, 0.0
    )


@contextlib.contextmanager
def served(project, reviewer="", token=TOKEN):
    """A running server; gives its address, with the token."""
    began = queue.Queue()

    def work():
        with opened_review(project, reviewer, "127.0.0.1", 0, token) as (server, listening):
            began.put((server, addresses(listening, token)[0]))
            server.run(sockets=[listening])

    thread = threading.Thread(target=work)
    thread.start()
    server, found = began.get(timeout=60)
    try:
        yield found
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        assert not thread.is_alive()


def say(ledger, name, reviewer, verdict, reason="", body="", final=0, seconds=1.0):
    with ledger.changes():
        ledger.add(Verdict(name, reviewer, verdict, reason, body, final, seconds))


def fields(one, place=0, **changes):
    return {"place": place, "question": one.question, "answer": one.answer, "options": list(one.options), **changes}


def changed(one, **fields):
    return as_body(
        [Item(**{"type": one.type, "question": one.question, "answer": one.answer, "options": one.options, **fields})]
    )
