"""Pictures of lists of addresses: each is fetched once, checked, and looked at in the order of the list, whatever is killed."""

import asyncio
import hashlib
import io
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.pictures.candidates import INCOMING
from mmfuser_jax.mminstruct.pictures.collect import BATCH
from mmfuser_jax.mminstruct.project import Project, ProjectError
from mmfuser_jax.mminstruct.schema import ImageRow
from mmfuser_jax.mminstruct.web import fetch
from tests import fetching
from tests.conftest import ROOT
from tests.fake_web import Web, cut_off, endless, hang
from tests.fetching import png, project_of, reason_of, run
from tests.test_collect import contents, map_rows, scene
from tests.test_resume import environment

impatient, web = fetching.impatient, fetching.web  # fixtures


def test_a_good_picture_is_kept_as_it_came(tmp_path, web):
    web.pages["/a.png"] = png(1)
    project = project_of(tmp_path, [web.url("/a.png")], contact="me@example.org")
    assert run(project) == {web.url("/a.png"): ("", "")}
    (row,) = map_rows(project)
    assert store.place(project.images, row.sha, row.suffix).read_bytes() == png(1)
    assert web.heads[-1]["user-agent"] == "mmfuser_jax/0.1.0 (collects pictures; me@example.org)"
    assert web.heads[-1]["host"] == f"127.0.0.1:{web.port}"


def test_d2_names_of_files_do_not_collide_and_d4_where_they_come_from_is_kept(tmp_path, web):
    web.pages = {"/1/picture.jpg": png(1), "/2/picture.jpg": png(2)}
    rows = [
        {"url": web.url("/1/picture.jpg"), "licence": "CC0", "tags": "a red box, night,"},
        {"url": web.url("/2/picture.jpg"), "sha256": hashlib.sha256(png(2)).hexdigest().upper(), "tags": ["old"]},
    ]
    project = project_of(tmp_path, rows, source={"licence": "CC BY 4.0", "tags": ["old", "boxes"]})
    run(project)
    assert [(row.sha, row.origin, row.licence, row.tags) for row in map_rows(project)] == [
        (hashlib.sha256(png(1)).hexdigest(), rows[0]["url"], "CC0", "old,boxes,a red box,night"),
        (hashlib.sha256(png(2)).hexdigest(), rows[1]["url"], "CC BY 4.0", "old,boxes"),
    ]


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ((404, {}, png(1)), ("http_status", "HTTP 404")),
        ((204, {}, b""), ("http_status", "HTTP 204")),
        ((200, {"content-type": "text/html; charset=utf-8"}, png(1)), ("not_a_picture", "text/html")),
        ((200, {"content-type": "image/jpeg"}, b"\n <!DOCTYPE html>gone"), ("not_a_picture", "<!DOCTYPE")),
        ((200, {"content-type": "image/jpeg"}, b"GIF89a nonsense"), ("bad_image", "")),
        ((200, {"content-encoding": "gzip"}, b"\x1f\x8b"), ("not_a_picture", "gzip")),
        ((200, {"x-robots-tag": "nofollow, noai"}, png(1)), ("opted_out", "noai")),
        ((302, {}, b""), ("http_status", "HTTP 302")),
        ((302, {"location": "ftp://127.0.0.1/x"}, b""), ("bad_address", "ftp://127.0.0.1/x")),
        ((302, {"location": "http://[x/"}, b""), ("bad_address", "http://%5bx/")),
        (cut_off, ("unreachable", "without sending complete")),
        (hang, ("timeout", "0.5 seconds")),
    ],
)
def test_d3_what_a_host_says_is_checked(tmp_path, web, page, found):
    web.pages["/a.jpg"] = page
    reason, detail = reason_of(tmp_path, web.url("/a.jpg"), timeout_seconds=0.5)
    assert reason == found[0]
    assert found[1] in detail


def test_d6_odd_characters_are_encoded_and_the_order_is_that_of_the_list(tmp_path, web):
    path = "/ä b%20c/图.png?q=1 2&x=é#part"
    encoded = "/%C3%A4%20b%20c/%E5%9B%BE.png?q=1%202&x=%C3%A9"
    web.pages = {encoded: png(1), **{f"/{seed}": png(seed) for seed in range(2, 9)}}
    urls = [web.url(path), *(web.url(f"/{seed}") for seed in (5, 3, 8, 2, 7, 4, 6))]
    project = project_of(tmp_path, urls)
    assert run(project)[urls[0]] == ("", "")
    assert [row.origin for row in map_rows(project)] == urls
    assert encoded in web.paths()


def test_d9_files_are_named_by_what_they_are(tmp_path, web):
    web.pages["/a.jpg"] = png(1)
    project = project_of(tmp_path, [web.url("/a.jpg")])
    run(project)
    assert [row.suffix for row in map_rows(project)] == [".png"]


def test_the_first_of_the_list_stays_even_if_it_comes_last(tmp_path, web):
    async def slow(web, writer):
        await asyncio.sleep(0.4)
        await web._write(png(9), "", writer)

    buffer = io.BytesIO()
    scene(9).save(buffer, "JPEG", quality=80)
    web.pages = {"/slow": slow, "/near": buffer.getvalue(), "/same": png(9)}
    project = project_of(tmp_path, [web.url(x) for x in ("/slow", "/near", "/same", "/slow")])
    found = run(project)
    assert [(row.origin, row.reason) for row in map_rows(project)] == [
        (web.url("/slow"), ""),
        (web.url("/near"), "near_duplicate"),
    ]
    assert found[web.url("/same")] == ("same_file", web.url("/slow"))
    assert web.paths().count("/slow") == 1


def test_a_row_that_changes_is_looked_at_again(tmp_path, web):
    web.pages["/a"] = png(1)
    rows = [{"url": web.url("/a"), "sha256": "0" * 64}]
    assert run(project_of(tmp_path, rows))[rows[0]["url"]] == (
        "hash_differs",
        f"its sha256 is {hashlib.sha256(png(1)).hexdigest()}",
    )
    run(project_of(tmp_path, rows))
    assert len(web.paths()) == 1
    for words in ("night", "day"):
        rows = [{"url": web.url("/a"), "license": "CC0", "tags": words}]
        project = project_of(tmp_path, rows)
        assert run(project) == {web.url("/a"): ("", "")}
        assert [(row.tags, row.licence) for row in map_rows(project)] == [(words, "CC0")]
    assert len(web.paths()) == 3


def test_an_endless_file_is_read_up_to_the_limit(tmp_path, web):
    web.pages = {"/endless": endless, "/long": (200, {"content-length": 10**9}, b"x")}
    rows = [web.url("/endless"), web.url("/long")]
    found = run(project_of(tmp_path, rows, filters={"max_megabytes": 1}))
    assert set(found.values()) == {("too_many_bytes", "more than 1,000,000 bytes")}
    assert web.sent < 20e6


def test_a_small_file_of_many_pixels_is_not_decoded(tmp_path, web):
    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, "PNG")
    web.pages["/bomb"] = buffer.getvalue()
    assert len(web.pages["/bomb"]) < 100_000
    assert reason_of(tmp_path, web.url("/bomb"))[0] == "image_size"


def test_files_that_are_broken_do_not_stop_the_others(tmp_path, web):
    web.pages = {f"/{x}": png(x) if x % 3 else (500, {}, b"") for x in range(90)}
    found = run(project_of(tmp_path, [web.url(path) for path in web.pages]))
    assert {place for place, (reason, _) in found.items() if reason == "http_status"} == {
        web.url(f"/{x}") for x in range(0, 90, 3)
    }
    assert "unreachable" not in {reason for reason, _ in found.values()}


def test_an_unexpected_error_ends_it_all(tmp_path, web, monkeypatch):
    web.pages = {f"/{x}": png(x) for x in range(4)}

    def full(place, content):
        raise OSError("No space left on device")

    monkeypatch.setattr(fetch, "_keep", full)
    with pytest.raises(OSError, match="No space left"):
        run(project_of(tmp_path, [web.url(path) for path in web.pages]))


def test_d5_after_a_kill_only_the_rest_is_fetched(tmp_path):
    count, served = 60, 45
    pages = {f"/{seed}": png(seed, size=(320, 240)) for seed in range(count)}
    with Web(pages) as web:
        rows = [web.url(path) for path in pages]
        straight = run(project_of(tmp_path / "straight", rows)), contents(Project(tmp_path / "straight"))
        web.asked.clear()
        web.pages |= {f"/{seed}": hang for seed in range(served, count)}
        project = project_of(tmp_path / "project", rows)
        command = [sys.executable, "-c", COLLECTS, str(project.folder)]
        with subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE) as process:
            deadline = time.monotonic() + 120
            while not (
                project.ledger.exists() and len(contents(project)[1]) == BATCH and in_spool(project) == served - BATCH
            ):
                assert time.monotonic() < deadline, (in_spool(project), web.asked)
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.02)
            process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL
        web.asked.clear()
        web.pages |= pages
        found = run(project, workers=2)
        assert sorted(web.paths()) == sorted(f"/{seed}" for seed in range(served, count))
    assert (found, contents(project)) == straight
    with Ledger(project.ledger) as ledger:
        assert [row.origin for row in ledger.rows(ImageRow)] == [x for x in rows if found[x][0] != "same_file"]


COLLECTS = """
import sys
from pathlib import Path
from mmfuser_jax.mminstruct.pictures import collect
from mmfuser_jax.mminstruct import ledger
from mmfuser_jax.mminstruct import project

opened = project.Project(Path(sys.argv[1]))
collect.collect(opened, ledger.Ledger(opened.ledger))
"""


def in_spool(project):
    return len([path for path in (project.folder / INCOMING).glob("*") if not path.name.endswith(".tmp")])


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.json", "[]", "a list of addresses is one of .txt, .csv, .tsv, .jsonl"),
        ("a.csv", "link,tags\nx,y", "its first line names no column url, but link, tags"),
        ("a.csv", "", "names no column url, but none"),
        ("a.csv", "url,sha256\nhttp://a.test/,abc", r"a.csv: line 2: sha256 is 'abc', and not 64 hexadecimal digits"),
        ("a.csv", "tags,url\nx,", r"a.csv: line 2: there is no url"),
        ("a.csv", "url\n" + "x" * 200_000, "cannot be read .*field larger"),
        ("a.csv", "url\nhttp://a.test/\xe9".encode("latin-1"), "cannot be read .*utf-8"),
        ("a.jsonl", '{"url": "http://a.test/"}\n{"url": 7}', r"a.jsonl: row 2: url is 7 and no text"),
        ("a.jsonl", "[1]", "row 1: there is no url"),
        ("a.jsonl", "{", "cannot be read .*not JSON"),
        ("a.txt", "# nothing\n", "no pictures here"),
        ("b.txt", "", "no such list"),
    ],
)
def test_mistakes_in_lists_are_named(tmp_path, name, text, match):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    project = project_of(tmp_path, [], source={"urls": name.replace("b", "c")})
    with pytest.raises(ProjectError, match=match):
        run(project)
