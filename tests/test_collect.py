"""Pictures come into a project's store once, with a reason for each that does not, whatever kills the process."""

import dataclasses
import hashlib
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mmfuser_jax.data.records import Record, Turn
from mmfuser_jax.data.sources import InMemory
from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.ledger import Ledger, LedgerError
from mmfuser_jax.mminstruct.pictures import similar
from mmfuser_jax.mminstruct.pictures.candidates import candidates, pictures_of
from mmfuser_jax.mminstruct.pictures.collect import collect
from mmfuser_jax.mminstruct.pictures.inspection import difference_hash, inspect, near_places
from mmfuser_jax.mminstruct.pictures.sheet import draw_sheet
from mmfuser_jax.mminstruct.project import CONFIG, Project, ProjectError, init_project
from mmfuser_jax.mminstruct.reasons import PICTURES as REASONS
from mmfuser_jax.mminstruct.schema import ImageRow
from tests.conftest import ROOT
from tests.test_cli import launch_script
from tests.test_evaluate import is_drawn
from tests.test_resume import environment


def scene(seed, size=(160, 120)):
    """A picture like no other: boxes of all colours."""
    rng = np.random.default_rng(seed)
    pixels = np.full((size[1], size[0], 3), rng.integers(60, 200, 3), np.uint8)
    for _ in range(12):
        left, top = rng.integers(0, size[0] - 10), rng.integers(0, size[1] - 10)
        pixels[top : top + rng.integers(8, 60), left : left + rng.integers(8, 60)] = rng.integers(0, 255, 3)
    return Image.fromarray(pixels)


@pytest.fixture
def pictures(tmp_path):
    """A folder with good pictures, and one for each reason not to take it."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for seed in range(4):
        scene(seed).save(folder / "more" / f"good{seed}.png")
    scene(9).save(folder / "a_first.png")
    shutil.copy(folder / "a_first.png", folder / "b_same_file.png")
    scene(9).save(folder / "c_near_duplicate.jpg", quality=80)
    (folder / "d_bad_image.jpg").write_bytes(b"<html>not found</html>")
    scene(10, (50, 50)).save(folder / "e_too_small.png")
    scene(11, (900, 80)).save(folder / "f_too_long.png")
    Image.new("RGB", (100, 100), (2, 2, 2)).save(folder / "g_too_dark.png")
    Image.new("RGB", (100, 100), (254, 254, 254)).save(folder / "h_too_bright.png")
    Image.new("RGB", (100, 100), (100, 120, 140)).save(folder / "i_no_contrast.png")
    scene(12, (400, 300)).filter(ImageFilter.GaussianBlur(20)).save(folder / "j_blurry.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def project_of(tmp_path, pictures, **replacements):
    init_project(tmp_path / "project", "tried", "posters", pictures)
    path = tmp_path / "project" / CONFIG
    text = path.read_text()
    for old, new in replacements.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return Project(tmp_path / "project")


def contents(project):
    """Everything in the ledger but the time."""
    with Ledger(project.ledger) as ledger:
        images = sorted(map(dataclasses.astuple, ledger.rows(ImageRow)))
        findings = ledger._db.execute("SELECT place, stamp, domain, sha, reason, detail FROM findings").fetchall()
    return images, sorted(findings)


def run(project, workers=1):
    with Ledger(project.ledger) as ledger:
        collect(project, ledger, workers)
    return contents(project)


def test_what_is_taken_and_why_the_rest_is_not(tmp_path, pictures):
    project = project_of(tmp_path, pictures)
    images, findings = run(project)
    reasons = {row.origin.rpartition("/")[2]: row.reason for row in map_rows(project)}
    for place, _, _, sha, reason, _ in findings:
        reasons.setdefault(place.rpartition("/")[2], reason or "taken" if sha else reason)
    expected = {path.name: path.stem[2:] for path in pictures.glob("[b-j]_*")}
    assert {name: reason for name, reason in reasons.items() if name in expected} == expected
    assert {name for name, reason in reasons.items() if not reason} == {
        "a_first.png",
        *(f"good{x}.png" for x in range(4)),
    }
    assert set(expected.values()) <= set(REASONS)
    assert len(findings) == len(images) + 2  # the same file, and no picture
    with Ledger(project.ledger) as ledger:
        twin = next(ledger.rows(ImageRow, "reason = 'near_duplicate'")).twin
        assert ledger.image(twin).origin == str(pictures / "a_first.png")
        assert ledger.picture_counts()["posters"]["kept"] == 5


def map_rows(project):
    with Ledger(project.ledger) as ledger:
        return list(ledger.rows(ImageRow))


def test_files_of_the_store_are_the_pictures(tmp_path, pictures):
    project = project_of(tmp_path, pictures)
    run(project)
    for row in map_rows(project):
        kept = store.place(project.images, row.sha, row.suffix)
        assert kept.read_bytes() == Path(row.origin).read_bytes()
    assert not list(project.images.rglob("*.tmp"))


def test_again_it_looks_only_at_what_is_new_or_has_changed(tmp_path, pictures, monkeypatch):
    project = project_of(tmp_path, pictures)
    before = run(project)
    looked = []
    monkeypatch.setattr(
        "mmfuser_jax.mminstruct.pictures.collect.inspect", lambda *args: looked.append(1) or inspect(*args)
    )
    assert run(project) == before
    assert not looked
    scene(20).save(pictures / "new.png")
    scene(21).save(pictures / "d_bad_image.jpg")  # mended
    images, findings = run(project)
    assert len(looked) == 2
    assert len(images) == len(before[0]) + 2
    assert len(findings) == len(before[1]) + 1


def test_workers_change_nothing(tmp_path, pictures):
    project = project_of(tmp_path, pictures)
    alone = run(project)
    shutil.rmtree(project.folder)
    assert run(project_of(tmp_path, pictures), workers=2) == alone


def test_filters_are_the_config_s(tmp_path, pictures):
    project = project_of(tmp_path, pictures, **{"near: 4 ": "near: -1", "min_side: 64": "min_side: 10"})
    kept = {os.path.basename(row.origin) for row in map_rows_after(project) if row.state == "kept"}
    assert {"c_near_duplicate.jpg", "e_too_small.png"} <= kept
    assert "g_too_dark.png" not in kept


def map_rows_after(project):
    run(project)
    return map_rows(project)


def test_other_filters_decide_anew_of_what_is_at_hand(tmp_path, pictures):
    project = project_of(tmp_path, pictures)
    run(project)
    before = {row.origin.rpartition("/")[2]: row.reason for row in map_rows(project)}
    assert before["e_too_small.png"] == "too_small"
    path = project.folder / CONFIG
    text = path.read_text()
    path.write_text(text.replace("min_side: 64", "min_side: 20").replace("near: 4", "near: -1"))
    run(Project(project.folder))
    after = {row.origin.rpartition("/")[2]: row.reason for row in map_rows(project)}
    assert {name for name in before if before[name] != after[name]} == {"e_too_small.png", "c_near_duplicate.jpg"}
    assert after["e_too_small.png"] == after["c_near_duplicate.jpg"] == ""
    path.write_text(text)
    assert {row.origin.rpartition("/")[2]: row.reason for row in map_rows_after(Project(project.folder))}[
        "e_too_small.png"
    ] == "too_small"


@pytest.mark.parametrize("name", ["a b, c", "{d} [e]", "quote ' and #", "long " * 30, "海报"])
def test_a_project_is_made_of_any_folder(tmp_path, name):
    folder = tmp_path / name.strip()
    folder.mkdir()
    scene(1).save(folder / "one.png")
    init_project(tmp_path / "project", name, "posters", folder)
    project = Project(tmp_path / "project")
    assert project.config.name == name
    assert [row.origin for row in map_rows_after(project)] == [str(folder / "one.png")]


def test_a_source_may_take_bad_pictures(tmp_path, pictures):
    project = project_of(tmp_path, pictures, **{"{domain: posters,": "{domain: image_quality, filtered: false,"})
    states = {row.state for row in map_rows_after(project)}
    assert states == {"kept"}


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a5_pictures_of_records_in_a_list_or_a_line_each(tmp_path, pictures, suffix):
    rows = [{"id": "1", "image": "a_first.png", "conversations": [
        {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Boxes"}]}]  # fmt: skip
    file = pictures / f"rows.{suffix}"
    file.write_text(json.dumps(rows) if suffix == "json" else json.dumps(rows[0]) + "\n")
    source = f"records: {file}, licence: CC0"
    project = project_of(tmp_path, pictures, **{f"folder: {pictures}": source})
    (row,) = map_rows_after(project)
    assert (row.origin, row.licence) == (str(pictures / "a_first.png"), "CC0")


@pytest.mark.parametrize("text", ["pictures", "./pictures/", "../source/pictures//"])
def test_d1_a_folder_may_be_written_in_any_way(tmp_path, text):
    (tmp_path / "source" / "pictures").mkdir(parents=True)
    scene(1).save(tmp_path / "source" / "pictures" / "one.png")
    init_project(tmp_path / "source" / "project", "tried", "posters", tmp_path / "source" / "pictures")
    path = tmp_path / "source" / "project" / CONFIG
    path.write_text(path.read_text().replace(str(tmp_path / "source" / "pictures"), f"../{text}"))
    (row,) = map_rows_after(Project(path.parent))
    assert row.origin == str(tmp_path / "source" / "pictures" / "one.png")


def test_pools_are_looked_at_last_and_a_place_given_twice_counts_once(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr(similar, "similar_candidates", lambda project, ledger, source, workers: alike(ledger, source))
    seen = []

    def alike(ledger, source):
        seen.extend(row.origin for row in ledger.rows(ImageRow))
        yield from pictures_of(pictures / "pool", source)

    (pictures / "pool").mkdir()
    scene(40).save(pictures / "pool" / "z.png")
    line = f"- {{domain: posters, folder: {pictures}}}"
    more = f"- {{domain: landmark, pool: pool, count: 2}}\n    - {{domain: posters, folder: {pictures / 'more'}}}"
    project = project_of(
        tmp_path, pictures, **{line: f"{more}\n    - {{domain: artwork, folder: {pictures / 'more'}}}"}
    )
    rows = map_rows_after(project)
    assert len(seen) == 4
    assert [(row.origin, row.domain) for row in rows] == [
        *((str(pictures / "more" / f"good{x}.png"), "posters") for x in range(4)),
        (str(pictures / "pool" / "z.png"), "landmark"),
    ]


def test_pictures_within_records_are_looked_at_once_and_not_held(tmp_path, pictures, monkeypatch):
    content = (pictures / "a_first.png").read_bytes()
    turns = (Turn("human", "<image>\nWhat?"), Turn("gpt", "Boxes"))
    records = InMemory([Record(str(index), (content,), (turns,)) for index in range(3)])
    monkeypatch.setattr("mmfuser_jax.mminstruct.pictures.candidates._opened", lambda spec: records)
    project = project_of(tmp_path, pictures, **{f"folder: {pictures}": "records: built"})
    looked = []
    monkeypatch.setattr(
        "mmfuser_jax.mminstruct.pictures.collect.inspect", lambda *args: looked.append(1) or inspect(*args)
    )
    (row,) = map_rows_after(project)
    assert len(looked) == 1
    assert row.origin == f"built#{row.sha}"
    assert store.place(project.images, row.sha, ".png").read_bytes() == content
    assert content not in pickle.dumps(
        next(candidates(project, Ledger(project.ledger), project.config.collect.sources[0]))
    )


def test_b7_kills_leave_no_trace(tmp_path, pictures):
    for seed in range(30, 150):
        scene(seed, (640, 480)).save(pictures / f"p{seed}.png")
    project = project_of(tmp_path, pictures)
    straight = run(project)
    shutil.rmtree(project.folder)
    project, rng, kills = project_of(tmp_path, pictures), random.Random(0), 0
    command = [sys.executable, str(ROOT / "launch/mminstruct.py"), "collect", f"--project={project.folder}"]
    while True:
        known = len(contents(project)[1]) if project.ledger.exists() else -1
        with subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            deadline = time.monotonic() + 120
            while process.poll() is None and (not project.ledger.exists() or len(contents(project)[1]) <= known):
                assert time.monotonic() < deadline
                time.sleep(0.005)
            time.sleep(rng.random() * 0.02)
            process.kill()
            errors = process.communicate()[1]
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, errors
            break
        kills += 1
    assert kills >= 3
    assert contents(project) == straight
    stored = [path for path in project.images.rglob("*") if path.is_file()]
    assert len(stored) == len(contents(project)[0])
    assert all(path.stem == hashlib.sha256(path.read_bytes()).hexdigest() for path in stored)


def test_hashes_of_like_pictures_are_near(tmp_path):
    picture = scene(1, (640, 480))
    bits = difference_hash(picture)
    small = difference_hash(picture.resize((200, 150)))
    others = np.array([difference_hash(scene(seed, (640, 480))) for seed in range(2, 40)] + [small], np.int64)
    assert near_places(bits, others, 4).tolist() == [len(others) - 1]
    assert not len(near_places(bits, others[:-1], 8))
    assert near_places(-1, np.array([0], np.int64), 64).tolist() == [0]
    assert not len(near_places(-1, np.array([0], np.int64), 63))
    assert not len(near_places(0, np.zeros(1, np.int64), -1))
    assert not len(near_places(0, np.zeros(0, np.int64), 64))


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("name: tried", "nmae: tried", r"project.yaml: name: Field required \(and 1 more\)"),
        ("languages: [en, zh]", "languages: [en, fr]", r"languages.2: .*'en' or 'zh'"),
        ("domain: posters", "domain: poster", r"collect.sources.1.domain: .*no domain 'poster'; there are artwork, "),
        ("min_side: 64", "min_side: many", r"collect.filters.min_side: .*integer"),
        ("min_side: 64", "min_sied: 64", r"collect.filters.min_sied: Extra inputs"),
        ("near: 4 ", "near: 99", r"collect.filters.near: .*64"),
        ("collect:", "collect: [", "not YAML"),
        ("folder:", "records: x, folder:", "give one of folder, records, urls and pool"),
    ],
)
def test_config_mistakes_are_named(tmp_path, pictures, old, new, match):
    with pytest.raises(ProjectError, match=match):
        project_of(tmp_path, pictures, **{old: new})


def test_mistakes_of_places(tmp_path, pictures):
    with pytest.raises(ProjectError, match="no project here; make one with"):
        Project(tmp_path)
    with pytest.raises(ProjectError, match="no domain 'poster'"):
        init_project(tmp_path / "p", "x", "poster", pictures)
    with pytest.raises(ProjectError, match="nowhere: no such folder"):
        init_project(tmp_path / "p", "x", "posters", tmp_path / "nowhere")
    project = project_of(tmp_path, pictures)
    with pytest.raises(ProjectError, match="there is a project here already"):
        init_project(project.folder, "x", "posters", pictures)
    shutil.rmtree(pictures)
    with pytest.raises(ProjectError, match=r"pictures: no such folder \(collect.sources, domain posters\)"):
        run(project)
    pictures.mkdir()
    with pytest.raises(ProjectError, match="pictures: no pictures here"):
        run(project)


def test_a_ledger_of_another_kind_is_refused(tmp_path):
    (tmp_path / "noise").write_bytes(b"noise" * 1000)
    with pytest.raises(LedgerError, match="noise: not a ledger, or damaged"):
        Ledger(tmp_path / "noise")
    with Ledger(tmp_path / "newer") as ledger:
        ledger._db.execute("PRAGMA user_version = 99")
    with pytest.raises(LedgerError, match="is of version 99, and this program writes version 1"):
        Ledger(tmp_path / "newer")


def test_changes_are_all_made_or_none(tmp_path, pictures):
    project = project_of(tmp_path, pictures)
    run(project)
    before = contents(project)
    with Ledger(project.ledger) as ledger:

        def fail():
            with ledger.changes():
                ledger._db.execute("DELETE FROM images")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
    assert contents(project) == before


def command(*args):
    done = launch_script("mminstruct", *args)
    return done.returncode, done.stdout, done.stderr


def test_the_sheet_and_the_commands(tmp_path, pictures):
    folder = tmp_path / "project"
    code, out, err = command("init", f"--project={folder}", "--domain=posters", f"--pictures={pictures}")
    assert code == 0, err
    assert "project.yaml: look at it" in out
    code, out, err = command("collect", f"--project={folder}")
    assert code == 0, err
    assert "nearly the same as" in " ".join(out.split())
    assert is_drawn(folder / "pictures.png")
    code, out, err = command("status", f"--project={folder}")
    assert code == 0, err
    assert "posters" in out
    assert command("collect", f"--project={tmp_path}")[0] == 1
    code, out, err = command("domains")
    assert len(out.splitlines()) == 24, err
    with Ledger(folder / "ledger.sqlite") as ledger:
        draw_sheet(ledger, folder / "images", tmp_path / "again.png")
    assert is_drawn(tmp_path / "again.png")
