"""The one schema of a training record, in LLaVA's words, and its validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

IMAGE_MARKER = "<image>"
ROLES = ("human", "gpt")


class RecordError(ValueError):
    """A record breaks the schema; the message names the record."""


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
      images: paths of the pictures, in the order of their `<image>` markers; empty for text only.
      conversations: each an alternation of human and gpt turns, human first.
      tags: one mapping per conversation for reports, such as its instruction type; may be empty.
    """

    id: str
    images: tuple[Path, ...]
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
                raise RecordError(f"record {self.id}: {markers} {IMAGE_MARKER} markers for {len(self.images)} images")
        return self


def _check_turns(record: str, turns: Sequence[Turn]) -> None:
    if not turns:
        raise RecordError(f"record {record}: empty conversation")
    for index, turn in enumerate(turns):
        if turn.role not in ROLES:
            raise RecordError(f"record {record}: unknown role {turn.role!r} in turn {index}; known: {', '.join(ROLES)}")
        if turn.role != ROLES[index % 2]:
            raise RecordError(f"record {record}: turn {index} is by {turn.role}, expected {ROLES[index % 2]}")
        if not turn.text.strip():
            raise RecordError(f"record {record}: turn {index} is empty")


def turns_from_llava(conversation: Sequence[Mapping[str, Any]], record: str = "?") -> tuple[Turn, ...]:
    """Turns of a LLaVA conversation: a list of {"from": role, "value": text}.

    Raises:
      RecordError: an entry lacks a key, has a value that is not text, or an unknown role.
    """
    turns = []
    for index, entry in enumerate(conversation):
        role, text = entry.get("from"), entry.get("value")
        if not isinstance(role, str) or not isinstance(text, str):
            raise RecordError(f"record {record}: turn {index} needs text under 'from' and 'value'")
        if role not in ROLES:
            raise RecordError(f"record {record}: unknown role {role!r} in turn {index}; known: {', '.join(ROLES)}")
        turns.append(Turn(role, text))
    return tuple(turns)
