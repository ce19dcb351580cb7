"""Lists of addresses of pictures, and projects that fetch these."""

import io
import json

import pytest
import yaml

from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.pictures.candidates import INCOMING
from mmfuser_jax.mminstruct.pictures.collect import collect
from mmfuser_jax.mminstruct.project import CONFIG, Project
from mmfuser_jax.mminstruct.reasons import PICTURES as REASONS
from mmfuser_jax.mminstruct.schema import Finding
from mmfuser_jax.mminstruct.web import addresses, fetch
from tests.fake_web import Web
from tests.test_collect import scene


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


def resolver(monkeypatch, places):
    async def resolve(host, port):
        if host not in places:
            raise OSError("unknown")
        return places[host]

    monkeypatch.setattr(addresses, "resolve", resolve)
