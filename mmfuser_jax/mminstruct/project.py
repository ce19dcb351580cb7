"""A data project: a folder with a readable config, a store of pictures and a ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pydantic
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict

from mmfuser_jax import files
from mmfuser_jax.mminstruct.items import LANGUAGES
from mmfuser_jax.mminstruct.seed_questions import domain_names

CONFIG, LEDGER, IMAGES = "project.yaml", "ledger.sqlite", "images"

TEMPLATE = """\
# A data project. Paths are relative to this file; every command can be run again at any time.
name: {name}
languages: [en, zh]

collect:
  # Pictures by domain. A folder with all its folders, or records (json, jsonl, an MMInstruct release, a built dataset).
  sources:
    - {{domain: {domain}, folder: {pictures}}}
  filters:  # of what is not taken, the reason is in the ledger and on the contact sheet
    min_side: 64        # pixels of the shorter side
    max_aspect: 8       # longer side over shorter side
    max_megabytes: 30
    min_brightness: 8   # mean grey value, 0 to 255
    max_brightness: 250
    min_contrast: 4     # standard deviation of the grey values
    min_sharpness: 10   # variance of the Laplacian of a picture 256 pixels high or wide
    near: 4             # bits, of 64, by which the hashes of two pictures differ at most that count as the same; -1: off
"""


class ProjectError(ValueError):
    """A project cannot be used as it is; the message names file and field."""


def _known_domain(name: str) -> str:
    if name not in domain_names():
        raise ValueError(f"no domain {name!r}; there are {', '.join(domain_names())}")
    return name


class _Fields(BaseModel):
    """Fields of a part of the config: none but these, and none of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Filters(_Fields):
    """Limits on pictures; see TEMPLATE."""

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
      records: as `data.sources.open_source` takes them; of these, `split` and `image_folder`.
      licence: of all of them, kept beside each.
      filtered: False takes bad pictures too, as a domain about image quality needs them.
    """

    domain: Annotated[str, AfterValidator(_known_domain)]
    folder: str = ""
    records: str = ""
    split: str = "train"
    image_folder: str = ""
    licence: str = ""
    filtered: bool = True

    @pydantic.model_validator(mode="after")
    def _one_place(self) -> PictureSource:
        if bool(self.folder) == bool(self.records):
            raise ValueError("give either folder or records")
        return self


class Collect(_Fields):
    """Of the step `collect`."""

    sources: list[PictureSource] = []
    filters: Filters = Filters()


class Server(_Fields):
    """A server that speaks OpenAI's protocol.

    Attributes:
      base_url: up to and with `/v1`.
      model: its name there.
      keys: variables of the environment that hold keys, each asked as if it were a server of its own; never the keys.
      most: questions on their way at a time, of each key.
      requests_per_minute, tokens_per_minute: of each key; 0 for no limit.
      timeout_seconds: for an answer.
      temperature: of drawing tokens.
      json_schema: whether it can hold an answer to a JSON schema; else answers are tagged text.
      patience: factor of the pauses before a question is asked again.
    """

    base_url: str
    model: str
    keys: list[str] = []
    most: int = pydantic.Field(default=64, ge=1)
    requests_per_minute: int = pydantic.Field(default=0, ge=0)
    tokens_per_minute: int = pydantic.Field(default=0, ge=0)
    timeout_seconds: float = pydantic.Field(default=120.0, gt=0)
    temperature: float = 0.7
    json_schema: bool = True
    patience: float = pydantic.Field(default=1.0, ge=0)


class Config(_Fields):
    """What project.yaml says.

    Attributes:
      name: of the data set to be.
      languages: of instructions.
      collect: of that step.
      servers: to ask.
      budget_usd: that all steps together may spend; None for no limit.
    """

    name: str
    languages: list[Literal[LANGUAGES]] = list(LANGUAGES)  # type: ignore[valid-type]
    collect: Collect = Collect()
    servers: list[Server] = []
    budget_usd: float | None = None


class Project:
    """A project's folder and what its config says.

    Attributes:
      folder: of the project.
      config: see `Config`.
      ledger: the SQLite file.
      images: the store of pictures.
    """

    def __init__(self, folder: Path) -> None:
        """Reads the config.

        Raises:
          ProjectError: it is missing, no YAML, or has a field that does not exist or is of another type.
        """
        self.folder = folder
        self.ledger = folder / LEDGER
        self.images = folder / IMAGES
        path = folder / CONFIG
        try:
            self.config = Config.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            command = f"launch/mminstruct.py init --project={folder}"
            raise ProjectError(f"{path}: no project here; make one with: {command}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ProjectError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part + 1 if isinstance(part, int) else part) for part in first["loc"]) or "all of it"
            more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
            raise ProjectError(f"{path}: {field}: {first['msg']}{more}") from None

    def path(self, text: str) -> Path:
        """A path of the config."""
        return (self.folder / Path(text).expanduser()).resolve()


def init_project(folder: Path, name: str, domain: str, pictures: Path) -> Project:
    """Makes a project whose first source is a folder of pictures.

    Raises:
      ProjectError: there is one already, or no such domain or folder.
    """
    path = folder / CONFIG
    if path.exists():
        raise ProjectError(f"{path}: there is a project here already")
    try:
        _known_domain(domain)
    except ValueError as error:
        raise ProjectError(str(error)) from None
    if not pictures.expanduser().is_dir():
        raise ProjectError(f"{pictures}: no such folder")
    folder.mkdir(parents=True, exist_ok=True)
    quoted = yaml.safe_dump(str(pictures.expanduser().resolve()), default_flow_style=True).splitlines()[0]
    files.write_text(path, TEMPLATE.format(name=yaml.safe_dump(name).splitlines()[0], domain=domain, pictures=quoted))
    return Project(folder)
