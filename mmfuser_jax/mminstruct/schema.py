"""The tables of a project's ledger, and their rows."""

from __future__ import annotations

import dataclasses

VERSION = 1

SCHEMA = """
CREATE TABLE images (
  sha TEXT PRIMARY KEY,       -- SHA-256 of the file, which is its name in the store
  domain TEXT NOT NULL,
  suffix TEXT NOT NULL,       -- of the file in the store
  width INTEGER NOT NULL, height INTEGER NOT NULL, bytes INTEGER NOT NULL,
  origin TEXT NOT NULL,       -- path or address that it was first found at
  licence TEXT NOT NULL,
  hash INTEGER NOT NULL,      -- perceptual, as a signed number of 64 bits
  state TEXT NOT NULL,        -- kept; dropped; imported with its questions, so that no model is asked about it
  reason TEXT NOT NULL,       -- why it is dropped
  twin TEXT NOT NULL,         -- which picture it is nearly the same as
  tags TEXT NOT NULL,         -- what its source says that it shows, between commas
  at REAL NOT NULL
) STRICT;
CREATE INDEX images_by_state ON images (domain, state, reason);
CREATE TABLE findings (       -- every place that was looked at, whatever was there
  place TEXT PRIMARY KEY,
  stamp TEXT NOT NULL,        -- changes where the content may have changed
  domain TEXT NOT NULL,
  sha TEXT NOT NULL,          -- of the picture that is there, or was before it could not be had; none where there never was
  reason TEXT NOT NULL,       -- why it is not, or that the picture was there before
  detail TEXT NOT NULL,
  at REAL NOT NULL
) STRICT;
CREATE INDEX findings_by_reason ON findings (domain, reason);
CREATE TABLE texts (          -- words that were read in a picture
  image TEXT PRIMARY KEY,
  lines TEXT NOT NULL,        -- JSON list
  at REAL NOT NULL
) STRICT;
CREATE TABLE answers (        -- what came of every question that was asked; those without a row were not yet
  key TEXT PRIMARY KEY,       -- of the question and the model
  about TEXT NOT NULL,        -- key of the answer that it wants mended, or id of the item that it judges
  step TEXT NOT NULL, domain TEXT NOT NULL, image TEXT NOT NULL, kind TEXT NOT NULL, language TEXT NOT NULL,
  prompt TEXT NOT NULL,       -- template and its version
  seed INTEGER NOT NULL,
  model TEXT NOT NULL,
  text TEXT NOT NULL,         -- of the reply
  finish TEXT NOT NULL,       -- why it ends
  reason TEXT NOT NULL,       -- why there is no reply
  detail TEXT NOT NULL,
  attempts INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, usd REAL NOT NULL,
  seconds REAL NOT NULL,
  read INTEGER NOT NULL,      -- 1 once its items, or its verdict, are in the ledger too
  at REAL NOT NULL
) STRICT;
CREATE INDEX answers_by_step ON answers (step, reason, usd, input_tokens, output_tokens);
CREATE INDEX answers_by_image ON answers (image, step);
CREATE INDEX answers_by_about ON answers (about);
CREATE INDEX answers_unread ON answers (step, image) WHERE read = 0;
CREATE TABLE items (          -- every question and conversation that was made, and what was no usable one
  id TEXT PRIMARY KEY,
  answer TEXT NOT NULL,       -- key of the answer that it was read from; of an imported one, its name in the set
  step TEXT NOT NULL,         -- generate, expand, or the name of the set
  image TEXT NOT NULL, domain TEXT NOT NULL,
  type TEXT NOT NULL,         -- one of the four, or conversation
  language TEXT NOT NULL,
  body TEXT NOT NULL,         -- JSON list of exchanges, see items.py; of what could not be read, its words
  question TEXT NOT NULL,     -- the first one with its answer, without marks and capitals, to find the same again
  state TEXT NOT NULL,        -- good; doubtful: a person should look; refused
  reason TEXT NOT NULL,       -- why it is not good
  at REAL NOT NULL
) STRICT;
CREATE INDEX items_by_domain ON items (domain, type, state, reason, language);
CREATE INDEX items_domains ON items (id, domain);
CREATE INDEX items_by_image ON items (image, state);
CREATE INDEX items_by_question ON items (question, domain, language) WHERE state = 'good';
CREATE TABLE verdicts (       -- what people said, in the order in which they did; a person's last one counts that is not undone
  number INTEGER PRIMARY KEY,
  item TEXT NOT NULL, reviewer TEXT NOT NULL,
  verdict TEXT NOT NULL,      -- accept, edit, reject, or undone
  reason TEXT NOT NULL,       -- of a rejection
  body TEXT NOT NULL,         -- of an edit, as in items
  final INTEGER NOT NULL,     -- 1 where it settles a conflict
  seconds REAL NOT NULL,      -- that the person looked at it
  at REAL NOT NULL
) STRICT;
CREATE INDEX verdicts_by_item ON verdicts (item, reviewer, number, verdict);
CREATE TABLE batches (        -- files of questions that a server answers within a day
  id TEXT NOT NULL,           -- as the server names it; while it is sent, the mark that it was given
  base_url TEXT NOT NULL, key_name TEXT NOT NULL,
  keys TEXT NOT NULL,         -- JSON: step, model, and what each answer belongs to, see asking/batch_rows.py; once taken, the step
  state TEXT NOT NULL,        -- sending, sent, or taken
  at REAL NOT NULL,
  PRIMARY KEY (base_url, id)
) STRICT;
CREATE TABLE estimates (      -- what was foretold, to be compared with what it came to
  number INTEGER PRIMARY KEY,
  step TEXT NOT NULL, asks INTEGER NOT NULL, usd REAL NOT NULL,
  asked_before INTEGER NOT NULL, usd_before REAL NOT NULL,
  at REAL NOT NULL
) STRICT;
CREATE TABLE exports (
  number INTEGER PRIMARY KEY,
  path TEXT NOT NULL, format TEXT NOT NULL, conversations INTEGER NOT NULL, pictures INTEGER NOT NULL,
  sha TEXT NOT NULL,          -- of what was written
  at REAL NOT NULL
) STRICT;
"""


@dataclasses.dataclass(frozen=True)
class ImageRow:
    """A picture of the store; the fields are those of the table `images`."""

    sha: str
    domain: str
    suffix: str
    width: int
    height: int
    bytes: int
    origin: str
    licence: str
    hash: int
    state: str
    reason: str = ""
    twin: str = ""
    tags: str = ""


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was at a place; the fields are those of the table `findings`."""

    place: str
    stamp: str
    domain: str
    sha: str = ""
    reason: str = ""
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class AnswerRow:
    """What came of a question; the fields are those of the table `answers`."""

    key: str
    step: str
    domain: str
    image: str
    kind: str
    language: str
    prompt: str
    seed: int
    model: str
    text: str
    finish: str
    reason: str
    detail: str
    attempts: int
    input_tokens: int
    output_tokens: int
    usd: float
    seconds: float
    about: str = ""
    read: int = 0


@dataclasses.dataclass(frozen=True)
class ItemRow:
    """A question or conversation; the fields are those of the table `items`."""

    id: str
    answer: str
    step: str
    image: str
    domain: str
    type: str
    language: str
    body: str
    question: str
    state: str
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a person said of an item; the fields are those of the table `verdicts`."""

    item: str
    reviewer: str
    verdict: str
    reason: str = ""
    body: str = ""
    final: int = 0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Batch:
    """A file of questions on its way; the fields are those of the table `batches`."""

    id: str
    base_url: str
    key_name: str
    keys: str
    state: str


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What was foretold of a step; the fields are those of the table `estimates`."""

    step: str
    asks: int
    usd: float
    asked_before: int
    usd_before: float


@dataclasses.dataclass(frozen=True)
class Export:
    """What was written for others; the fields are those of the table `exports`."""

    path: str
    format: str
    conversations: int
    pictures: int
    sha: str


@dataclasses.dataclass(frozen=True)
class Texts:
    """Words that were read in a picture; the fields are those of the table `texts`."""

    image: str
    lines: str


TABLES = {
    ImageRow: "images", Finding: "findings", AnswerRow: "answers", ItemRow: "items", Verdict: "verdicts", Batch: "batches",
    Estimate: "estimates", Export: "exports", Texts: "texts",
}  # fmt: skip
"""Where rows of a class are."""

HAS_PICTURE = "NOT EXISTS (SELECT 1 FROM images WHERE sha = items.image AND state = 'dropped')"
"""Which items people and models are asked about, in SQL: no data set has those whose pictures were dropped since."""
