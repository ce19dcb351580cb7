"""What is taken: decided picture by picture, and anew where a file or the config has changed since."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.pictures.candidates import Candidate
from mmfuser_jax.mminstruct.pictures.inspection import Inspected
from mmfuser_jax.mminstruct.pictures.twins import Twins
from mmfuser_jax.mminstruct.project import ProjectError
from mmfuser_jax.mminstruct.schema import Finding, ImageRow

AGAIN = ""
"""Stamp of what failed for a reason that may pass, or that the config may allow by now: looked at again by the next run."""


@dataclasses.dataclass(frozen=True)
class Look:
    """What a look at a candidate found: a picture, or why there is none."""

    candidate: Candidate
    inspected: Inspected | None = None
    reason: str = ""
    detail: str = ""
    again: bool = False


class Taking:
    """Decides what is kept of what is found, and writes it to the ledger."""

    def __init__(self, ledger: Ledger, images: Path, near: int) -> None:
        """Begins with what the ledger has; `images` and `near` as `Twins` takes them."""
        self._ledger = ledger
        self._images = images
        self._twins = Twins(ledger, images, near)

    def describe(self, candidates: Iterable[Candidate]) -> None:
        """Gives pictures that were taken before the domain, licence and tags that their sources have by now.

        Raises:
          ProjectError: one that has questions would get another domain; then none is changed.
        """
        sql = """
            SELECT f.domain, i.sha, i.domain, i.licence, i.tags FROM findings f
            LEFT JOIN images i ON i.sha = f.sha AND i.origin = f.place AND i.state <> 'imported' WHERE f.place = ?
        """
        with self._ledger.changes():
            for candidate in candidates:
                wanted = _described(candidate)
                for domain, sha, *described in self._ledger.query(sql, (candidate.place,)):
                    if domain != wanted[0]:
                        self._ledger.query(
                            "UPDATE findings SET domain = ? WHERE place = ?", (wanted[0], candidate.place)
                        )
                    if sha and tuple(described) != wanted:
                        self._check_domain(candidate, sha, described[0])
                        images = "UPDATE images SET domain = ?, licence = ?, tags = ? WHERE sha = ?"
                        self._ledger.query(images, (*wanted, sha))

    def _check_domain(self, candidate: Candidate, sha: str, before: str) -> None:
        source = candidate.source
        if source.domain != before and self._ledger.has_questions(sha):
            named = source.folder or source.records or source.urls or source.pool
            raise ProjectError(
                f"collect.sources, {named}: domain is {source.domain}, but {candidate.place} has questions of {before} "
                f"already; write {before} again, or collect into a new project"
            )

    def take(self, look: Look) -> None:
        """Writes what was found to the ledger."""
        candidate, inspected = look.candidate, look.inspected
        before = self._ledger.row(Finding, "place = ?", (candidate.place,))
        stamp = AGAIN if look.again else candidate.stamp
        finding = Finding(candidate.place, stamp, candidate.source.domain, before.sha if before else "")
        if inspected is None:
            finding = dataclasses.replace(finding, reason=look.reason, detail=look.detail)
        else:
            if finding.sha not in ("", inspected.sha):
                self._drop_replaced(finding)
            first = self._take_picture(candidate, inspected)
            reason = "same_file" if first else ""
            finding = dataclasses.replace(finding, sha=inspected.sha, reason=reason, detail=first)
        self._ledger.add(finding, "OR REPLACE")

    def _drop_replaced(self, before: Finding) -> None:
        """What was at a place goes, before it is asked whether what is there now looks the same."""
        image = self._ledger.image(before.sha)
        if image and image.origin == before.place and image.state != "imported":
            self._change(dataclasses.replace(image, state="dropped", reason="replaced", twin=""))

    def _take_picture(self, candidate: Candidate, inspected: Inspected) -> str:
        """Writes what is said of a picture; returns the other place that its file counts for, "" where that is here."""
        first = self._ledger.image(inspected.sha)
        row = self._row(candidate, inspected, first)
        if first is None:
            self._ledger.add(row)
        elif first.origin == candidate.place:
            if first.state == "imported":
                return ""
            self._change(row)
        else:
            moves = first.domain == row.domain or not self._ledger.has_questions(first.sha)
            if not (first.state == "dropped" and row.state == "kept" and moves):
                return first.origin
            self._change(row)
            sql = "UPDATE findings SET reason = 'same_file', detail = ? WHERE place = ? AND sha = ?"
            self._ledger.query(sql, (row.origin, first.origin, first.sha))
        if row.state == "kept":
            self._twins.add(inspected)
        return ""

    def _row(self, candidate: Candidate, inspected: Inspected, first: ImageRow | None) -> ImageRow:
        """What is to be said of a picture; one that is kept is not compared with those that came later."""
        fields = {name: value for name, value in vars(inspected).items() if name not in ("cells", "fault")}
        domain, licence, tags = _described(candidate)
        row = ImageRow(
            **fields, domain=domain, origin=candidate.place, licence=licence, tags=tags,
            state="dropped" if inspected.fault else "kept", reason=inspected.fault,
        )  # fmt: skip
        if inspected.fault or not candidate.source.filtered or (first and first.state != "dropped"):
            return row
        twin = self._twins.find(inspected)
        return dataclasses.replace(row, state="dropped", reason="near_duplicate", twin=twin) if twin else row

    def _change(self, row: ImageRow) -> None:
        names = ("domain", "origin", "licence", "tags", "state", "reason", "twin")
        sql = f"UPDATE images SET {', '.join(f'{name} = ?' for name in names)} WHERE sha = ?"
        self._ledger.query(sql, [*(getattr(row, name) for name in names), row.sha])
        if row.state != "kept":
            self._twins.remove(row.sha)

    def unsettled(self, found: Mapping[str, Candidate]) -> list[Candidate]:
        """Pictures that were dropped for what does not hold any more, to be looked at in the store.

        The picture that one looks the same as is not kept any more; or the place that it counted for has another one now, but
        it is at a second place too; or that second place is of a source without filters.

        Args:
          found: candidates of this run by their places.

        Raises:
          FileNotFoundError: one is gone from the store.
        """
        sql = """
            SELECT f.place, i.sha, i.reason = 'replaced' OR i.reason = 'near_duplicate' AND coalesce(twins.state, '') <> 'kept' AS anew
            FROM findings f JOIN images i ON i.sha = f.sha LEFT JOIN images twins ON twins.sha = i.twin
            WHERE i.state = 'dropped' AND (f.reason = 'same_file' OR f.reason = '' AND anew)
        """
        rows = {place: (sha, anew) for place, sha, anew in self._ledger.query(sql) if place in found}
        return [
            dataclasses.replace(candidate, file=store.find(self._images, rows[place][0]))
            for place, candidate in found.items()
            if place in rows and (rows[place][1] or not candidate.source.filtered)
        ]


def _described(candidate: Candidate) -> tuple[str, str, str]:
    """(domain, licence, tags) as the ledger has them."""
    source = candidate.source
    tags = ",".join(dict.fromkeys((*source.tags, *candidate.tags)))
    return source.domain, candidate.licence or source.licence, tags
