"""What a row of MMInstruct is about: its domain from the path, its language and instruction type from the text."""

from __future__ import annotations

from collections.abc import Sequence

from mmfuser_jax.data.records import Turn


def detect(paths: Sequence[str], turns: Sequence[Turn]) -> dict[str, str]:
    """{"domain", "language", "type"} of one conversation."""
    return {}
