"""Pictures of lists of addresses: fetched once, gently, from hosts that may be asked; hosts here are slow, broken or sly."""

import asyncio
import hashlib
import io
import json
import signal
import subprocess
import sys
import time

import pytest
import yaml
from PIL import Image

from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.pictures.candidates import INCOMING
from mmfuser_jax.mminstruct.pictures.collect import BATCH, collect
from mmfuser_jax.mminstruct.project import CONFIG, Project, ProjectError
from mmfuser_jax.mminstruct.reasons import PICTURES as REASONS
from mmfuser_jax.mminstruct.schema import Finding, ImageRow
from mmfuser_jax.mminstruct.web import addresses, fetch
from mmfuser_jax.mminstruct.web.addresses import is_allowed
from tests.conftest import ROOT
from tests.fake_web import Web, cut_off, endless, hang
from tests.test_collect import contents, map_rows, scene
from tests.test_resume import environment


def png(seed, **size):
    buffer = io.BytesIO()
    scene(seed, **size).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(fetch, "PAUSE", 0.01)


@pytest.fixture
def web():
    with Web() as web:
        yield web


def project_of(folder, rows, **settings):
    """A project of one list of addresses, or of rows with more than these."""
    folder.mkdir(exist_ok=True)
    text = "\n".join(json.dumps({"url": row} if isinstance(row, str) else row) for row in rows)
    (folder / "list.jsonl").write_text(text)
    source = {"domain": "posters", "urls": "list.jsonl", **settings.pop("source", {})}
    given = {
        "sources": [source], "hosts": ["127.0.0.1", "*.test"], "private_addresses": True, "per_second": 1000.0,
        "timeout_seconds": 20.0, **settings,
    }  # fmt: skip
    (folder / CONFIG).write_text(yaml.safe_dump({"name": "tried", "collect": given}))
    return Project(folder)


def run(project, workers=1):
    """Place → (reason, detail)."""
    with Ledger(project.ledger) as ledger:
        collect(project, ledger, workers)
        found = {x.place: (x.reason, x.detail) for x in ledger.rows(Finding)}
    assert {reason for reason, _ in found.values()} - {""} <= set(REASONS)
    assert not (project.folder / INCOMING).exists()
    return found


def reason_of(folder, url, **settings):
    (found,) = run(project_of(folder, [url], **settings)).values()
    return found


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


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_host_is_asked_again(tmp_path, web, status):
    web.pages["/a"] = [(status, {"retry-after": "1"}, b""), (status, {}, b""), png(1)]
    began = time.monotonic()
    assert reason_of(tmp_path, web.url("/a")) == ("", "")
    assert len(web.paths()) == 3
    assert time.monotonic() - began >= 1


def test_a_host_that_wants_to_be_left_alone_is_until_the_next_run(tmp_path, web):
    web.pages["/a"] = [(429, {"retry-after": "9000"}, b""), png(1)]
    project = project_of(tmp_path, [web.url("/a")])
    assert run(project) == {web.url("/a"): ("http_status", "HTTP 429, to be asked again in 9,000 s")}
    assert len(web.paths()) == 1
    assert run(project) == {web.url("/a"): ("", "")}


async def late(web, writer):
    await asyncio.sleep(0.3)
    await web._write(png(1), "", writer)


@pytest.mark.parametrize("first", ["/a", "/robots.txt"])
def test_a_host_that_wants_to_be_left_alone_gives_only_what_is_on_its_way(tmp_path, web, first, monkeypatch):
    monkeypatch.setattr(
        fetch, "AHEAD", 2
    )  # a third one waits for its turn, and others are drawn when the first one is there
    web.pages = {"/late": late, first: (429, {"retry-after": "3600"}, b""), **{f"/{x}": png(x) for x in range(2, 9)}}
    paths = ["/late", "/a", *(f"/{x}" for x in range(2, 9))]
    settings = {"per_second": 5.0, "heed_robots": first == "/robots.txt"}
    project = project_of(tmp_path, [web.url(path) for path in paths], **settings)
    found = run(project)
    assert sorted(web.paths()) == (["/a", "/late"] if first == "/a" else [])
    if first == "/a":
        assert found[web.url("/late")] == ("", "")
        detail = "not asked for, as its host wants to be left alone for 3,600 s"
        assert {found[web.url(path)] for path in paths[2:]} == {("unreachable", detail)}
    web.pages[first] = (404, {}, b"") if first == "/robots.txt" else png(9)
    assert {reason for reason, _ in run(project).values()} <= {"", "http_status"}
    assert sorted({*web.paths()}) == sorted(paths)


def test_only_what_may_pass_is_asked_for_again(tmp_path, web):
    web.pages = {"/busy": (503, {}, b""), "/hang": hang, "/gone": (410, {}, b""), "/html": b"<html>", "/good": png(1)}
    rows = [{"url": web.url(path)} for path in web.pages]
    gone = web.url("/nowhere").replace(str(web.port), "1")
    project = project_of(tmp_path, [*rows, gone], timeout_seconds=0.3, heed_robots=False)
    found = run(project)
    assert found[web.url("/busy")] == ("http_status", "HTTP 503")
    assert found[web.url("/hang")][0] == "timeout"
    assert found[gone][0] == "unreachable"
    assert web.paths().count("/busy") == web.paths().count("/hang") == fetch.ATTEMPTS
    web.asked.clear()
    web.pages |= {"/busy": png(2), "/hang": png(3)}
    found = run(project)
    assert sorted(web.paths()) == ["/busy", "/hang"]
    assert [place for place, (reason, _) in found.items() if not reason] == [
        web.url(path) for path in ("/good", "/busy", "/hang")
    ]


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


def resolver(monkeypatch, places):
    async def resolve(host, port):
        if host not in places:
            raise OSError("unknown")
        return places[host]

    monkeypatch.setattr(addresses, "resolve", resolve)


def test_addresses_that_lead_on_are_checked_each_time(tmp_path, web, monkeypatch):
    resolver(monkeypatch, {"a.test": ["127.0.0.1"], "in.test": ["127.0.0.2"]})
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")
    web.pages = {
        "/other": (301, {"location": "http://169.254.169.254/latest/meta-data"}, b""),
        "/inside": (302, {"location": web.url("/x.png", "in.test")}, b""),
        "/loop": (307, {"location": "loop"}, b""),
        "/file": (303, {"location": "file:///etc/passwd"}, b""),
        "/banned": (302, {"location": "/private/a.png"}, b""),
        "/private/a.png": png(2),
        "/good": [(308, {"location": "/1"}, b"")],
        **{f"/{hop}": (302, {"location": f"/{hop + 1}"}, b"") for hop in range(1, fetch.HOPS)},
        f"/{fetch.HOPS}": png(1),
        "/robots.txt": b"User-agent: *\nDisallow: /private",
    }
    paths = ("/other", "/inside", "/loop", "/file", "/banned", "/good")
    found = run(project_of(tmp_path, [web.url(path, "a.test") for path in paths], private_addresses=False))
    assert [found[web.url(path, "a.test")][0] for path in paths] == [
        "host_not_allowed", "private_address", "redirects", "bad_address", "robots", "",
    ]  # fmt: skip
    assert found[web.url("/inside", "a.test")][1].endswith("/robots.txt: in.test is 127.0.0.2")
    assert web.paths().count("/loop") == fetch.HOPS + 1
    assert {host for host, _ in web.asked} == {"a.test"}


@pytest.mark.parametrize(
    "places", [["127.0.0.1"], ["10.1.2.3"], ["93.184.216.34", "169.254.169.254"], ["::ffff:10.0.0.1"]]
)
def test_a_name_of_a_private_address_is_refused(tmp_path, web, monkeypatch, places):
    resolver(monkeypatch, {"a.test": places})
    web.pages["/a"] = png(1)
    reason, detail = reason_of(tmp_path, web.url("/a", "a.test"), private_addresses=False)
    assert (reason, detail.endswith(f"a.test is {places[-1]}")) == ("private_address", True)
    assert not web.asked


def test_the_address_itself_may_be_private(tmp_path, web):
    assert reason_of(tmp_path, web.url("/a"), private_addresses=False)[0] == "private_address"
    assert not web.asked


@pytest.mark.parametrize(
    "url", ["ftp://a.test/x", "//a.test/x", "a.test/x", "http://me:secret@a.test/x", "http:///x", "http://a.test:99999/",
            "http://[x/", "http://a.test/\x07", "javascript:alert(1)", "file:///etc/passwd"],
)  # fmt: skip
def test_what_is_no_address_of_the_web(tmp_path, url):
    assert reason_of(tmp_path, url)[0] == "bad_address"


def test_hosts_are_those_of_the_config(tmp_path, web, monkeypatch):
    resolver(monkeypatch, {"a.test": ["127.0.0.1"], "b.test": ["127.0.0.1"]})
    web.pages["/a"] = png(1)
    rows = [web.url("/a", "A.test."), web.url("/a", "b.test"), web.url("/b", "b.test")]
    with pytest.raises(ProjectError, match=r"collect.hosts is empty, .*: b.test \(2\), a.test \(1\)"):
        run(project_of(tmp_path, rows, hosts=[]))
    found = run(project_of(tmp_path, rows[1:], hosts=["a.test"]))
    assert set(found.values()) == {("host_not_allowed", "b.test is not in collect.hosts")}
    assert not web.asked
    found = run(project_of(tmp_path, rows[1:], hosts=["b.test"]))  # now it may
    assert list(found.values()) == [("", ""), ("http_status", "HTTP 404")]
    for host, allowed in {
        "example.org": False,
        "a.example.org": True,
        "b.a.example.org": True,
        "badexample.org": False,
    }.items():
        assert is_allowed(host, ["*.example.org"]) is allowed
    assert not is_allowed("a.example.org", ["example.org"])


@pytest.mark.parametrize("host", ["*", "https://a.test", "a.test/x", "a.test:80", "*a.test", "bücher.test"])
def test_what_is_no_host_is_refused(tmp_path, host):
    with pytest.raises(ProjectError, match=r"collect.hosts.1: .*is no host; write it as"):
        project_of(tmp_path, [], hosts=[host])


def test_robots_are_heeded_unless_the_config_says_otherwise(tmp_path, web):
    rules = b"User-agent: *\nDisallow: /no\nUser-agent: other\nDisallow: /"
    web.pages = {
        "/robots.txt": rules,
        "/no/a": png(1),
        "/yes/a": png(2),
        "/yes/b": (200, {"x-robots-tag": "noindex"}, png(3)),
    }
    rows = [web.url(path) for path in ("/no/a", "/yes/a", "/yes/b")]
    found = run(project_of(tmp_path / "heeded", rows))
    assert [found[row][0] for row in rows] == ["robots", "", "opted_out"]
    assert web.asked.count(("127.0.0.1", "/robots.txt")) == 1
    assert web.paths() == ["/yes/a", "/yes/b"]
    web.asked.clear()
    assert set(run(project_of(tmp_path / "not", rows, heed_robots=False)).values()) == {("", "")}
    assert ("127.0.0.1", "/robots.txt") not in web.asked


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ((403, {}, b""), ("", "")),
        ((301, {"location": "/rules"}, b""), ("robots", "/robots.txt disallows it")),
        ((301, {"location": "http://else.example/robots.txt"}, b""), ("host_not_allowed", "else.example is not in")),
        (endless, ("robots", "more than 1,000,000 bytes")),
        ((503, {}, b""), ("http_status", "HTTP 503")),
        (hang, ("timeout", "/robots.txt: it is not there after")),
    ],
)
def test_rules_that_cannot_be_had(tmp_path, web, page, found):
    web.pages = {"/robots.txt": page, "/rules": b"User-agent: mmfuser_jax\nDisallow: /", "/a": png(1)}
    reason, detail = reason_of(tmp_path, web.url("/a"), timeout_seconds=0.5)
    assert (reason, found[1] in detail) == (found[0], True)
    assert web.paths() == (["/a"] if not reason else ["/rules"] if "disallows" in detail else [])


def test_hosts_are_asked_gently_and_several_at_once(tmp_path, monkeypatch):
    resolver(monkeypatch, {name: ["127.0.0.1"] for name in ("127.0.0.1", "a.test", "b.test", "c.test")})
    with Web({f"/{seed}": png(seed) for seed in range(20)}, latency=0.05) as web:
        run(project_of(tmp_path / "one", [web.url(f"/{seed}") for seed in range(20)]))
        assert web.most == 4
        run(project_of(tmp_path / "few", [web.url(f"/{seed}") for seed in range(3, 9)], per_host=1))
        web.most = 0
        run(project_of(tmp_path / "all", [web.url(f"/{x}", f"{'abc'[x % 3]}.test") for x in range(20)]))
        assert 4 < web.most <= 12
        began = time.monotonic()
        run(project_of(tmp_path / "slow", [web.url(f"/{seed}") for seed in range(4)], per_second=4))
        assert time.monotonic() - began > 0.9
        web.pages["/robots.txt"] = b"User-agent: *\nCrawl-delay: 0.5"
        began = time.monotonic()
        run(project_of(tmp_path / "slower", [web.url(f"/{seed}") for seed in range(3)]))
        assert time.monotonic() - began > 0.9


def test_a_host_that_is_down_is_not_asked_for_everything(tmp_path, web):
    web.pages = {f"/{x}": (500, {}, b"") for x in range(200)}
    found = run(project_of(tmp_path, [web.url(path) for path in web.pages]))
    assert {reason for reason, _ in found.values()} <= {"http_status", "unreachable"}
    assert sum("requests before it failed" in detail for _, detail in found.values()) > 150
    assert fetch.GIVE_UP <= len(web.paths()) < fetch.GIVE_UP + 4
    assert len(found) == 200


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
