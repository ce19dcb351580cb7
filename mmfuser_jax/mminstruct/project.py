"""A data project: a folder with a readable config, a store of pictures and a ledger."""

from __future__ import annotations

from pathlib import Path

import pydantic
import yaml

from mmfuser_jax import files
from mmfuser_jax.mminstruct.config import Config, known_domain

CONFIG, LEDGER, IMAGES = "project.yaml", "ledger.sqlite", "images"

TEMPLATE = """\
# A data project. Paths are relative to this file; every command can be run again at any time.
name: {name}
languages: [en, zh]

collect:
  # Pictures by domain. A folder with all its folders, or records (json, jsonl, an MMInstruct release, a built dataset),
  # or urls: a list of addresses (txt; csv, tsv or jsonl with url and, where known, sha256, licence and tags),
  # or pool: a folder of which those pictures are taken that look like the domain's own.
  # What a source's pictures may be used under, as `licence: CC BY 4.0`, stands beside each of them and in the card.
  sources:
    - {{domain: {domain}, folder: {pictures}}}
  hosts: []             # that files may be fetched from, as upload.example.org or '*.example.org'
  filters:  # of what is not taken, the reason is in the ledger and on the contact sheet
    min_side: 64        # pixels of the shorter side
    max_aspect: 8       # longer side over shorter side
    max_megabytes: 30
    min_brightness: 8   # mean grey value, 0 to 255
    max_brightness: 250
    min_contrast: 4     # standard deviation of the grey values
    min_sharpness: 10   # variance of the Laplacian of a picture 256 pixels high or wide
    near: 4             # bits, of 64, by which the hashes of two pictures differ at most that count as the same; -1: off

# Who is asked: servers that speak OpenAI's protocol. `keys` names variables of the environment; keys stand in no file.
servers:
  - base_url: https://api.openai.com/v1
    model: gpt-4o-mini
    keys: [OPENAI_API_KEY]
    picture_tokens: 26000               # that this model counts for a picture of 1,024 pixels; most others count 1,000 to 3,000
    steps: [caption, generate, expand]  # one with "judge" is asked for its opinion of every question
    # Models that reason (gpt-5, o3) need: tokens_field: max_completion_tokens, temperature: null, and often more room,
    # as caption.tokens: 4096, or less thought, as extra: {{reasoning_effort: low}}
budget_usd: 5           # that all steps together may spend; they stop before it is

caption:
  ocr: false            # true: words in pictures are read first and given to the model (extra ocr)
generate:
  types: [judgement, choice, short, long]
  benchmarks: []        # files of questions that may not be learnt
expand:
  conversations: true   # of several rounds, one for each picture and language
  sets: []              # public sets to take over, as {{format: dvqa, folder: DVQA}}
review:
  share: 1.0            # of the good items of every domain, type and language, that people look at
  least: 20             # of these at least, however small the share
  twice: 0.1            # of these, that a second person looks at too
export:
  unreviewed: true      # good items that nobody looked at are written too
  balance: true         # of every domain and language, as many judgements are yes as no; the rest is left out
  licence: ""           # of the data set, as cc-by-4.0; its card says it
  reviewer_names: false # true: the data set names those who looked at items; else it numbers them
  reviewer_usd_per_hour: 20
  manual_usd: 0.5       # what an instruction written by hand costs, to compare with
"""


class ProjectError(ValueError):
    """A project cannot be used as it is; the message names file and field."""


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
        known_domain(domain)
    except ValueError as error:
        raise ProjectError(str(error)) from None
    if not pictures.expanduser().is_dir():
        raise ProjectError(f"{pictures}: no such folder")
    folder.mkdir(parents=True, exist_ok=True)
    place = str(pictures.expanduser().resolve())
    files.write_text(path, TEMPLATE.format(name=_quoted(name), domain=domain, pictures=_quoted(place)))
    return Project(folder)


def _quoted(text: str) -> str:
    """As YAML writes it within brackets: in quotes where that is needed."""
    return yaml.safe_dump([text], default_flow_style=True, width=float("inf"), allow_unicode=True).strip()[1:-1]
