"""What a project's config may say: its fields, their types and limits, and what is used where it says nothing."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict

from mmfuser_jax.mminstruct.asking.server import STEPS, Server
from mmfuser_jax.mminstruct.questions.items import LANGUAGES, TYPES
from mmfuser_jax.mminstruct.questions.seed_questions import domain_names

HOST = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
"""A name as it is written in addresses, those with other letters as xn--…; or all names below one."""


def known_domain(name: str) -> str:
    """A domain's name.

    Raises:
      ValueError: there is none of that name.
    """
    if name not in domain_names():
        raise ValueError(f"no domain {name!r}; there are {', '.join(domain_names())}")
    return name


def _each_once(values: list[str]) -> list[str]:
    if not values or len(set(values)) < len(values):
        raise ValueError("needs one at least, and each only once")
    return values


class _Fields(BaseModel):
    """Fields of a part of the config: none but these, and none of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Filters(_Fields):
    """Limits on pictures; see `project.TEMPLATE`."""

    min_side: int = 64
    max_aspect: float = 8.0
    max_megabytes: float = 30.0
    min_brightness: float = 8.0
    max_brightness: float = 250.0
    min_contrast: float = 4.0
    min_sharpness: float = 10.0
    near: int = pydantic.Field(default=4, ge=-1, le=64)


class PictureSource(_Fields):
    """Where pictures of a domain are.

    Attributes:
      domain: of `seed_questions.domain_names`.
      folder: of picture files; or
      records: as `data.sources.open_source` takes them; of these, `split` and `image_folder`; or
      urls: a list of addresses, see `url_lists`; or
      pool: a folder of pictures that are taken if they are similar to those that the domain has from other sources: for each
        of these, the `count` most similar ones, as the vision encoder of the model `checkpoint` sees them; "" for the
        demo's model.
      licence: of all of them, kept beside each; a list's own licences go before.
      tags: words about all of them, kept beside each, with those of a list.
      filtered: False takes bad pictures too, as a domain about image quality needs them.
    """

    domain: Annotated[str, AfterValidator(known_domain)]
    folder: str = ""
    records: str = ""
    split: str = "train"
    image_folder: str = ""
    urls: str = ""
    pool: str = ""
    count: int = pydantic.Field(default=4, ge=1)
    checkpoint: str = ""
    licence: str = ""
    tags: list[str] = []
    filtered: bool = True

    @pydantic.model_validator(mode="after")
    def _one_place(self) -> PictureSource:
        if sum(map(bool, (self.folder, self.records, self.urls, self.pool))) != 1:
            raise ValueError("give one of folder, records, urls and pool")
        return self


def _host(name: str) -> str:
    if not HOST.fullmatch(name):
        raise ValueError(f"{name!r} is no host; write it as upload.example.org, or '*.example.org' for all below it")
    return name.lower()


class Collect(_Fields):
    """Of the step `collect`.

    Attributes:
      sources: of pictures.
      filters: for all of them.
      hosts: that files may be fetched from; `*.example.org` stands for all below `example.org`. No others, not even where
        one of these leads to them.
      private_addresses: lets `hosts` be in a network of your own; otherwise only public addresses are asked.
      heed_robots: keeps to the robots.txt of hosts, and to what pictures say in X-Robots-Tag.
      contact: an address or page for those who run the hosts, sent with every request.
      per_host: files on their way from a host at a time.
      per_second: requests that a host gets; fewer where its robots.txt asks for it.
      timeout_seconds: that a file may take.
    """

    sources: list[PictureSource] = []
    filters: Filters = Filters()
    hosts: list[Annotated[str, AfterValidator(_host)]] = []
    private_addresses: bool = False
    heed_robots: bool = True
    contact: str = pydantic.Field(default="", pattern=r"^[\x20-\x7e]*$")
    per_host: int = pydantic.Field(default=4, ge=1)
    per_second: float = pydantic.Field(default=5.0, gt=0)
    timeout_seconds: float = pydantic.Field(default=60.0, gt=0)


class Caption(_Fields):
    """Of the step `caption`.

    Attributes:
      ocr: whether words are read in pictures first and given to the model (extra `ocr`).
      least_words: of a caption; in Chinese, half as many again characters.
      tokens: of one, at most.
    """

    ocr: bool = False
    least_words: int = pydantic.Field(default=40, ge=1)
    tokens: int = pydantic.Field(default=1024, ge=16)


class Generate(_Fields):
    """Of the step `generate`.

    Attributes:
      types: of questions, for every picture.
      seeds: folder with seed questions that stand instead of the program's own for the domains that it has.
      examples: seed questions shown for each question asked of a model.
      tokens: of a reply, at most.
      repairs: times that a model is asked for what its reply lacks.
      most_same: pictures of a domain that may have the same question with the same answer.
      benchmarks: files whose questions may not be learnt: lines, or JSON lines or lists with `question` or `text`.
    """

    types: Annotated[list[Literal[TYPES]], AfterValidator(_each_once)] = list(TYPES)  # type: ignore[valid-type]
    seeds: str = ""
    examples: int = pydantic.Field(default=3, ge=1)
    tokens: int = pydantic.Field(default=1024, ge=16)
    repairs: int = pydantic.Field(default=2, ge=0)
    most_same: int = pydantic.Field(default=20, ge=1)
    benchmarks: list[str] = []


class PublicSet(_Fields):
    """A public set whose questions are taken over.

    Attributes:
      format: of `public_sets.FORMATS`.
      folder: as its authors publish it.
      name: of the set in the ledger, by which what was taken before is known; "" for the name of its format.
      splits: whose questions are taken, as its authors name them; "train" also stands for "train1".
      domain: of its pictures.
      most: questions to take, spread evenly; 0 for all.
      licence: of its pictures.
    """

    format: str
    folder: str
    name: str = pydantic.Field(default="", pattern=r"^[\w.-]*$")
    splits: Annotated[list[str], AfterValidator(_each_once)] = ["train"]
    domain: Annotated[str, AfterValidator(known_domain)] = "chart_and_math"
    most: int = pydantic.Field(default=0, ge=0)
    licence: str = ""

    @property
    def called(self) -> str:
        """Its name in the ledger."""
        return self.name or self.format


def _told_apart(sets: list[PublicSet]) -> list[PublicSet]:
    names = [chosen.called for chosen in sets]
    for name in names:
        if name in STEPS:
            raise ValueError(f"{name!r} is a step; give the set another name")
        if names.count(name) > 1:
            raise ValueError(f"two sets are called {name!r}; give the new one another, as name: {name}_2")
    return sets


class Expand(_Fields):
    """Of the step `expand`.

    Attributes:
      conversations: whether a conversation of several rounds is made of each picture.
      rounds: at least of one.
      tokens: of a reply, at most.
      sets: taken over.
    """

    conversations: bool = True
    rounds: int = pydantic.Field(default=3, ge=2)
    tokens: int = pydantic.Field(default=2048, ge=16)
    sets: Annotated[list[PublicSet], AfterValidator(_told_apart)] = []


class Review(_Fields):
    """Of the step `review`.

    Attributes:
      share: of the good items of every domain and type that people look at; doubtful ones all are.
      least: of them, by domain and type.
      twice: share of those that a second person looks at too.
    """

    share: float = pydantic.Field(default=1.0, ge=0, le=1)
    least: int = pydantic.Field(default=20, ge=0)
    twice: float = pydantic.Field(default=0.1, ge=0, le=1)


class Output(_Fields):
    """Of the step `export`.

    Attributes:
      unreviewed: whether good items that nobody looked at are written too.
      balance: whether as many answers are yes as no, and the rest is left out.
      reviewer_usd_per_hour: that a person costs.
      manual_usd: that an instruction written by hand costs, to compare with.
      licence: of the set.
      reviewer_names: whether it names those who looked at items, as they named themselves; else they are numbered.
    """

    unreviewed: bool = True
    balance: bool = True
    reviewer_usd_per_hour: float = pydantic.Field(default=20.0, ge=0)
    manual_usd: float = pydantic.Field(default=0.5, ge=0)
    licence: str = ""
    reviewer_names: bool = False


class Config(_Fields):
    """What project.yaml says.

    Attributes:
      name: of the data set to be.
      languages: of instructions.
      collect, caption, generate, expand, review, export: of these steps.
      servers: to ask.
      budget_usd: that all steps together may spend; None for no limit.
    """

    name: str
    languages: Annotated[list[Literal[LANGUAGES]], AfterValidator(_each_once)] = list(LANGUAGES)  # type: ignore[valid-type]
    collect: Collect = Collect()
    caption: Caption = Caption()
    generate: Generate = Generate()
    expand: Expand = Expand()
    review: Review = Review()
    export: Output = Output()
    servers: list[Server] = []
    budget_usd: float | None = None
