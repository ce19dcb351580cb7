"""What a project has, at a glance and at once, however much that is."""

import random
import time

import yaml

from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import CONFIG, Project
from mmfuser_jax.mminstruct.questions.seed_questions import domain_names
from mmfuser_jax.mminstruct.schema import AnswerRow, Estimate, Export, Finding, ImageRow, ItemRow, Verdict
from mmfuser_jax.mminstruct.status import next_step, print_status
from tests.exports import project_of

ITEMS, TIMES = 2000, 100

NAMES = {
    "images": {"sha", "origin"}, "findings": {"place", "sha"}, "answers": {"key", "image"},
    "items": {"id", "answer", "image"}, "verdicts": {"item"},
}  # fmt: skip
"""Columns by which rows differ or name others."""


def fill(ledger, items):
    """As many items, of all domains and types, with what they came from."""
    domains, rng = domain_names(), random.Random(0)
    for number in range(items):
        picture = number // 14
        domain, sha = domains[picture % len(domains)], f"{picture:064x}"
        if number % 14 == 0:
            ledger.add(ImageRow(sha, domain, ".jpg", 10, 10, 100, f"/pictures/{picture}", "", picture, "kept"))
            ledger.add(Finding(f"/pictures/{picture}", "1", domain, sha))
        reason = "busy" if rng.random() < 0.05 else ""
        ledger.add(
            AnswerRow(
                f"{number}", ("caption", "generate", "generate", "expand")[number % 4], domain, sha, "short", "en",
                "short.en 1", 1, "m", "words " * 60, "stop", reason, "", 1, 100, 20, 0.001, 1.0, read=1,
            )
        )  # fmt: skip
        state = rng.choices(["good", "doubtful", "refused"], [8, 1, 1])[0]
        kind = rng.choice(["judgement", "choice", "short", "long", "conversation"])
        reason = {"good": "", "doubtful": "judge", "refused": "leak"}[state]
        ledger.add(
            ItemRow(f"{number:x}", f"{number}", "generate", sha, domain, kind, "en", "b" * 200, "q", state, reason)
        )
        if number % 3 == 0:
            ledger.add(Verdict(f"{number:x}", "ann", "accept"))


def multiply(ledger, times):
    """Every row so many times, under other names."""
    numbers = f"(WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < {times - 1}) SELECT x FROM n)"
    for table, names in NAMES.items():
        columns = [row[1] for row in ledger.query(f"PRAGMA table_info({table})") if row[1] != "number"]
        values = [f"{column} || '-' || x" if column in names else column for column in columns]
        ledger.query(f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)} FROM {table}, {numbers}")


def test_two_hundred_thousand_items_are_counted_within_a_second(tmp_path, capsys):
    with Ledger(tmp_path / "ledger") as ledger, ledger.changes():
        fill(ledger, ITEMS)
        multiply(ledger, TIMES)
        assert ledger.query("SELECT count(*) FROM items") == [(ITEMS * TIMES,)]
    project = project_of(tmp_path / "project")
    begun = time.process_time()  # of this process alone, whatever else the machine does
    with Ledger(tmp_path / "ledger") as ledger:
        print_status(ledger)
        print(next_step(project, ledger))
    taken = time.process_time() - begun
    said = capsys.readouterr().out
    assert taken < 1.0
    assert "66,700" in said


def test_the_tables_say_what_there_is(tmp_path, capsys):
    with Ledger(tmp_path / "ledger") as ledger:
        with ledger.changes():
            fill(ledger, 14 * 30)
            ledger.add(Estimate("caption", 999, 1.5, 100, 0.1))
        print_status(ledger)
        said = capsys.readouterr().out
        good = ledger.query("SELECT count(*) FROM items WHERE state = 'good' AND type = 'conversation'")[0][0]
        doubtful = ledger.query("SELECT count(*) FROM items WHERE state = 'doubtful'")[0][0]
        busy = ledger.query("SELECT count(*) FROM answers WHERE reason <> '' AND step = 'caption'")[0][0]
    total = next(line for line in said.splitlines() if line.startswith("all ") and len(line.split()) == 9).split()
    assert (total[5], total[6], total[8]) == (str(good), str(doubtful), "140")
    caption = next(line for line in said.splitlines() if line.startswith("caption")).split()
    assert caption[:3] == ["caption", "105", str(busy)]
    assert "1.5000/999 0.0050/5" in " ".join(caption)
    assert "another model says that it is wrong" in said
    assert "the server had no time for it" in said
    assert max(map(len, said.splitlines())) <= 80


def test_what_was_taken_back_was_not_looked_at(tmp_path, capsys):
    said = {"a": ["accept", "undone"], "b": ["accept", "undone", "reject"], "c": ["accept", "edit", "undone"]}
    with Ledger(tmp_path / "ledger") as ledger:
        for name, verdicts in said.items():
            ledger.add(ItemRow(name, name, "generate", "s", "ocr", "short", "en", "[]", "q", "good"))
            for verdict in verdicts:
                ledger.add(Verdict(name, "ann", verdict))
        ledger.add(Verdict("b", "ben", "accept"))
        print_status(ledger)
    assert next(line for line in capsys.readouterr().out.splitlines() if line.startswith("ocr")).split()[-1] == "2"


def test_the_next_step_is_said_from_the_first_to_the_last(tmp_path):
    project = project_of(tmp_path / "project")
    with Ledger(project.ledger) as ledger:

        def answer(step, reason=""):
            ledger.add(
                AnswerRow(
                    step + reason, step, "ocr", "s", "", "en", "", 1, "m", "", "stop", reason, "", 1, 1, 1, 0.1, 1.0
                )
            )

        def said():
            line = next_step(project, ledger)
            assert line.startswith("next: python launch/mminstruct.py ")
            assert "\n" not in line
            return line.removeprefix("next: python launch/mminstruct.py ")

        assert said().startswith(f"estimate --project={project.folder}   (there are no pictures yet")
        ledger.add(ImageRow("s", "ocr", ".png", 10, 10, 100, "/pictures/s", "", 1, "kept"))
        assert said() == f"run --project={project.folder}   (1 pictures wait for caption)"
        answer("caption", "busy")
        assert said().endswith("(1 questions of caption had no answer, and are asked again)")
        ledger.query("DELETE FROM answers")
        answer("caption", "caption_short")
        assert said().endswith("(there are no items yet)")
        answer("caption")
        assert "1 pictures wait for generate" in said()
        answer("generate")
        for name, state in (("a", "good"), ("b", "doubtful")):
            ledger.add(ItemRow(name, name, "generate", "s", "ocr", "short", "en", "[]", name, state))
        assert "1 pictures wait for expand" in said()
        answer("expand")
        assert said() == f"review --project={project.folder}   (1 doubtful items wait for people)"
        ledger.query("UPDATE items SET state = 'refused' WHERE id = 'b'")
        assert "(nobody has looked at an item yet)" in said()
        ledger.add(Verdict("a", "ann", "accept"))
        assert said() == f"export --to=FOLDER --project={project.folder}   (it writes what passed)"
        ledger.add(Export("/sets/mine", "jsonl", 1, 1, "0"))
        assert said().endswith("(written before to /sets/mine)")
        ledger.add(Verdict("a", "ann", "undone"))
        assert "nobody has looked" in said()


def test_what_is_about_dropped_pictures_or_asked_no_more_is_no_next_step(tmp_path):
    path = project_of(tmp_path / "project").folder / CONFIG
    path.write_text(yaml.safe_dump({"name": "tried", "languages": ["en"], "generate": {"types": ["short"]}}))
    project = Project(path.parent)

    def failed(ledger, step, image="kept", kind="", language="en"):
        ledger.query("DELETE FROM answers WHERE reason <> ''")
        ledger.add(
            AnswerRow("no", step, "ocr", image, kind, language, "", 1, "m", "", "", "busy", "", 1, 0, 0, 0.0, 1.0)
        )
        return "questions of" in next_step(project, ledger)

    with Ledger(project.ledger) as ledger:
        for state in ("kept", "dropped"):
            ledger.add(ImageRow(state, "ocr", ".png", 10, 10, 100, f"/pictures/{state}", "", 1, state))
        for step in ("caption", "generate", "expand"):
            ledger.add(AnswerRow(step, step, "ocr", "kept", "", "en", "", 1, "m", "", "", "", "", 1, 1, 1, 0.1, 1.0))
        for name, image, state in (("a", "kept", "good"), ("b", "dropped", "doubtful")):
            ledger.add(ItemRow(name, name, "generate", image, "ocr", "short", "en", "[]", name, state))
        assert not failed(ledger, "caption", image="dropped")
        assert not failed(ledger, "caption", language="zh")
        assert not failed(ledger, "generate", kind="long")
        assert failed(ledger, "generate", kind="short")
        ledger.query("DELETE FROM answers WHERE reason <> ''")
        assert "nobody has looked at an item yet" in next_step(project, ledger)
