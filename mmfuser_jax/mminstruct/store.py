"""Pictures by the hash of their content: each file once, whole or not there."""

from __future__ import annotations

from pathlib import Path

from mmfuser_jax import files


def place(folder: Path, sha: str, suffix: str) -> Path:
    """Where a picture is in a store."""
    return folder / sha[:2] / f"{sha}{suffix}"


def keep(folder: Path, sha: str, suffix: str, content: bytes) -> None:
    """Writes a picture to its place, if it is not there; it has reached the disk when this returns."""
    path = place(folder, sha, suffix)
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, content)
