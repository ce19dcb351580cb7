"""Which addresses may be asked, what hosts say about it, and lists of addresses."""

import asyncio
import hashlib
import json
import ssl
import time

import httpcore2
import pytest

from mmfuser_jax.mminstruct.pictures.url_lists import Listed, read_list
from mmfuser_jax.mminstruct.retry_after import seconds_of
from mmfuser_jax.mminstruct.web import addresses
from mmfuser_jax.mminstruct.web.addresses import CheckedNetwork, FetchError, is_public, parsed
from mmfuser_jax.mminstruct.web.robots import Rules, opted_out


def test_times_of_day_to_be_asked_again_are_understood():
    soon = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    assert 95 < seconds_of(soon) < 101
    assert seconds_of("Fri, 31 Dec 1999 23:59:59 GMT") == 0
    assert seconds_of("soon") == seconds_of("-5") == 0


def test_public_addresses():
    for address in ("93.184.216.34", "8.8.8.8", "2606:4700::1", "64:ff9b::808:808"):
        assert is_public(address), address
    for address in (
        "0.0.0.0", "10.0.0.1", "100.100.100.200", "127.0.0.1", "168.63.129.16", "169.254.169.254", "172.16.0.1",
        "192.0.0.192", "192.168.1.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1",
        "::ffff:10.0.0.1", "::ffff:8.8.8.8", "2002:a00:1::1", "2001:db8::1", "64:ff9b::a00:1", "fd00:ec2::254",
        "fe80::1%eth0", "ff02::1",
    ):  # fmt: skip
        assert not is_public(address), address


def test_what_was_checked_is_connected_to_and_tls_asks_for_the_name(monkeypatch):
    """A name that stands for another address a moment later changes nothing."""
    answers, connected, names = [["93.184.216.34", "8.8.8.8"], ["127.0.0.1"]], [], []

    async def resolve(host, port):
        return answers.pop(0)

    class Stream(httpcore2.AsyncMockStream):
        async def start_tls(self, ssl_context, server_hostname=None, timeout=None):
            names.append(server_hostname)
            return self

    class Network(httpcore2.AsyncNetworkBackend):
        async def connect_tcp(self, host, port, timeout=None, *more):
            connected.append((host, port))
            if len(connected) == 1:
                raise httpcore2.ConnectTimeout
            return Stream([b"HTTP/1.1 200 X\r\nconnection: close\r\n\r\nfine"])

    async def ask():
        network = CheckedNetwork(private=False)
        network._network = Network()
        async with httpcore2.AsyncConnectionPool(ssl.create_default_context(), network_backend=network) as pool:
            assert (await pool.request("GET", "https://a.test/")).content == b"fine"
            with pytest.raises(FetchError, match=r"private_address: a.test is 127.0.0.1"):
                await pool.request("GET", "https://a.test/")

    monkeypatch.setattr(addresses, "resolve", resolve)
    asyncio.run(ask())
    assert connected == [("93.184.216.34", 443), ("8.8.8.8", 443)]
    assert names == ["a.test"]


def test_names_are_resolved():
    assert "127.0.0.1" in asyncio.run(addresses.resolve("localhost", 80))
    with pytest.raises(OSError, match="label"):
        asyncio.run(addresses.resolve("a" * 70 + ".test", 80))


def test_addresses_are_as_they_are_sent():
    assert parsed(" HTTP://Bücher.TEST/%2f?a b ").raw_path == b"/%2f?a%20b"
    assert addresses.host_of(parsed("http://Bücher.TEST./")) == "xn--bcher-kva.test"


def test_rules_of_hosts():
    text = """\ufeffUser-agent: other
    Disallow: /
    User-Agent: MMFUSER_JAX/9 # us
    User-agent: third
    disallow: /a
    Allow: /a/b
    Disallow: /*.gif$
    Disallow: /caf%C3%A9/*/x
    Crawl-delay: 2
    nonsense
    Disallow:

    User-agent: *
    Disallow: /all"""
    rules = Rules(text)
    allowed = {
        "/": 1,
        "/a": 0,
        "/a/c": 0,
        "/a/b/c": 1,
        "/x.gif": 0,
        "/x.gif?y": 1,
        "/café/1/2/x": 0,
        "/caf%c3%a9/x": 1,
        "/b": 1,
    }
    assert {path: int(rules.allow(path)) for path in allowed} == allowed
    assert rules.delay == 2
    assert not Rules("User-agent: *\nDisallow: /all").allow("/all/x")
    assert Rules("User-agent: *\nDisallow: /a\nAllow: /a").allow("/a")
    assert Rules("Disallow: /").allow("/")  # for nobody
    assert not Rules("User-agent: *\nDisallow: *a*a$").allow("/xaxa")
    assert Rules("User-agent: *\nDisallow: *a*a$").allow("/xa")
    assert Rules("User-agent: *\nCrawl-delay: 1e9").delay == 60
    began = time.monotonic()
    assert Rules(f"User-agent: *\nDisallow: /{'*a' * 200}$").allow("/" + "a" * 5000 + "b")
    assert time.monotonic() - began < 1


def test_who_has_opted_out():
    assert opted_out(["noindex"]) == "noindex"
    assert opted_out(["all", "NOAI, noimageai"]) == "noai"
    assert opted_out(["unavailable_after: 25 Jun 2010 15:00:00 PST, none"]) == "none"
    assert opted_out(["mmfuser_jax: noai"]) == "noai"
    assert not opted_out(["otherbot: noindex, noai", "nofollow", ""])


def test_lists_of_every_kind(tmp_path):
    sha = hashlib.sha256(b"").hexdigest()
    full = Listed("http://a.test/1#x", sha, "CC0", ("red", "a box"))
    bare = Listed("http://a.test/2")
    (tmp_path / "a.txt").write_text(
        "# list\nhttp://a.test/1#x  # the first\n\n  http://a.test/2\n", encoding="utf-8-sig"
    )
    assert list(read_list(tmp_path / "a.txt")) == [Listed(full.url), bare]
    table = f'width,url,tags,licence,sha256\n9,{full.url},"red, a box",CC0,{sha.upper()}\n9,{bare.url}\n'
    (tmp_path / "a.csv").write_text(table, encoding="utf-8-sig")
    assert list(read_list(tmp_path / "a.csv")) == [full, bare]
    (tmp_path / "a.tsv").write_text(
        f"url\tlicense\ttags\tsha256\n{full.url}\tCC0\tred,a box\t{sha}\n{bare.url}\t\t\t\n"
    )
    assert list(read_list(tmp_path / "a.tsv")) == [full, bare]
    rows = [{"url": full.url, "sha256": sha, "licence": "CC0", "tags": ["red", "a box"], "width": 9}, {"url": bare.url}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert list(read_list(tmp_path / "a.jsonl")) == [full, bare]
