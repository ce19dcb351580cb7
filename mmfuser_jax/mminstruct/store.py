"""Pictures by the hash of their content: each file once, whole or not there."""

from __future__ import annotations

import io
from pathlib import Path

from mmfuser_jax import files
from mmfuser_jax.data.images import open_image


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


def find(folder: Path, sha: str) -> Path:
    """Where a picture is whose suffix is not known.

    Raises:
      FileNotFoundError: it is not there; the message says what to do.
    """
    found = next((folder / sha[:2]).glob(f"{sha}.*"), None)
    if found is None:
        raise FileNotFoundError(f"{folder}: picture {sha} is gone; put it back, or collect into a new project")
    return found


def sent(folder: Path, sha: str, side: int) -> bytes:
    """A picture as it is sent to a model: a JPEG file, upright, its longer side at most `side` pixels.

    Raises:
      FileNotFoundError: as `find`.
    """
    picture = open_image(find(folder, sha))
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
