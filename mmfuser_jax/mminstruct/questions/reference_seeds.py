"""Seed questions of the reference → files in our schema, as far as they can be, and a report of all that cannot.

The reference has a file a domain, "00021_posters.json": {"judge" | "choice" | "sentence": {"Chinese": [...], "English":
[...]}}, the languages paired by their places. Other files of it say "select" for "choice", and "longsentence" and
"shortsentence" for "sentence"; its program asks for "select" and finds nothing. All of these names are taken here.

Our schema wants every sentence once, while the reference has nearly the same list under "choice" and "sentence". So a sentence
of both goes to one type, by this rule: a seed under "sentence" that could be a choice has an answer of few words and may be
short or long, any other is long; of the types that a seed may be of, it goes to the one with the fewest seeds so far, those
first that have no other place to go.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mmfuser_jax import files
from mmfuser_jax.mminstruct.questions import seed_questions
from mmfuser_jax.mminstruct.questions.items import TYPES, plain
from mmfuser_jax.mminstruct.questions.seed_questions import PLACEHOLDERS, seed_faults

KINDS = {
    "judge": ("judgement",),
    "choice": ("choice",),
    "select": ("choice",),
    "sentence": ("short", "long"),
    "shortsentence": ("short",),
    "longsentence": ("long",),
}
"""Name in the reference's files → the types that a seed may be of."""

_LANGUAGES = {"en": "English", "zh": "Chinese"}
_PLACEHOLDER = re.compile(r"[<＜]([^<>＜＞]+)[>＞]")
_NEEDLESS = re.compile(
    r"^(?:(?:an?|the|some|certain|specific|other|particular) |(?:图中的)?一[个种位件段]|某[个种些]|特定的?|具体的?|其他)+"
)
"""Words before what a placeholder stands for, in the reference's placeholders and in the meanings of ours."""


class ReferenceSeedError(ValueError):
    """A folder of which no domain can be taken; the message names it."""


@dataclasses.dataclass
class _Seed:
    """A question.

    Attributes:
      texts: by language, with our placeholders as far as there are such.
      places: key of the list, and place in it, of all the times that it stands in the file.
      types: that it may be of.
    """

    texts: dict[str, str]
    places: dict[str, str]
    types: tuple[str, ...]

    @property
    def where(self) -> str:
        """Its first place."""
        return next(iter(self.places.values()))


def import_reference_seeds(folder: Path, target: Path) -> list[str]:
    """Writes `target/DOMAIN.yaml` for every domain that has seeds of all types, and our placeholders beside them.

    Args:
      folder: of the reference's files, `data_engine/all_seed`.
      target: made if it is not there; `seed_questions.load_domains` reads the result.

    Returns:
      A line for everything that was not taken, or not as the type under which it stands: its file, its place and why.

    Raises:
      ReferenceSeedError: there is no JSON file in the folder, or no domain can be taken.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise ReferenceSeedError(f"{folder}: no seed files of the reference here, such as 00021_posters.json")
    ours, placeholders = seed_questions.load_domains(), seed_questions.load_placeholders()
    report: list[str] = []
    written = False
    for path in paths:
        domain = re.sub(r"^\d+_", "", path.stem)
        if domain not in ours:
            report.append(f"{path}: {domain!r} is none of our domains")
            continue
        faults: list[str] = []
        seeds, moved = _shared_out(_distinct(_read(path, placeholders, faults), placeholders, faults))
        if missing := [kind for kind in TYPES if not seeds[kind]]:
            moved = [f"not taken at all, as no seed is left of {', '.join(missing)}"]
        report += [f"{path}: {line}" for line in faults + moved]
        if missing:
            continue
        target.mkdir(parents=True, exist_ok=True)
        fields = {"domain": dict(ours[domain].title), **seeds}
        text = yaml.safe_dump(fields, allow_unicode=True, sort_keys=False, default_flow_style=None, width=1000)
        files.write_text(target / f"{domain}.yaml", text)
        written = True
    if not written:
        raise ReferenceSeedError(f"{folder}: no domain can be taken; the last of {len(report)} faults: {report[-1]}")
    shutil.copyfile(seed_questions.FOLDER / f"{PLACEHOLDERS}.yaml", target / f"{PLACEHOLDERS}.yaml")
    return report


def _read(path: Path, placeholders: Mapping[str, Mapping[str, str]], faults: list[str]) -> Iterator[_Seed]:
    """Pairs of a file; what is no pair is a fault."""
    try:
        if not path.read_text(encoding="utf-8").strip():
            raise ValueError("the file is empty")
        fields = files.read_json(path)
    except ValueError as error:
        faults.append(str(error).removeprefix(f"{path}: "))
        return
    names = _names(placeholders)
    for key, lists in fields.items():
        if key not in KINDS:
            faults.append(f"{key}: not known; there are {', '.join(KINDS)}")
            continue
        for place, pair in _pairs(key, lists, faults):
            texts = {language: _replaced(text, names) for language, text in zip(_LANGUAGES, pair, strict=True)}
            where = f"{key} {place} ({pair[0].strip()})"
            if unknown := sorted({found[0] for text in texts.values() for found in _PLACEHOLDER.finditer(text)}):
                faults.append(f"{where}: {PLACEHOLDERS}.yaml has nothing for {', '.join(unknown)}")
                continue
            yield _Seed(texts, {key: where}, KINDS[key])


def _pairs(key: str, lists: Any, faults: list[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(place, texts in the order of _LANGUAGES) of the seeds under a key."""
    texts: list[Any] = [lists.get(name) if isinstance(lists, Mapping) else None for name in _LANGUAGES.values()]
    if not all(isinstance(text, list) for text in texts):
        faults.append(f"{key}: needs a list under each of {', '.join(_LANGUAGES.values())}")
    elif len({len(text) for text in texts}) > 1:
        counts = " and ".join(f"{len(text)} in {name}" for text, name in zip(texts, _LANGUAGES.values(), strict=True))
        faults.append(f"{key}: languages are not aligned, so none of its seeds is taken: {counts}")
    else:
        for place, pair in enumerate(zip(*texts, strict=True), 1):
            if all(isinstance(text, str) and text.strip() for text in pair):
                yield place, pair
            else:
                faults.append(f"{key} {place}: needs a text in all languages")


def _names(placeholders: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What the reference may call a placeholder → its name."""
    meanings = {_bare(text): name for name, meaning in placeholders.items() for text in meaning.values()}
    return meanings | {name: name for name in placeholders}


def _bare(text: str) -> str:
    """What a placeholder stands for, without needless words.

    >>> _bare("Specific brand"), _bare("图中的一个物体"), _bare("city or country"), _bare("城市或国家")
    ('brand', '物体', 'city/country', '城市/国家')
    """
    return re.sub(r" or |或", "/", _NEEDLESS.sub("", plain(text)))


def _replaced(text: str, names: Mapping[str, str]) -> str:
    """With our placeholders in the place of the reference's, as far as there are such; "Object 1" and "object" are one."""

    def ours(found: re.Match[str]) -> str:
        base, number = re.fullmatch(r"(.*?) ?(\d?)", _bare(found[1])).groups()  # type: ignore[union-attr]
        name = names.get(base, "") + number.replace("1", "")
        return f"{{{name}}}" if name in names.values() else found[0]

    return _PLACEHOLDER.sub(ours, text).strip()


def _distinct(seeds: Iterator[_Seed], placeholders: Mapping[str, Mapping[str, str]], faults: list[str]) -> list[_Seed]:
    """Seeds with the types that they can be of; a question that stands in several lists is one seed."""
    said: dict[str, _Seed] = {}
    for seed in seeds:
        unfit = {kind: list(seed_faults(seed.texts, kind, placeholders)) for kind in TYPES}
        if seed.types == KINDS["sentence"]:
            unfit["short"] = unfit["choice"]
        if all(unfit[kind] for kind in seed.types):
            faults.append(f"{seed.where}: {'; '.join(unfit[seed.types[-1]])}")
            continue
        seed.types = tuple(kind for kind in seed.types if not unfit[kind])
        words = [f"{language} {plain(text)}" for language, text in seed.texts.items()]
        twins = [said.get(text) for text in words]
        other = next(filter(None, twins), None)
        if other is None:
            said |= dict.fromkeys(words, seed)
        elif all(twin is other for twin in twins) and not seed.places.keys() & other.places.keys():
            other.types = tuple(kind for kind in TYPES if kind in other.types + seed.types)
            other.places |= seed.places
        else:
            faults.append(f"{seed.where}: says, in one language at least, the same as {other.where}")
    return list({id(seed): seed for seed in said.values()}.values())


def _shared_out(seeds: list[_Seed]) -> tuple[dict[str, list[dict[str, str]]], list[str]]:
    """Type → its seeds, by the rule above, and where those stand that were taken as another type."""
    taken: dict[str, list[dict[str, str]]] = {kind: [] for kind in TYPES}
    moved: list[str] = []
    for seed in sorted(seeds, key=lambda seed: len(seed.types)):
        kind = min(seed.types, key=lambda kind: len(taken[kind]))
        taken[kind].append(seed.texts)
        moved += [f"{where}: taken as {kind} alone" for key, where in seed.places.items() if kind not in KINDS[key]]
    return taken, moved
