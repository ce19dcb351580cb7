"""The data engine: from a pile of pictures to corrected instruction data. Every command can be run again at any time.

python launch/mminstruct.py init --project=DIR --domain=posters --pictures=DIR    # makes DIR/project.yaml, to be looked at
python launch/mminstruct.py estimate --project=DIR                                # takes pictures in; says what questions will cost
python launch/mminstruct.py run --project=DIR [--workers=2] [--ray=2]             # all steps up to the people
python launch/mminstruct.py review --project=DIR [--reviewer=NAME]                # a page for them
python launch/mminstruct.py export --project=DIR --to=DIR [--formats=llava]
python launch/mminstruct.py collect | caption | generate | expand --project=DIR   # one step
python launch/mminstruct.py merge --project=DIR --other=DIR                       # answers of another machine's --shard=1/4
python launch/mminstruct.py seeds --folder=DIR --to=DIR                           # the reference's seed questions in our schema
python launch/mminstruct.py status --project=DIR
python launch/mminstruct.py domains
"""

import contextlib
import importlib.metadata
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from mmfuser_jax import cli

try:
    for name in ("aiolimiter", "genai-prices", "httpx2", "openai", "pydantic", "starlette", "uvicorn"):
        importlib.metadata.version(name)
except ImportError:
    sys.exit("error: the data engine needs its extra: pip install 'mmfuser-jax[engine]'")

from mmfuser_jax.locks import locked
from mmfuser_jax.mminstruct.ledger import Ledger, LedgerError
from mmfuser_jax.mminstruct.project import CONFIG, Project, init_project
from mmfuser_jax.mminstruct.questions.seed_questions import load_domains
from mmfuser_jax.mminstruct.status import next_step, print_pictures, print_status

_PROJECT = flags.DEFINE_string("project", None, "The project's folder.")
_DOMAIN = flags.DEFINE_string("domain", None, "init: of the pictures; `domains` lists what there is.")
_PICTURES = flags.DEFINE_string("pictures", None, "init: a folder of picture files.")
_WORKERS = flags.DEFINE_integer("workers", 1, "collect, export: processes.", lower_bound=1)
_SHARD = flags.DEFINE_string("shard", "0/1", "This machine's part of the pictures: 0/4 to 3/4.")
_RAY = flags.DEFINE_integer("ray", 0, "Processes of a Ray cluster that ask; 0: none.", lower_bound=0)
_REVIEWER = flags.DEFINE_string("reviewer", "", "review: who looks; asked on the page if it is not given.")
_PORT = flags.DEFINE_integer("port", 8765, "review: where the page is; 0 takes any that is free.", 0, 65535)
_HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "review: where to listen; any other lets other machines in, unencrypted."
)
_EXPORT_TASKS = flags.DEFINE_string("export_tasks", None, "review: write Label Studio's tasks into this file instead.")
_IMPORT_TASKS = flags.DEFINE_string(
    "import_tasks", None, "review: read Label Studio's annotations from this file instead."
)
_TO = flags.DEFINE_string("to", None, "export, seeds: the folder that is written.")
_FORMATS = flags.DEFINE_list("formats", ["llava"], "export: several of llava, jsonl, arrayrecord and parquet.")
_OTHER = flags.DEFINE_string("other", None, "merge: the project's folder of another machine.")
_FOLDER = flags.DEFINE_string("folder", None, "seeds: with the reference's seed files.")

ASKING = ("shard", "ray")

REVIEW = "review"
"""Folder in a project that whoever reviews holds."""

OPEN = "a review is open"


@contextlib.contextmanager
def _opened() -> Iterator[tuple[Project, Ledger]]:
    project = Project(Path(_PROJECT.value))
    try:
        with Ledger(project.ledger) as ledger:
            yield project, ledger
    except sqlite3.Error as error:
        raise LedgerError(f"{project.ledger}: {error}") from None


def init() -> None:
    """Makes a project."""
    folder = Path(_PROJECT.value)
    init_project(folder, folder.resolve().name, _DOMAIN.value, Path(_PICTURES.value))
    print(f"{folder / CONFIG}: look at it, then: python launch/mminstruct.py estimate --project={folder}")


def collect() -> None:
    """Takes pictures into the store."""
    with _opened() as (project, ledger):
        _collect(project, ledger)
        print_pictures(ledger)


def _collect(project: Project, ledger: Ledger) -> None:
    from mmfuser_jax.mminstruct.pictures import collect, sheet

    with locked(project.folder):
        collect.collect(project, ledger, _WORKERS.value)
        path = project.folder / "pictures.png"
        sheet.draw_sheet(ledger, project.images, path)
    print(f"{path}: what was taken and what was not")


def estimate() -> None:
    """Says what questions will cost; takes pictures into the store first, to know how many there are."""
    from mmfuser_jax.mminstruct.steps.estimating import estimate, print_estimate

    with _opened() as (project, ledger):
        _collect(project, ledger)
        print_estimate(estimate(project, ledger))


def caption() -> None:
    """Has pictures described."""
    with _opened() as (project, ledger):
        _caption(project, ledger)
        print_status(ledger)


def _caption(project: Project, ledger: Ledger) -> None:
    if project.config.caption.ocr:
        from mmfuser_jax.mminstruct.pictures.ocr import read_texts

        read_texts(project, ledger, _WORKERS.value)
    _ask(project, ledger, "caption")


def _ask(project: Project, ledger: Ledger, name: str) -> None:
    from mmfuser_jax.mminstruct.steps.servers import Way
    from mmfuser_jax.mminstruct.steps.work import work

    work(project, ledger, name, Way(_SHARD.value, _RAY.value))


def generate() -> None:
    """Has questions made."""
    with _opened() as (project, ledger):
        _generate(project, ledger)
        print_status(ledger)


def _generate(project: Project, ledger: Ledger) -> None:
    _ask(project, ledger, "generate")


def expand() -> None:
    """Has conversations made, and takes public sets over."""
    with _opened() as (project, ledger):
        _expand(project, ledger)
        print_status(ledger)


def _expand(project: Project, ledger: Ledger) -> None:
    from mmfuser_jax.mminstruct.steps.expansion import take_sets

    with locked(project.folder):
        take_sets(project, ledger)
    _ask(project, ledger, "expand")


def run() -> None:
    """All steps up to the people; questions that a server has no time for hold the steps after them up in nothing else."""
    from mmfuser_jax.mminstruct.steps.work import UnansweredError

    unanswered = []
    with _opened() as (project, ledger):
        _collect(project, ledger)
        for step in (_caption, _generate, _expand):
            try:
                step(project, ledger)
            except UnansweredError as error:
                unanswered.append(str(error))
        print_status(ledger)
    if unanswered:
        raise UnansweredError("; ".join(unanswered))
    print(f"now look at it: python launch/mminstruct.py review --project={_PROJECT.value}")


def review() -> None:
    """A page for people, or Label Studio's files."""
    if _EXPORT_TASKS.value and _IMPORT_TASKS.value:
        sys.exit("error: --export_tasks and --import_tasks: one at a time")
    if _EXPORT_TASKS.value or _IMPORT_TASKS.value:
        with _opened() as (project, ledger), locked(project.folder / REVIEW, OPEN):
            _label_studio(project, ledger)
        return
    from mmfuser_jax.mminstruct.review.server import serve_review

    project = Project(Path(_PROJECT.value))
    with locked(project.folder / REVIEW, OPEN):  # two servers would give the same item to two people
        serve_review(project, _REVIEWER.value, _HOST.value, _PORT.value)


def _label_studio(project: Project, ledger: Ledger) -> None:
    from mmfuser_jax.mminstruct.review.label_studio import read_tasks, write_tasks

    if _EXPORT_TASKS.value:
        written = write_tasks(project, ledger, Path(_EXPORT_TASKS.value))
        print(f"{_EXPORT_TASKS.value}: {written.tasks:,} tasks; {written.config}: the labelling config")
        print(written.settings)
        if written.left_out:
            print(f"{len(written.left_out):,} items are for our own page, as a line of theirs looks like a heading")
        return
    found = read_tasks(project, ledger, Path(_IMPORT_TASKS.value), _REVIEWER.value)
    print(", ".join(f"{count:,} {what}" for what, count in found.counts.items()) or "no verdict in it")
    for error in found.errors:
        print(error, file=sys.stderr)


def export() -> None:
    """Writes what passed."""
    from mmfuser_jax.mminstruct.export.exporting import export_project

    with _opened() as (project, ledger):
        counts = export_project(project, ledger, Path(_TO.value), _FORMATS.value, _WORKERS.value)
    print(f"{_TO.value}: {counts.items:,} items about {counts.pictures:,} pictures; the card is {_TO.value}/README.md")
    for line in counts.lines():
        print(line)


def merge() -> None:
    """Takes the answers of another machine in."""
    from mmfuser_jax.mminstruct.asking.shards import merge
    from mmfuser_jax.mminstruct.project import LEDGER

    with _opened() as (project, ledger), locked(project.folder):
        print(f"{merge(ledger, Path(_OTHER.value) / LEDGER):,} answers are new here")


def seeds() -> None:
    """Takes the reference's seed questions over."""
    from mmfuser_jax.mminstruct.questions.reference_seeds import import_reference_seeds

    for line in import_reference_seeds(Path(_FOLDER.value), Path(_TO.value)):
        print(line)


def status() -> None:
    """Shows what the project has, and what comes next."""
    with _opened() as (project, ledger):
        print_status(ledger)
        print(next_step(project, ledger))


def domains() -> None:
    """Lists the domains."""
    for name, domain in load_domains().items():
        seeds = ", ".join(f"{len(seeds)} {kind}" for kind, seeds in domain.seeds.items())
        print(f"{name:<24} {domain.title['zh']}  {seeds}")


if __name__ == "__main__":
    cli.run_command(
        {
            "init": cli.Command(init, ("project", "domain", "pictures")),
            "collect": cli.Command(collect, ("project",), ("workers",)),
            "estimate": cli.Command(estimate, ("project",), ("workers",)),
            "caption": cli.Command(caption, ("project",), (*ASKING, "workers")),
            "generate": cli.Command(generate, ("project",), ASKING),
            "expand": cli.Command(expand, ("project",), ASKING),
            "run": cli.Command(run, ("project",), (*ASKING, "workers")),
            "review": cli.Command(review, ("project",), ("reviewer", "host", "port", "export_tasks", "import_tasks")),
            "export": cli.Command(export, ("project", "to"), ("formats", "workers")),
            "merge": cli.Command(merge, ("project", "other")),
            "status": cli.Command(status, ("project",)),
            "seeds": cli.Command(seeds, ("folder", "to")),
            "domains": cli.Command(domains),
        }
    )
