"""A domain grown from a few pictures: those of a pool that look most like them, by our own vision encoder."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from mmfuser_jax import hub
from mmfuser_jax.generate.engine import pad_rows
from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.config import PictureSource
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.pictures.candidates import Candidate, pictures_of
from mmfuser_jax.mminstruct.pictures.embeddings import embed
from mmfuser_jax.mminstruct.pictures.encoder import Encoder, load_encoder
from mmfuser_jax.mminstruct.pictures.sheet import COLUMNS, GAP, INK, KEPT, LABEL, SIDE, draw_cell
from mmfuser_jax.mminstruct.project import Project, ProjectError
from mmfuser_jax.mminstruct.schema import ImageRow
from mmfuser_jax.model_folder import MODEL_FILE
from mmfuser_jax.types import Array

LOG = logging.getLogger(__name__)

DEMO = Path("runs/demo")
"""Where `make demo` leaves its model: the encoder where a source names none."""

POOLS = "pools"
"""Folder of a project that keeps embeddings."""

QUERIES = 256
"""Of which the similarities to a block of the pool are held at a time."""

SHOWN = 40
"""Pictures of the domain on a sheet, each with those that were found by it."""


@dataclasses.dataclass(frozen=True)
class Match:
    """A picture that was found.

    Attributes:
      candidate: the picture.
      like: the picture of the domain that it resembles most.
      similarity: cosine of the two embeddings.
    """

    candidate: Candidate
    like: ImageRow
    similarity: float


def similar_candidates(
    project: Project, ledger: Ledger, source: PictureSource, workers: int = 1
) -> Iterator[Candidate]:
    """Pictures of a pool that are like the domain's, the most similar first, each once.

    Asked for are the `count` most similar ones of every kept picture of the domain that has not come from a pool itself:
    a domain does not grow by what it has grown by. A sheet in the project's folder shows which picture has found which.

    Args:
      project: its folder keeps the embeddings of the pool.
      ledger: of the project, with pictures of the domain.
      source: one with a pool.
      workers: processes that decode pictures.

    Raises:
      ProjectError: there is no such pool, no picture to begin with, or no encoder.
      HubError, ModelFolderError, CheckpointError, ConversionError: the checkpoint is no model, or damaged.
    """
    where = f"collect.sources, domain {source.domain}"
    pool = project.path(source.pool)
    seeds = _seeds(project, ledger, source)
    if not seeds:
        raise ProjectError(
            f"{where}: a pool needs pictures of the domain to begin with; add a folder or records of some"
        )
    origins = {seed.origin for seed in seeds}
    found = {Path(x.place): x for x in pictures_of(pool, source) if x.place not in origins}
    encoder = _encoder(project, source, where)
    kept = {store.place(project.images, seed.sha, seed.suffix): seed for seed in seeds}
    asked = embed(_folder(project, encoder, project.images), {x: y.sha for x, y in kept.items()}, encoder, workers)
    there = embed(_folder(project, encoder, pool), {x: y.stamp for x, y in found.items()}, encoder, workers)
    scores, places = top_k(asked.embeddings, there.embeddings, source.count)
    rows = [
        [Match(found[there.files[place]], kept[file], float(score)) for score, place in zip(*row, strict=True)]
        for file, *row in zip(asked.files, scores, places, strict=True)
    ]
    matches = best_first(rows)
    if matches:
        sheet = _sheet(project, source)
        draw_matches(rows, project.images, sheet)
        LOG.info(
            "%s: of %s pictures in %s, %s are most like its %s (similarity %.3f to %.3f); %s shows them", source.domain,
            f"{len(there.files):,}", pool, f"{len(matches):,}", f"{len(rows):,}", matches[0].similarity,
            matches[-1].similarity, sheet,
        )  # fmt: skip
    yield from (match.candidate for match in matches)


def _seeds(project: Project, ledger: Ledger, source: PictureSource) -> list[ImageRow]:
    """The domain's kept pictures, without those that come from a pool."""
    sources = project.config.collect.sources
    pools = [project.path(x.pool) for x in sources if x.pool]
    folders = [project.path(x.folder) for x in sources if x.folder and x.domain == source.domain]

    def inside(origin: str, places: Sequence[Path]) -> bool:
        return any(Path(origin).is_relative_to(place) for place in places)

    rows = ledger.rows(ImageRow, "domain = ? AND state = 'kept'", (source.domain,))
    return [row for row in rows if inside(row.origin, folders) or not inside(row.origin, pools)]


def _encoder(project: Project, source: PictureSource, where: str) -> Encoder:
    if not source.checkpoint:
        if not (DEMO / MODEL_FILE).exists():
            raise ProjectError(f"{where}: no encoder at {DEMO}; give checkpoint, a model's folder, or run: make demo")
        return load_encoder(DEMO)
    local = project.path(source.checkpoint)
    try:
        return load_encoder(local if local.exists() else source.checkpoint)
    except hub.HubError as error:
        raise ProjectError(f"{where}: checkpoint: {error}") from None


def _sheet(project: Project, source: PictureSource) -> Path:
    """Of the first pool of a domain `similar-DOMAIN.png`, then `similar-DOMAIN-2.png` and so on."""
    pools = [x for x in project.config.collect.sources if x.pool and x.domain == source.domain]
    number = next((number for number, pool in enumerate(pools, 1) if pool == source), 1)
    return project.folder / f"similar-{source.domain}{f'-{number}' if number > 1 else ''}.png"


def _folder(project: Project, encoder: Encoder, pictures: Path) -> Path:
    """Where embeddings of a folder's pictures are kept."""
    key = hashlib.sha256(f"{encoder.fingerprint} {pictures}".encode(errors="surrogateescape")).hexdigest()
    return project.folder / POOLS / key[:16]


def top_k(
    queries: Float[np.ndarray, "q D"], pool: Float[np.ndarray, "n D"], k: int, block: int = 8192
) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
    """The k rows of a pool that have the greatest inner products with each query: all are compared, none is skipped.

    Args:
      queries: what to look for.
      pool: where; on the host, or a memory map.
      k: how many; all of them where there are fewer.
      block: rows of the pool that go to the device together; there are never more than two such blocks.

    Returns:
      (scores, places), the greatest score first, of equal ones the lower place. Scores are float32.
    """
    k, block = min(k, len(pool)), min(block, max(1, len(pool)))
    asked = [jnp.asarray(queries[i : i + QUERIES], jnp.float32) for i in range(0, max(1, len(queries)), QUERIES)]
    best = [(jnp.full((len(x), k), -jnp.inf), jnp.full((len(x), k), -1, jnp.int32)) for x in asked]
    for start in range(0, len(pool), block):
        some = pool[start : start + block]
        rows = jnp.asarray(some if len(some) == block else pad_rows(some, block))
        jax.block_until_ready(best)  # else all blocks of a large pool are on their way at once
        best = [_better(x, rows, start, len(pool), *y) for x, y in zip(asked, best, strict=True)]
    scores, places = zip(*best, strict=True)
    return np.concatenate(scores), np.concatenate(places)


@jax.jit
def _better(
    queries: Float[Array, "q D"],
    rows: Float[Array, "b D"],
    start: int | Array,
    end: int | Array,
    scores: Float[Array, "q k"],
    places: Int[Array, "q k"],
) -> tuple[Float[jax.Array, "q k"], Int[jax.Array, "q k"]]:
    """The best of what was found before and of a block of rows, which begins at `start` of a pool that stops at `end`.

    Of equal scores `jax.lax.top_k` takes those of lower index: what was found before, in the order of places.
    """
    found = jnp.einsum("qD,bD->qb", queries, rows.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    here = jnp.broadcast_to((start + jnp.arange(len(rows), dtype=jnp.int32))[None], found.shape)
    found = jnp.where(here < end, found, -jnp.inf)
    best, index = jax.lax.top_k(jnp.concatenate([scores, found], axis=1), scores.shape[1])
    return best, jnp.take_along_axis(jnp.concatenate([places, here], axis=1), index, axis=1)


def best_first(rows: Sequence[Sequence[Match]]) -> list[Match]:
    """What all queries have found, the most similar first, each picture once."""
    found: dict[str, Match] = {}
    for match in sorted((match for row in rows for match in row), key=lambda match: -match.similarity):
        found.setdefault(match.candidate.place, match)
    return list(found.values())


def draw_matches(rows: Sequence[Sequence[Match]], images: Path, path: Path) -> None:
    """Writes a PNG: on each line a picture of the domain, then the most similar ones that were found, with similarities.

    Args:
      rows: of every picture of the domain; of many, some are shown, evenly.
      images: the project's store.
      path: of the file.
    """
    chosen = rows[:: -(-len(rows) // SHOWN)]
    columns = min(COLUMNS, 1 + max(len(row) for row in chosen))
    height = SIDE + LABEL + GAP
    page = Image.new("RGB", (GAP + columns * (SIDE + GAP), GAP + len(chosen) * height), "white")
    for line, row in enumerate(chosen):
        like, top = row[0].like, GAP + line * height
        draw_cell(page, store.place(images, like.sha, like.suffix), like.sha[:10], KEPT, (GAP, top))
        for column, match in enumerate(row[: COLUMNS - 1], 1):
            place = GAP + column * (SIDE + GAP), top
            draw_cell(page, Path(match.candidate.place), f"{match.similarity:.3f}", INK, place)
    page.save(path)
