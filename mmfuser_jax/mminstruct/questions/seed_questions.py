"""Seed questions: what a model is shown as examples of what to ask, by domain, type and language.

They are ours, not the reference's, whose own have fields that do not match between languages and choices that cannot be
choices. A file a domain in `seeds/`; every seed is one sentence in all languages, so that they cannot come apart.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mmfuser_jax.mminstruct.questions.items import LANGUAGES, TYPES, plain

FOLDER = Path(__file__).parent / "seeds"
PLACEHOLDERS = "placeholders"

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times as fast where libyaml is there."""

_PLACEHOLDER = re.compile(r"\{(\w*)\}")
_YES_NO_EN = re.compile(
    r"(?:(?:in|on|at|for|judging|looking|compared|after|before|from|given|according)\b[^?]*, )?"
    r"(?:is|are|was|were|does|do|did|can|could|has|have|had|will|would|should|might|may)\b",
    re.IGNORECASE,
)
_YES_NO_ZH = re.compile(r"吗？$|是否|是不是|有没有|能否|会不会|能不能|可否")
_ASKING_EN = re.compile(
    r"\b(?:what|which|who|whose|whom|where|when|how (?:many|much|old|far|long|big|large|high|tall|often)|how)\b", re.I
)
_OPEN_EN = re.compile(
    r"^(?:why|explain|describe|write|compose|imagine|discuss|how (?:do|does|did|would|could|can|should)\b)", re.I
)
_ASKING_ZH = re.compile(r"什么|哪|谁|几|多少|多大|多长|多高|多远|怎样的|如何|怎么")
_OPEN_ZH = re.compile(r"为什么|请(?:写|描述|解释|说明|想象|讨论|分析)|写一")


class SeedError(ValueError):
    """Seed questions that cannot be used; every fault is a line that names the file."""


@dataclasses.dataclass(frozen=True)
class Domain:
    """One field of pictures.

    Attributes:
      name: as in the paths of the release, "posters".
      title: language → what it is called in prompts.
      seeds: type → seed questions, each by language.
      placeholders: what `{names}` in them stand for, by language.
    """

    name: str
    title: Mapping[str, str]
    seeds: Mapping[str, tuple[Mapping[str, str], ...]]
    placeholders: Mapping[str, Mapping[str, str]]


def load_domains(folder: Path = FOLDER) -> dict[str, Domain]:
    """All domains that `folder` has a file of, by name.

    Raises:
      SeedError: see `lint`.
    """
    faults = list(lint(folder))
    if faults:
        raise SeedError("\n".join(faults))
    known = load_placeholders(folder)
    return {path.stem: _domain(path, known) for path in _files(folder)}


def domain_names(folder: Path = FOLDER) -> list[str]:
    """Of all domains, without reading their files."""
    return [path.stem for path in _files(folder)]


def load_placeholders(folder: Path = FOLDER) -> dict[str, dict[str, str]]:
    """Placeholder → what it stands for, by language; the program's own where the folder has no file of them."""
    path = folder / f"{PLACEHOLDERS}.yaml"
    found = _read(path if path.exists() else FOLDER / f"{PLACEHOLDERS}.yaml")
    if not isinstance(found, dict):
        raise SeedError(f"{path}: needs names of placeholders with their meanings")
    return found


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.yaml")) if path.stem != PLACEHOLDERS]


def _read(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), LOADER)
    except yaml.YAMLError as error:
        raise SeedError(f"{path}: not YAML ({' '.join(str(error).split())})") from None


def _domain(path: Path, known: Mapping[str, Mapping[str, str]]) -> Domain:
    fields = _read(path)
    return Domain(path.stem, fields["domain"], {kind: tuple(fields[kind]) for kind in TYPES}, known)


def lint(folder: Path = FOLDER) -> Iterator[str]:
    """Everything that is wrong with the files of a folder, a line each."""
    known = load_placeholders(folder)
    for name, meaning in known.items():
        if not _in_all_languages(meaning):
            yield f"{folder / PLACEHOLDERS}.yaml: {name} needs its meaning in {' and '.join(LANGUAGES)}"
    for path in _files(folder):
        yield from (f"{path}: {fault}" for fault in _faults(_read(path), known))


def _in_all_languages(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and set(value) == set(LANGUAGES)
        and all(isinstance(text, str) and text.strip() for text in value.values())
    )


def _faults(fields: Any, known: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(fields, Mapping) or set(fields) != {"domain", *TYPES} or not _in_all_languages(fields["domain"]):
        yield f"needs exactly domain, {', '.join(TYPES)}, and the domain in {' and '.join(LANGUAGES)}"
        return
    seen: dict[str, str] = {}
    for kind in TYPES:
        seeds = fields[kind]
        if not isinstance(seeds, list) or not seeds:
            yield f"{kind}: no seed"
            continue
        for place, seed in enumerate(seeds, 1):
            where = f"{kind} {place}"
            if not _in_all_languages(seed):
                yield f"{where}: needs {' and '.join(LANGUAGES)}"
                continue
            yield from (f"{where}: {fault}" for fault in seed_faults(seed, kind, known))
            for language, text in seed.items():
                other = seen.setdefault(f"{language} {plain(text)}", where)
                if other != where:
                    yield f"{where}: the same in {language} as {other}"


def seed_faults(seed: Mapping[str, str], kind: str, known: Mapping[str, Any]) -> Iterator[str]:
    """Why a sentence, by language, is no seed of a type; `known` are the placeholders that there are."""
    used = {language: sorted(_PLACEHOLDER.findall(text)) for language, text in seed.items()}
    if used["en"] != used["zh"]:
        yield f"placeholders differ: {', '.join(used['en']) or 'none'} and {', '.join(used['zh']) or 'none'}"
    for name in sorted({*used["en"], *used["zh"]} - set(known)):
        yield f"{{{name}}} is not in {PLACEHOLDERS}.yaml"
    for language, text in seed.items():
        if re.search(r"[<>＜＞]|[{}]", _PLACEHOLDER.sub("", text)):
            yield f"{language}: a placeholder is written {{name}}"
    yield from _form_faults(seed, kind)


def _form_faults(seed: Mapping[str, str], kind: str) -> Iterator[str]:
    """Sentences that cannot be of their type: a poem has no options, and "which" no yes."""
    english, chinese = seed["en"], seed["zh"]
    asks = english.endswith("?") and chinese.endswith("？")
    tells = kind == "long" and english.endswith(".") and chinese.endswith("。")
    if not asks and not tells:
        yield "ends neither as a question in both languages" + (" nor as a request" if kind == "long" else "")
    yes_no = bool(_YES_NO_EN.match(english)), bool(_YES_NO_ZH.search(chinese))
    if kind == "judgement" and not all(yes_no):
        yield "is no question for yes or no"
    if kind == "choice" and (any(yes_no) and " or " not in english):
        yield "is a question for yes or no, not for options"
    if kind == "choice" and (_OPEN_EN.match(english) or _OPEN_ZH.search(chinese)):
        yield "has no answer that could be one of four options"
    if (
        kind in ("choice", "short")
        and not any(yes_no)
        and not (_ASKING_EN.search(english) and _ASKING_ZH.search(chinese))
    ):
        yield "does not say what is asked for (what, which, who, where, how many, …)"
