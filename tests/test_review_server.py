"""The server of the review page: whom it answers, what it shows, and which verdicts it writes."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from PIL import Image

from mmfuser_jax.locks import LockedError, locked
from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import CONFIG, Project
from mmfuser_jax.mminstruct.review.decisions import CONFLICTS, REJECTIONS, verdicts_of
from mmfuser_jax.mminstruct.review.guard import HEADER
from mmfuser_jax.mminstruct.review.routes import LARGEST, MOST_SECONDS
from mmfuser_jax.mminstruct.review.server import ReviewError, addresses, serve_review
from mmfuser_jax.mminstruct.schema import Verdict
from tests.conftest import ROOT
from tests.review_project import CHOICE, LONG, TOKEN, changed, fields, item, project_of, served
from tests.test_resume import environment


def request(url, path="", method="GET", token=None, host=None, body=None, headers=()):
    """(status, headers, body) of an answer; `token` goes into the header."""
    place = url.split("/")[2]
    connection = http.client.HTTPConnection(place, timeout=30)
    connection.putrequest(method, path or "/", skip_host=True)
    sent = {"Host": host or place, **dict(headers), **({HEADER: token} if token else {})}
    content = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
    if method == "POST":
        sent = {"Content-Type": "application/json", "Content-Length": str(len(content)), **sent}
    for name, value in sent.items():
        connection.putheader(name, value)
    connection.endheaders(content if method == "POST" else None)
    reply = connection.getresponse()
    found = reply.status, dict(reply.getheaders()), reply.read()
    connection.close()
    return found


PATHS = ("/", "/page.js", "/picture/picture", "/api/start", "/api/next?reviewer=anna", "/api/item/x?reviewer=anna")


def test_nothing_is_served_without_the_token(tmp_path):
    project = project_of(tmp_path, [item("x")])
    with served(project) as url:
        for path in PATHS:
            assert request(url, path)[0] == 403
            assert request(url, path, token="another")[0] == 403
            assert request(url, f"{path.partition('?')[0]}?token=another")[0] == 403
            assert request(url, path, token=TOKEN)[0] == 200
            assert request(url, path, headers={"Cookie": f"token={TOKEN}"})[0] == 403
        assert request(url, "/nothing")[0] == 403
        said = {"item": "x", "reviewer": "anna", "verdict": "accept"}
        assert request(url, "/api/verdict", "POST", body=said)[0] == 403
    with Ledger(project.ledger) as ledger:
        assert not verdicts_of(ledger, "x")


def test_the_cookie_shows_but_does_not_change(tmp_path):
    with served(project_of(tmp_path, [item("x")])) as url:
        status, headers, _ = request(url, "/?" + url.partition("?")[2])
        cookie = headers["set-cookie"]
        assert status == 200
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        sent = {"Cookie": cookie.partition(";")[0]}
        assert {request(url, path, headers=sent)[0] for path in PATHS} == {200}
        assert "set-cookie" not in request(url, "/", headers=sent)[1]
        for path in ("/api/verdict", "/api/undo", f"/api/undo?token={TOKEN}"):
            assert request(url, path, "POST", headers=sent, body={"reviewer": "anna"})[0] == 403


def test_a_name_that_is_led_here_by_others_is_not_answered(tmp_path):
    with served(project_of(tmp_path, [item("x")])) as url:
        port = url.split("/")[2].rpartition(":")[2]
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "localhost.evil.example:80"):
            assert request(url, "/api/start", token=TOKEN, host=host or " ")[0] in (400, 403)
        for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
            assert request(url, "/api/start", token=TOKEN, host=host)[0] == 200


def test_this_machine_s_own_names_are_answered(tmp_path):
    with served(project_of(tmp_path, [item("x")])) as url:
        for name in (socket.gethostname(), socket.getfqdn()):
            assert request(url, "/api/start", token=TOKEN, host=f"{name.upper()}:8773")[0] == 200


@pytest.mark.parametrize(("host", "family"), [("0.0.0.0", socket.AF_INET), ("::", socket.AF_INET6)])
def test_an_address_that_others_can_open_is_given_where_the_server_listens_everywhere(host, family):
    with socket.create_server((host, 0), family=family) as listening:
        found = addresses(listening, "secret")
        port = listening.getsockname()[1]
    assert found[0] == f"http://{socket.gethostname()}:{port}/?token=secret"
    assert not any(
        host in one.partition("//")[2].partition("?")[0].split(f":{port}")[0].strip("[]").split() for one in found
    )
    assert all(one.endswith(f":{port}/?token=secret") for one in found)


def test_a_second_review_is_told_that_one_is_open(tmp_path):
    held = "a review is open"
    words = rf"a review is open \(process {os.getpid()} on "
    with locked(tmp_path, held), pytest.raises(LockedError, match=words), locked(tmp_path, held):
        pass


def test_every_answer_forbids_scripts_of_others_and_being_kept(tmp_path):
    with served(project_of(tmp_path, [item("x")])) as url:
        for path, token in (("/", TOKEN), ("/picture/picture", TOKEN), ("/", None), ("/nothing", TOKEN)):
            _, headers, body = request(url, path, token=token)
            assert headers["cache-control"] == "no-store"
            assert "script-src 'self';" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert b"<script>" not in body


def posted(url, path, body, **more):
    status, _, content = request(url, path, "POST", token=TOKEN, body=body, **more)
    return status, json.loads(content)


def test_verdicts_are_written_and_wrong_ones_are_refused_in_words(tmp_path):
    project = project_of(tmp_path, [item("x")])
    good = {
        "item": "x",
        "reviewer": " anna  b ",
        "verdict": "edit",
        "seconds": 1e9,
        "exchanges": [fields(CHOICE, answer="A")],
    }
    with served(project) as url:
        for wrong, match in (
            ({"item": "y"}, "no item 'y'"), ({"verdict": "maybe"}, "verdict"), ({"reviewer": " "}, "name"),
            ({"reviewer": "a\x00b"}, "name"), ({"verdict": "reject", "reason": "mood"}, "needs a reason"),
            ({"seconds": -1}, "seconds"), ({"exchanges": None}, "exchange"), ({"final": True}, "no conflict"),
            ({"exchanges": [fields(CHOICE, answer="Z")]}, "none of the options"), ({"more": 1}, "more"),
        ):  # fmt: skip
            status, answer = posted(url, "/api/verdict", {**good, **wrong})
            assert status == 400
            assert match in answer["error"]
        for content in (b"[]", b"{", b"[" * 100_000, b'{"a":' * 50_000, b'"' + b"x" * LARGEST + b'"', b"\xff"):
            assert posted(url, "/api/verdict", content)[0] == 400
        assert posted(url, "/api/verdict", good, headers={"Content-Type": "text/plain"})[0] == 400
        status, answer = posted(url, "/api/verdict", good)
        assert (status, answer["progress"]["mine"]) == (200, 1)
    with Ledger(project.ledger) as ledger:
        (verdict,) = verdicts_of(ledger, "x")
    assert verdict == Verdict("x", "anna b", "edit", body=changed(CHOICE, answer="A"), seconds=MOST_SECONDS)


def test_an_edit_that_changes_nothing_is_an_acceptance(tmp_path):
    project = project_of(tmp_path, [item("x")])
    with served(project) as url:
        assert (
            posted(
                url, "/api/verdict", {"item": "x", "reviewer": "anna", "verdict": "edit", "exchanges": [fields(CHOICE)]}
            )[0]
            == 200
        )
    with Ledger(project.ledger) as ledger:
        assert verdicts_of(ledger, "x") == [Verdict("x", "anna", "accept")]


def test_no_edit_asks_what_a_benchmark_asks(tmp_path):
    project = project_of(tmp_path, [item("x")])
    (project.folder / "bench.txt").write_text("Which month is it?\n")
    config = project.folder / CONFIG
    config.write_text(config.read_text() + "generate: {benchmarks: [bench.txt]}\n")
    said = {
        "item": "x",
        "reviewer": "anna",
        "verdict": "edit",
        "exchanges": [fields(CHOICE, question="Which month is it?")],
    }
    with served(Project(project.folder)) as url:
        status, answer = posted(url, "/api/verdict", said)
    assert status == 400
    assert "benchmark" in answer["error"]


def test_a_page_that_begins_has_the_items_that_were_made_since(tmp_path):
    project = project_of(tmp_path, [item("x")])
    with served(project) as url:
        with Ledger(project.ledger) as ledger:
            ledger.add(item("y", LONG))
        assert json.loads(request(url, "/api/start", token=TOKEN)[2])["choices"]["type"] == {"choice": 1, "long": 1}


def test_only_pictures_of_the_store_are_served_and_in_a_form_that_browsers_show(tmp_path):
    project = project_of(tmp_path, [item("x"), item("y", image="scan")])
    with Ledger(project.ledger) as ledger:
        ledger.query("UPDATE images SET suffix = '.tif' WHERE sha = 'scan'")
    store.place(project.images, "scan", ".png").unlink()
    Image.new("RGB", (9, 9)).save(store.place(project.images, "scan", ".tif"))
    with served(project) as url:
        for path in (
            "/picture/nothing",
            "/picture/..%2f..%2fproject.yaml",
            "/picture/../../project.yaml",
            "/../project.yaml",
        ):
            assert request(url, path, token=TOKEN)[0] == 404
        for sha in ("picture", "scan"):
            status, headers, body = request(url, f"/picture/{sha}", token=TOKEN)
            assert (status, headers["content-type"], body[:4]) == (200, "image/png", b"\x89PNG")


def test_a_person_sees_the_words_of_others_only_where_they_are_to_be_settled(tmp_path):
    project = project_of(tmp_path, [item("x", state="doubtful", reason="judge")], twice=1.0)
    with served(project) as url:
        posted(url, "/api/verdict", {"item": "x", "reviewer": "anna", "verdict": "reject", "reason": "unclear"})
        seen = json.loads(request(url, "/api/next?reviewer=bob", token=TOKEN)[2])["item"]
        assert (seen["others"], seen["verdict"], seen["conflict"]) == ([], None, "")
        assert seen["doubt"] == "another model says that it is wrong"
        assert (seen["model"], seen["prompt"]) == ("a-model", "caption@1")
        assert [caption["text"] for caption in seen["captions"]] == ["A poster with a blue frame, picture."]
        posted(url, "/api/verdict", {"item": "x", "reviewer": "bob", "verdict": "accept"})
        seen = json.loads(request(url, "/api/next?reviewer=carla&queue=conflicts", token=TOKEN)[2])["item"]
        assert [(one["reviewer"], one["verdict"]) for one in seen["others"]] == [("anna", "reject"), ("bob", "accept")]
        assert seen["conflict"] == CONFLICTS["accept_and_reject"]
        status, answer = posted(
            url, "/api/verdict", {"item": "x", "reviewer": "carla", "verdict": "accept", "final": True}
        )
        assert (status, answer["progress"]["conflicts"]) == (200, 0)


def test_mistakes_are_said_in_one_line(tmp_path):
    project = project_of(tmp_path, [])
    with pytest.raises(
        ReviewError, match=r"no items yet; make some first: python launch/mminstruct\.py run --project="
    ):
        serve_review(project, "anna")
    with Ledger(project.ledger) as ledger:
        ledger.add(item("x"))
    unplanned = nothing_planned(project)
    with pytest.raises(ReviewError, match=r"nothing to review: .* review\.share"):
        serve_review(unplanned, "anna")
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ReviewError, match="is in use; give another --port"),
    ):
        serve_review(project, "anna", port=taken.getsockname()[1])
    with pytest.raises(ReviewError, match=r"cannot listen at nowhere\.invalid:"):
        serve_review(project, "anna", host="nowhere.invalid")
    with pytest.raises(ValueError, match="a name of 1 to 60 letters"):
        serve_review(project, "x" * 61)
    assert len(REJECTIONS) == 9  # keys 1 to 9


def nothing_planned(project):
    path = project.folder / CONFIG
    path.write_text(path.read_text().replace("share: 1.0", "share: 0.0"))
    planned_none = Project(project.folder)
    path.write_text(path.read_text().replace("share: 0.0", "share: 1.0"))
    return planned_none


def test_the_printed_address_opens_the_page(tmp_path):
    """The command's own function, in a process of its own; interrupted, it ends, and says how to go on."""
    project = project_of(tmp_path, [item("x")])
    program = (
        "from pathlib import Path; from mmfuser_jax.mminstruct.project import Project; "
        "from mmfuser_jax.mminstruct.review.server import serve_review; "
        f"serve_review(Project(Path({str(project.folder)!r})), 'anna', port=0)"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert "planning" in process.stdout.readline()
        url = process.stdout.readline().split()[-1]
        assert url.startswith("http://127.0.0.1:")
        status, _, page = request(url, "/?" + url.partition("?")[2])
        assert status == 200
        assert url.partition("token=")[2].encode() in page  # for the header of what the page posts
        assert "Ctrl-C ends it" in process.stdout.readline()
        os.kill(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f"launch/mminstruct.py export --project={project.folder} " in said
    assert len(url.partition("token=")[2]) >= 40
