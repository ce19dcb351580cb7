"""The data engine: from a pile of pictures to corrected instruction data. Every command can be run again at any time.

python launch/mminstruct.py init --project=DIR --domain=posters --pictures=DIR    # makes DIR/project.yaml, to be looked at
python launch/mminstruct.py estimate --project=DIR                                # what the questions will cost
python launch/mminstruct.py run --project=DIR [--workers=2] [--ray=2]             # all steps up to the people
python launch/mminstruct.py review --project=DIR [--reviewer=NAME]                # a page for them
python launch/mminstruct.py export --project=DIR --to=DIR [--formats=llava]
python launch/mminstruct.py collect | caption | generate | expand --project=DIR   # one step
python launch/mminstruct.py merge --project=DIR --other=DIR                       # answers of another machine's --shard=1/4
python launch/mminstruct.py status --project=DIR
python launch/mminstruct.py domains
"""

from pathlib import Path

from absl import flags

_PROJECT = flags.DEFINE_string("project", None, "The project's folder.")
_DOMAIN = flags.DEFINE_string("domain", None, "init: of the pictures; `domains` lists what there is.")
_PICTURES = flags.DEFINE_string("pictures", None, "init: a folder of picture files.")
_WORKERS = flags.DEFINE_integer("workers", 1, "collect, export: processes.", lower_bound=1)
_SHARD = flags.DEFINE_string("shard", "0/1", "This machine's part of the pictures: 0/4 to 3/4.")
_RAY = flags.DEFINE_integer("ray", 0, "Processes of a Ray cluster that ask; 0: none.", lower_bound=0)
_REVIEWER = flags.DEFINE_string("reviewer", "", "review: who looks; asked on the page if it is not given.")
_PORT = flags.DEFINE_integer("port", 0, "review: where the page is; 0 takes any that is free.")
_EXPORT_TASKS = flags.DEFINE_string("export_tasks", None, "review: write Label Studio's tasks into this file instead.")
_IMPORT_TASKS = flags.DEFINE_string(
    "import_tasks", None, "review: read Label Studio's annotations from this file instead."
)
_TO = flags.DEFINE_string("to", None, "export: the folder.")
_FORMATS = flags.DEFINE_list("formats", ["llava"], "export: of llava, jsonl, arrayrecord and parquet.")
_OTHER = flags.DEFINE_string("other", None, "merge: the project's folder of another machine.")
_FOLDER = flags.DEFINE_string("folder", None, "seeds: with the reference's seed files.")

ASKING = ("shard", "ray", "workers")


@contextlib.contextmanager
def _opened() -> Iterator[tuple[Project, Ledger]]:
    project = Project(Path(_PROJECT.value))
    with Ledger(project.ledger) as ledger:
        yield project, ledger


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
    from mmfuser_jax.mminstruct import collect, sheet

    with locked(project.folder):
        collect.collect(project, ledger, _WORKERS.value)
        path = project.folder / "pictures.png"
        sheet.draw_sheet(ledger, project.images, path)
    print(f"{path}: what was taken and what was not")


def estimate() -> None:
    """Says what questions will cost; takes pictures into the store first, to know how many there are."""
    from mmfuser_jax.mminstruct.estimating import estimate

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
        from mmfuser_jax.mminstruct.ocr import read_texts

        read_texts(project, ledger, _WORKERS.value)
    _ask(project, ledger, "caption")


def _ask(project: Project, ledger: Ledger, name: str) -> None:
    from mmfuser_jax.mminstruct.work import Way, work

    work(project, ledger, name, Way(*parsed_shard(_SHARD.value), _RAY.value))


def generate() -> None:
    """Has questions made."""
    with _opened() as (project, ledger):
        _ask(project, ledger, "generate")
        print_status(ledger)


def expand() -> None:
    """Has conversations made, and takes public sets over."""
    with _opened() as (project, ledger):
        _expand(project, ledger)
        print_status(ledger)


def _expand(project: Project, ledger: Ledger) -> None:
    from mmfuser_jax.mminstruct.expansion import take_sets

    with locked(project.folder):
        take_sets(project, ledger)
    _ask(project, ledger, "expand")


def run() -> None:
    """All steps up to the people."""
    with _opened() as (project, ledger):
        _collect(project, ledger)
        _caption(project, ledger)
        _ask(project, ledger, "generate")
        _expand(project, ledger)
        print_status(ledger)
    print(f"now look at it: python launch/mminstruct.py review --project={_PROJECT.value}")


def status() -> None:
    """Shows what the project has."""
    with _opened() as (_, ledger):
        print_status(ledger)


def domains() -> None:
    """Lists the domains."""
    for name, domain in load_domains().items():
        seeds = ", ".join(f"{len(seeds)} {kind}" for kind, seeds in domain.seeds.items())
        print(f"{name:<24} {domain.title['zh']}  {seeds}")
