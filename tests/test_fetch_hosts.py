"""Hosts that pictures are fetched from: only those that may be asked, gently, and left alone where they want it or are down."""

import asyncio
import time

import pytest

from mmfuser_jax.mminstruct.project import ProjectError
from mmfuser_jax.mminstruct.web import addresses, fetch
from mmfuser_jax.mminstruct.web.addresses import is_allowed
from tests import fetching
from tests.fake_web import Web, endless, hang
from tests.fetching import png, project_of, reason_of, resolver, run

impatient, web = fetching.impatient, fetching.web  # fixtures


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
