"""The one schema of a training record, in LLaVA's words, and its validation."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

IMAGE_MARKER = "<image>"
ROLES = ("human", "gpt")

ImageFile = Path | bytes
"""Where a picture is: a file, or the content of one."""


class RecordError(ValueError):
    """A record cannot be used; the message names the record, or the part of it that is wrong.

    Attributes:
      reason: a short code to count by: "bad_json", "schema", "roles", "alternation", "empty_turn", "image_markers",
        "image_path", "missing_image", "bad_image", "image_size" or "too_long".
    """

    def __init__(self, message: str, reason: str = "schema") -> None:
        """`reason` as above."""
        super().__init__(message)
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Turn:
    """One utterance: role "human" or "gpt", and its text, in which `<image>` marks the place of a picture."""

    role: str
    text: str


@dataclasses.dataclass(frozen=True)
class Record:
    """Pictures and the conversations about them.

    Several conversations of one record are independent of each other: they share the pictures (decoded, encoded and
    packed once), not their words.

    Attributes:
      id: unique within its source.
      images: the pictures, in the order of their `<image>` markers; empty for text only.
      conversations: each an alternation of human and gpt turns, human first.
      tags: one mapping per conversation for reports, such as its "domain", "language" and "type"; may be empty.
    """

    id: str
    images: tuple[ImageFile, ...]
    conversations: tuple[tuple[Turn, ...], ...]
    tags: tuple[Mapping[str, str], ...] = ()

    def validate(self) -> Record:
        """Returns the record itself.

        Raises:
          RecordError: no conversation, wrong roles or order, empty text, or marker and picture counts that differ.
        """
        if not self.conversations:
            raise RecordError(f"record {self.id}: no conversation")
        if self.tags and len(self.tags) != len(self.conversations):
            raise RecordError(f"record {self.id}: {len(self.tags)} tags for {len(self.conversations)} conversations")
        for turns in self.conversations:
            _check_turns(self.id, turns)
            markers = sum(turn.text.count(IMAGE_MARKER) for turn in turns)
            if markers != len(self.images):
                raise RecordError(
                    f"record {self.id}: {markers} {IMAGE_MARKER} markers for {len(self.images)} images",
                    "image_markers",
                )
        return self


def usable(source: Any) -> Iterator[Record]:
    """The records of a `sources.Source` in order, those that cannot be used passed over."""
    for index in range(len(source)):
        with contextlib.suppress(RecordError):
            yield source[index]


def _check_turns(record: str, turns: Sequence[Turn]) -> None:
    if not turns:
        raise RecordError(f"record {record}: empty conversation", "empty_turn")
    for index, turn in enumerate(turns):
        if turn.role not in ROLES:
            raise RecordError(_unknown_role(record, turn.role, index), "roles")
        if turn.role != ROLES[index % 2]:
            message = f"record {record}: turn {index} is by {turn.role}, expected {ROLES[index % 2]}"
            raise RecordError(message, "alternation")
        if not turn.text.strip():
            raise RecordError(f"record {record}: turn {index} is empty", "empty_turn")


def _unknown_role(record: str, role: str, index: int) -> str:
    return f"record {record}: unknown role {role!r} in turn {index}; known: {', '.join(ROLES)}"


def turns_from_llava(conversation: Sequence[Mapping[str, Any]], record: str = "?") -> tuple[Turn, ...]:
    """Turns of a LLaVA conversation: a list of {"from": role, "value": text}.

    Raises:
      RecordError: an entry lacks a key, has a value that is not text, or an unknown role.
    """
    turns = []
    for index, entry in enumerate(conversation):
        role, text = (entry.get("from"), entry.get("value")) if isinstance(entry, Mapping) else (None, None)
        if not isinstance(role, str) or not isinstance(text, str):
            raise RecordError(f"record {record}: turn {index} needs text under 'from' and 'value'")
        if role not in ROLES:
            raise RecordError(_unknown_role(record, role, index), "roles")
        turns.append(Turn(role, text))
    return tuple(turns)
