"""A second collect: what files and the config say by now counts, and what was decided before is decided anew where it must."""

import hashlib
import io
import shutil
import string
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw, ImageFont

from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.pictures import similar, twins
from mmfuser_jax.mminstruct.pictures.candidates import pictures_of
from mmfuser_jax.mminstruct.pictures.inspection import CELLS, DIFFERENT, Inspected, cells_of
from mmfuser_jax.mminstruct.pictures.taking import Taking
from mmfuser_jax.mminstruct.project import CONFIG, Project, ProjectError
from mmfuser_jax.mminstruct.schema import Finding, ImageRow, ItemRow
from tests.fake_web import Web
from tests.test_collect import map_rows, run, scene


def project_of(folder, *sources, filters=None, **settings):
    """A project with these sources, or the same one whose config says so by now."""
    (folder / "project").mkdir(exist_ok=True)
    given = [{"domain": "posters", "folder": "../pictures", **source} for source in sources or [{}]]
    collect = {"sources": given, "filters": filters or {}, **settings}
    (folder / "project" / CONFIG).write_text(yaml.safe_dump({"name": "tried", "collect": collect}))
    return Project(folder / "project")


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    return tmp_path / "pictures"


def decided(project, workers=1):
    """Name of the file → (state, reason), of every picture in the store; a second run changes nothing."""
    found = run(project, workers)
    assert run(project, workers) == found
    return {row.origin.rpartition("/")[2]: (row.state, row.reason) for row in map_rows(project)}


KEPT = ("kept", "")


def drawn(kind, seed):
    """A picture that is mostly white: a table, a chart with bars, or a sign with a letter."""
    rng, picture = np.random.default_rng(seed), Image.new("RGB", (800, 600), "white")
    draw = ImageDraw.Draw(picture)
    if kind == "sign":
        draw.text((400, 300), string.ascii_uppercase[seed], "black", ImageFont.load_default(400), anchor="mm")
    for place in range(8):
        if kind == "table":
            draw.line((10, 20 + place * 64, 790, 20 + place * 64), "black")
            for column in range(4):
                number = str(rng.integers(100, 99999))
                draw.text((20 + column * 190, 36 + place * 64), number, "black", ImageFont.load_default(16))
        if kind == "chart":
            draw.rectangle((60 + place * 90, 540 - rng.integers(240, 300), 110 + place * 90, 540), "steelblue")
    return picture


def halved(picture):
    """The picture as others pass it on."""
    buffer = io.BytesIO()
    picture.resize((picture.width // 2, picture.height // 2)).save(buffer, "JPEG", quality=60)
    return Image.open(buffer)


@pytest.mark.parametrize("kind", ["table", "chart", "sign"])
def test_pictures_that_are_mostly_white_are_told_apart_and_their_copies_found(tmp_path, pictures, kind, monkeypatch):
    for seed in range(20):
        drawn(kind, seed).save(pictures / f"a{seed:02}.png")
    project = project_of(tmp_path, filters={"max_brightness": 255.0})
    assert set(decided(project).values()) == {KEPT}
    for seed in range(0, 20, 4):
        halved(drawn(kind, seed)).save(pictures / f"b{seed:02}.jpg")
    run(project)
    later = map_rows(project)
    origins = {row.sha: row.origin for row in later}
    assert {row.origin: origins.get(row.twin) for row in later if row.reason == "near_duplicate"} == {
        str(pictures / f"b{seed:02}.jpg"): str(pictures / f"a{seed:02}.png") for seed in range(0, 20, 4)
    }
    for workers in (1, 2) if kind == "table" else (1,):
        project.ledger.unlink()
        run(project, workers)
        assert map_rows(project) == later, "what is seen of twins is the same whether they came in this run or before"
    project.ledger.unlink()
    monkeypatch.setattr(twins, "same", lambda cells, others: np.ones(others.shape[:-1], bool))
    run(project)
    assert [row for row in map_rows(project) if row.reason and "a" in Path(row.origin).stem], "by hashes alone"


def form(number):
    """One of 64 pictures of one template: each has its mark at another place."""
    picture = scene(1, (480, 480))
    left, top = number % 8 * 60, number // 8 * 60
    picture.paste("white", (left, top, left + 30, top + 30))
    picture.paste("black", (left + 30, top, left + 60, top + 30))
    return picture


@pytest.mark.parametrize("workers", [1, 2])
def test_pictures_of_one_template_are_read_again_once_each(tmp_path, pictures, monkeypatch, workers):
    read = Counter()
    monkeypatch.setattr(twins, "cells_of", lambda file: read.update([file.stem]) or cells_of(file))
    project = project_of(tmp_path, filters={"near": 64})
    for number in range(32):
        form(number).save(pictures / f"a{number:02}.png")
    run(project, workers)
    assert not read, "what this run has looked at is not read again"
    earlier = {row.sha: 1 for row in map_rows(project)}
    for number in range(32, 64):
        form(number).save(pictures / f"a{number:02}.png")
    halved(form(7)).save(pictures / "b.jpg")
    run(project, workers)
    assert read == earlier
    origins = {row.sha: row.origin[-7:] for row in map_rows(project)}
    assert [origins[row.twin] for row in map_rows(project) if row.state != "kept"] == ["a07.png"]
    assert len(origins) == 65


def seen(name, place=None):
    """A picture of a template, which differs from it in one part at most."""
    cells = np.random.default_rng(0).integers(0, 128, CELLS**2, np.uint8)
    cells[place] += DIFFERENT if place is not None else 0
    return Inspected(hashlib.sha256(name.encode()).hexdigest(), ".png", 800, 600, 1, 0, cells.tobytes(), "")


def test_of_several_twins_among_thousands_the_same_one_is_named_always(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        kept = twins.Twins(ledger, tmp_path, near=0)
    for place in range(2100):  # more than there is room for at first
        kept.add(seen(f"{place}", place))
    for place in range(0, 2100, 100):
        kept.add(seen(f"copy of {place}", place))
        both = sorted((seen(f"{place}").sha, seen(f"copy of {place}").sha))
        assert kept.find(seen("new", place)) == both[0]
        kept.remove(both[0])
        assert kept.find(seen("new", place)) == both[1]
    assert kept.find(seen("new")) == "", "each differs in one part"


def test_a_kept_picture_that_is_gone_from_the_store_is_named(tmp_path, pictures):
    drawn("sign", 0).save(pictures / "a.png")
    project = project_of(tmp_path)
    run(project)
    (row,) = map_rows(project)
    store.place(project.images, row.sha, row.suffix).unlink()
    halved(drawn("sign", 0)).save(pictures / "b.jpg")
    with pytest.raises(FileNotFoundError, match=f"picture {row.sha} is gone; put it back"):
        run(project)


def marked(seed, colour="black"):
    """A picture that nearly looks the same as another one."""
    picture = scene(seed)
    picture.putpixel((3, 3), Image.new("RGB", (1, 1), colour).getpixel((0, 0)))
    return picture


def test_a_picture_that_replaces_another_one_is_taken_and_the_other_one_goes(tmp_path, pictures):
    scene(1).save(pictures / "x.png")
    original = (pictures / "x.png").read_bytes()
    project = project_of(tmp_path)
    assert decided(project) == {"x.png": KEPT}
    (pictures / "x.png").write_bytes(b"half of a pict")  # cannot be looked at for a while
    assert decided(project) == {"x.png": KEPT}
    marked(1).save(pictures / "x.png")
    run(project)
    assert [(row.state, row.reason) for row in map_rows(project)] == [("dropped", "replaced"), KEPT]
    assert map_rows(project)[1].sha == store.find(project.images, map_rows(project)[1].sha).stem
    with Ledger(project.ledger) as ledger:
        assert ledger.picture_counts() == {"posters": {"kept": 1}}
    (pictures / "x.png").write_bytes(original)
    run(project)
    assert [(row.state, row.reason) for row in map_rows(project)] == [KEPT, ("dropped", "replaced")]


def test_files_that_change_their_names_among_each_other_are_not_lost(tmp_path, pictures):
    for seed in range(5):
        scene(seed).save(pictures / f"{seed}.png")
    project = project_of(tmp_path)
    run(project)
    rows = map_rows(project)
    for seed in range(1, 5):
        (pictures / f"{seed}.png").rename(pictures / f"{seed - 1}.png")
    decided(project)
    assert [row.sha for row in map_rows(project)] == [row.sha for row in rows]
    assert [(row.state, row.reason) for row in map_rows(project)] == [("dropped", "replaced"), *[KEPT] * 4]
    (pictures / "0.png").rename(pictures / "swap.png")
    (pictures / "1.png").rename(pictures / "0.png")
    (pictures / "swap.png").rename(pictures / "1.png")
    decided(project)
    assert [row.state for row in map_rows(project)] == ["dropped", *["kept"] * 4]
    assert [row.origin[-5:] for row in map_rows(project)[1:3]] == ["1.png", "0.png"]


def test_a_kill_before_the_last_look_changes_nothing(tmp_path, pictures, monkeypatch):
    for folder in ("straight", "killed"):
        (tmp_path / folder).mkdir()
        if pictures.exists():
            shutil.rmtree(pictures)
        pictures.mkdir()
        for seed in range(5):
            scene(seed).save(pictures / f"{seed}.png")
        project = project_of(tmp_path / folder, {"folder": str(pictures)})
        run(project)
        for seed in range(1, 5):
            (pictures / f"{seed}.png").rename(pictures / f"{seed - 1}.png")
        if folder == "killed":
            with monkeypatch.context() as patch:
                patch.setattr(Taking, "unsettled", lambda *args: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    run(project)
            assert [row.state for row in map_rows(project)].count("kept") == 1
        decided(project)
    straight, killed = (map_rows(Project(tmp_path / folder / "project")) for folder in ("straight", "killed"))
    assert straight == killed
    assert [row.state for row in killed] == ["dropped", *["kept"] * 4]


@pytest.mark.parametrize("names", [("a_small.png", "b_large.png"), ("b_small.png", "a_large.png")])
def test_of_two_that_look_the_same_the_other_one_is_taken_once_the_first_is_refused(tmp_path, pictures, names):
    small, large = names
    scene(1, (320, 240)).resize((160, 120)).save(pictures / small)
    project = project_of(tmp_path)
    run(project)
    scene(1, (320, 240)).save(pictures / large)
    assert decided(project) == {small: KEPT, large: ("dropped", "near_duplicate")}
    project = project_of(tmp_path, filters={"min_side": 200})
    assert decided(project) == {small: ("dropped", "too_small"), large: KEPT}


def test_a_picture_of_the_web_is_decided_anew_from_the_store(tmp_path, pictures):
    buffer = io.BytesIO()
    scene(1, (320, 240)).save(buffer, "PNG")
    scene(1, (320, 240)).resize((160, 120)).save(pictures / "small.png")
    with Web({"/large": buffer.getvalue()}) as web:
        (tmp_path / "project").mkdir()
        (tmp_path / "project" / "list.txt").write_text(web.url("/large"))
        sources = {}, {"folder": "", "urls": "list.txt", "tags": ["of the web"]}
        options = {"hosts": ["127.0.0.1"], "private_addresses": True}
        assert decided(project_of(tmp_path, *sources, **options))["large"] == ("dropped", "near_duplicate")
        assert web.paths() == ["/large"]
        project = project_of(tmp_path, *sources, filters={"min_side": 200}, **options)
        assert decided(project) == {"small.png": ("dropped", "too_small"), "large": KEPT}
        assert web.paths() == ["/large"]
    assert [row.tags for row in map_rows(project)] == ["", "of the web"]


def described(project):
    run(project)
    with Ledger(project.ledger) as ledger:
        found = [(finding.domain, finding.sha) for finding in ledger.rows(Finding, order="place")]
    rows = {row.sha: row for row in map_rows(project)}
    return [(domain, rows[sha].domain, rows[sha].licence, rows[sha].tags) for domain, sha in found]


def test_what_a_source_is_said_to_be_holds_for_what_was_taken_before(tmp_path, pictures, monkeypatch):
    scene(1).save(pictures / "a.png")
    shutil.copy(pictures / "a.png", pictures / "b_same_file.png")
    assert described(project_of(tmp_path)) == [("posters", "posters", "", "")] * 2
    monkeypatch.setattr("mmfuser_jax.mminstruct.pictures.collect.inspect", lambda *args: 1 / 0)  # nothing is read
    changed = {"licence": "CC BY 4.0", "tags": ["old", "film"]}
    assert described(project_of(tmp_path, changed)) == [("posters", "posters", "CC BY 4.0", "old,film")] * 2
    changed["domain"] = "artwork"
    assert described(project_of(tmp_path, changed)) == [("artwork", "artwork", "CC BY 4.0", "old,film")] * 2
    with Ledger(project_of(tmp_path).ledger) as ledger:
        sha = next(ledger.rows(ImageRow)).sha
        ledger.add(ItemRow("1", "", "generate", sha, "artwork", "short", "en", "[]", "", "good"))
    project = project_of(tmp_path, {"licence": "CC0"})
    with pytest.raises(ProjectError, match=r"collect.sources, \.\./pictures: domain is posters, but .*/pictures/a.png has "
                       r"questions of artwork already; write artwork again, or collect into a new project"):  # fmt: skip
        run(project)
    assert [(row.domain, row.licence) for row in map_rows(project)] == [("artwork", "CC BY 4.0")]
    assert described(project_of(tmp_path, {"licence": "CC0", "domain": "artwork"}))[0] == (
        "artwork",
        "artwork",
        "CC0",
        "",
    )


def test_pictures_that_came_with_their_questions_keep_what_their_set_says(tmp_path, pictures):
    scene(1).save(pictures / "a.png")
    project = project_of(tmp_path, {"licence": "CC0"})
    run(project)
    with Ledger(project.ledger) as ledger:
        ledger.query("UPDATE images SET state = 'imported', domain = 'artwork'")
        ledger.query("UPDATE findings SET stamp = 'imported', domain = 'artwork'")
    project = project_of(tmp_path, {"licence": "CC BY 4.0"})
    decided(project)
    (row,) = map_rows(project)
    assert (row.state, row.domain, row.licence) == ("imported", "artwork", "CC0")
    marked(1).save(pictures / "a.png")
    assert decided(project) == {"a.png": KEPT}
    assert [row.state for row in map_rows(project)] == ["imported", "kept"]


def test_a_picture_of_a_pool_stays_with_the_domain_that_took_it(tmp_path, pictures, monkeypatch):
    scene(1).save(pictures / "a.png")
    taking = ["posters", "artwork"]

    def found(project, ledger, source, workers):
        return pictures_of(pictures, source) if source.domain in taking else iter(())

    monkeypatch.setattr(similar, "similar_candidates", found)
    sources = [{"folder": "", "pool": "../pictures", "domain": domain} for domain in ("posters", "artwork")]
    assert described(project_of(tmp_path, *sources))[0][:2] == ("posters", "posters")
    taking.remove("posters")
    assert described(project_of(tmp_path, *sources))[0][:2] == ("posters", "posters")
    assert described(project_of(tmp_path, sources[1]))[0][:2] == ("artwork", "artwork")


@pytest.mark.parametrize("other_pools", [[], [".."], ["../pictures"]])
def test_a_picture_of_a_pool_that_has_questions_stays_with_their_domain(tmp_path, pictures, monkeypatch, other_pools):
    scene(1).save(pictures / "a.png")
    taking = ["posters"]

    def found(project, ledger, source, workers):
        return pictures_of(pictures, source) if source.domain in taking else iter(())

    monkeypatch.setattr(similar, "similar_candidates", found)
    pool = {"folder": "", "pool": "../pictures"}
    project = project_of(tmp_path, pool)
    assert described(project) == [("posters", "posters", "", "")]
    with Ledger(project.ledger) as ledger:
        sha = next(ledger.rows(ImageRow)).sha
        ledger.add(ItemRow("1", "", "generate", sha, "posters", "short", "en", "[]", "", "good"))
    taking[:] = ["artwork"]
    sources = {**pool, "domain": "artwork"}, *({**pool, "pool": other} for other in other_pools)
    assert described(project_of(tmp_path, *sources)) == [("posters", "posters", "", "")]


@pytest.mark.parametrize("first", ["posters", "image_quality"])
def test_a_file_that_filters_refuse_is_taken_by_a_source_without(tmp_path, pictures, first):
    (tmp_path / "bad").mkdir()
    Image.new("RGB", (100, 100), (2, 2, 2)).save(pictures / "dark.png")
    shutil.copy(pictures / "dark.png", tmp_path / "bad" / "same.png")
    filtered, all_of_it = {}, {"folder": "../bad", "domain": "image_quality", "filtered": False, "licence": "CC0"}
    both = (filtered, all_of_it) if first == "posters" else (all_of_it, filtered)
    run(project_of(tmp_path, both[0]))
    project = project_of(tmp_path, *both)
    assert decided(project) == {"same.png": KEPT}
    assert [(row.domain, row.licence) for row in map_rows(project)] == [("image_quality", "CC0")]
    with Ledger(project.ledger) as ledger:
        assert ledger.picture_counts() == {"posters": {"same_file": 1}, "image_quality": {"kept": 1}}


def test_a_file_that_filters_refuse_by_now_counts_for_the_source_without_that_has_it_too(tmp_path, pictures):
    scene(1).save(pictures / "a.png")
    shutil.copytree(pictures, tmp_path / "bad")
    sources = {}, {"folder": "../bad", "domain": "image_quality", "filtered": False}
    assert [row.domain for row in map_rows_of(project_of(tmp_path, *sources))] == ["posters"]
    project = project_of(tmp_path, *sources, filters={"min_side": 200})
    assert [(row.domain, row.state) for row in map_rows_of(project)] == [("image_quality", "kept")]
    decided(project)


def test_a_picture_with_questions_does_not_go_to_another_domain(tmp_path, pictures):
    scene(1).save(pictures / "a.png")
    shutil.copytree(pictures, tmp_path / "bad")
    project = project_of(tmp_path)
    (row,) = map_rows_of(project)
    with Ledger(project.ledger) as ledger:
        ledger.add(ItemRow("1", "", "generate", row.sha, "posters", "short", "en", "[]", "", "good"))
    sources = {}, {"folder": "../bad", "domain": "image_quality", "filtered": False}
    assert decided(project_of(tmp_path, *sources, filters={"min_side": 200})) == {"a.png": ("dropped", "too_small")}
    assert [row.domain for row in map_rows(project)] == ["posters"]


def map_rows_of(project):
    run(project)
    return map_rows(project)


def test_a_file_that_was_refused_is_taken_elsewhere_once_the_filters_let_it(tmp_path, pictures):
    scene(1).save(pictures / "old_name.png")
    project = project_of(tmp_path, filters={"min_side": 200})
    assert decided(project) == {"old_name.png": ("dropped", "too_small")}
    (pictures / "old_name.png").rename(pictures / "new_name.png")
    assert decided(project) == {"old_name.png": ("dropped", "too_small")}
    assert decided(project_of(tmp_path)) == {"new_name.png": KEPT}
