"""The card of an export: its numbers are those of the files, and its examples run."""

import collections
import json
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
from huggingface_hub import DatasetCard
from PIL import Image

from mmfuser_jax.data import labels
from mmfuser_jax.mminstruct.export.exporting import FORMATS
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.questions.items import LANGUAGES, TYPES, Item
from mmfuser_jax.mminstruct.questions.seed_questions import domain_names
from mmfuser_jax.mminstruct.schema import Verdict
from tests import exports
from tests.exports import DOMAINS, add_picture, decided, export, fill, project_of, row_of, rows_of
from tests.test_evaluate import is_drawn

project, exported = exports.project, exports.exported  # fixtures


def cells(card, first):
    """Cells of the row that begins so."""
    (line,) = [line for line in card.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_head_is_what_the_hub_reads(exported):
    card = DatasetCard((exported[0] / "README.md").read_text(encoding="utf-8"))
    assert (card.data.license, card.data.language, card.data.size_categories) == ("cc-by-4.0", ["en", "zh"], ["n<1K"])
    assert card.data.task_categories == ["visual-question-answering", "image-text-to-text"]
    files = card.data.to_dict()["configs"][0]["data_files"]
    assert files == [{"split": "train", "path": "data/train-*.parquet"}]
    assert list(exported[0].glob(files[0]["path"]))


def test_a_licence_that_the_hub_does_not_know_is_another(tmp_path, project):
    for licence, expected in (("", ("unknown", None)), ("ours", ("other", "ours"))):
        other = project_of(tmp_path / f"p{licence}", licence=licence)
        shutil.copytree(project.images, other.images)
        shutil.copy(project.ledger, other.ledger)
        export(other, tmp_path / f"out{licence}")
        data = DatasetCard((tmp_path / f"out{licence}/README.md").read_text()).data
        assert (data.license, data.to_dict().get("license_name")) == expected
        assert data.to_dict()["configs"][0]["data_files"][0]["path"] == "tried_set.jsonl"


def test_numbers_of_the_card_are_those_of_the_files(project, exported):
    folder, counts = exported
    card, rows = (folder / "README.md").read_text(encoding="utf-8"), rows_of(folder)
    exchanges = sum(len(row["conversations"]) // 2 for row in rows)
    assert f"{counts.items:,} items ({exchanges:,} questions with answers) about {counts.pictures} pictures" in card
    columns = [(kind, language) for kind in (*TYPES, "conversation") for language in LANGUAGES]
    head = next(line for line in card.splitlines() if line.startswith("| domain | pictures |"))
    assert head.count(" (en)") == head.count(" (zh)") == 5
    for domain in DOMAINS:
        found = collections.Counter(
            (row["tags"]["type"], row["tags"]["language"]) for row in rows if row["tags"]["domain"] == domain
        )
        pictures = len({row["image"] for row in rows if row["tags"]["domain"] == domain})
        line = next(x for x in card[card.index(head) :].splitlines() if x.startswith(f"| {domain} |"))
        assert [int(x) for x in line.strip("| ").split("|")[1:]] == [
            pictures, *(found[column] for column in columns), sum(found.values()),
        ]  # fmt: skip
    for letter, count in collections.Counter(
        row["conversations"][1]["value"] for row in rows if row["tags"]["type"] == "choice"
    ).items():
        assert cells(card, letter)[1] == str(count)
    answers = [row["conversations"][1]["value"] for row in rows if row["tags"]["type"] == "short"]
    lengths = json.loads((folder / "card/statistics.json").read_text())["lengths"]
    medians = {lengths["short"][language]["answer_median"] for language in LANGUAGES}
    assert np.median([labels.text_length(answer) for answer in answers]) in (*medians, np.mean(list(medians)))


def test_the_card_says_who_looked_and_what_they_said(project, exported):
    card, known = (exported[0] / "README.md").read_text(encoding="utf-8"), decided(project)
    numbers = json.loads((exported[0] / "card/statistics.json").read_text())
    for domain in DOMAINS:
        mine = [decision for item, decision in known.values() if item.domain == domain]
        looked = [decision for decision in mine if decision.state != "open"]
        expected = {
            "items": len(mine), "looked_at": len(looked),
            "accepted": sum(x.state == "accepted" and not x.edited for x in looked),
            "edited": sum(x.state == "accepted" and x.edited for x in looked),
            "rejected": sum(x.state == "rejected" for x in looked),
            "conflict": sum(x.state == "conflict" for x in looked),
        }  # fmt: skip
        assert numbers["review"]["domain"][domain] == expected
        assert f"{expected['edited']} ({100 * expected['edited'] / len(looked):.1f} %)" in card
    rejected = sum(decision.state == "rejected" for _, decision in known.values())
    assert cells(card, "the answer is wrong")[1] == str(rejected)
    assert cells(card, "people disagree on it")[1] == str(exported[1].left_out["conflict"])


def test_the_card_says_what_it_cost_and_how_that_is_known(project, exported):
    card = (exported[0] / "README.md").read_text(encoding="utf-8")
    with Ledger(project.ledger) as ledger:
        spent = ledger.spent()
        ((seconds, verdicts),) = ledger.query("SELECT sum(seconds), count(*) FROM verdicts")
    people = seconds / 3600 * 20
    assert cells(card, "together")[1] == f"{spent + people:,.4f}"
    each = (spent + people) / exported[1].items
    assert cells(card, "an item")[1] == f"{each:,.4f}"
    assert cells(card, "people")[1:] == [
        f"{people:,.4f}", f"{seconds / 3600:,.2f} hours over {verdicts} verdicts measured, $20.00 an hour stated",
    ]  # fmt: skip
    assert cells(card, "an item written by hand")[1:] == ["0.5000", f"stated, which is {0.5 / each:,.1f} times as much"]
    assert "m-4" in card
    assert "choice.zh 0a1b2c3d" in card
    assert [cells(card, name)[1] for name in ("host1.org", "local files")] == ["3", "3"]


def test_time_on_items_of_public_sets_is_no_cost_of_the_others(tmp_path):
    project = project_of(tmp_path / "project", reviewer_usd_per_hour=36)
    with Ledger(project.ledger) as ledger, ledger.changes():
        sha = add_picture(project, ledger, "ocr", "one")
        for name, step, seconds in (("a", "generate", 100.0), ("b", "expand", 200.0), ("c", "dvqa", 7200.0)):
            asked = [Item("short", f"What is {name}?", "a word")]
            ledger.add(row_of(name, sha, "ocr", "short", "en", asked, step=step))
            ledger.add(Verdict(name, "anna", "accept", seconds=seconds))
    export(project, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert cells(card, "people")[1:] == ["3.0000", "0.08 hours over 2 verdicts measured, $36.00 an hour stated"]
    assert cells(card, "people, items of public sets")[1:] == [
        "72.0000", "2.00 hours over 1 verdicts measured, $36.00 an hour stated",
    ]  # fmt: skip
    assert cells(card, "together")[1] == "75.0000"
    said = "the sum, less the time on items of public sets, over 2 items that were made for this set"
    assert cells(card, "an item")[1:] == ["1.5000", said]


def test_the_card_shows_how_to_load_it_and_that_does_load_it(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(exported[0])
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == len(FORMATS)
    for block in blocks:
        assert len(block.strip().splitlines()) == 3
        exec(block, {})
        assert "human" in capsys.readouterr().out


def test_plots_are_drawn_and_shown(project, exported, tmp_path):
    card = (exported[0] / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[.*?\]\((.*?)\)", card)
    assert shown == [f"card/{name}.png" for name in ("domains", "balance", "review", "cost")]
    assert all(is_drawn(exported[0] / path) for path in shown)
    export(project, tmp_path / "out")
    assert "![" not in (tmp_path / "out/README.md").read_text(encoding="utf-8")


def test_many_domains_fit(tmp_path):
    project = project_of(tmp_path / "project")
    fill(project, pictures=1, each=1, domains=domain_names())
    counts = export(project, tmp_path / "out", plotted=True)
    assert counts.pictures == len(domain_names())
    for name in ("domains", "review"):
        with Image.open(tmp_path / f"out/card/{name}.png") as plot:
            assert plot.height > 20 * len(domain_names())
