"""The data engine: from a pile of pictures to corrected instruction data. Every command can be run again at any time.

python launch/mminstruct.py init --project=DIR --domain=posters --pictures=DIR    # makes DIR/project.yaml, to be looked at
python launch/mminstruct.py collect --project=DIR [--workers=2]
python launch/mminstruct.py status --project=DIR
python launch/mminstruct.py domains
"""

from pathlib import Path

from absl import flags

from mmfuser_jax import cli

_PROJECT = flags.DEFINE_string("project", None, "The project's folder.")
_DOMAIN = flags.DEFINE_string("domain", None, "init: of the pictures; `domains` lists what there is.")
_PICTURES = flags.DEFINE_string("pictures", None, "init: a folder of picture files.")
_WORKERS = flags.DEFINE_integer("workers", 1, "collect: processes.")


def init() -> None:
    """Makes a project."""
    from mmfuser_jax.mminstruct.project import CONFIG, init_project

    folder = Path(_PROJECT.value)
    init_project(folder, folder.resolve().name, _DOMAIN.value, Path(_PICTURES.value))
    print(f"{folder / CONFIG}: look at it, then: python launch/mminstruct.py collect --project={folder}")


def collect() -> None:
    """Takes pictures into the store."""
    from mmfuser_jax.mminstruct.collect import collect
    from mmfuser_jax.mminstruct.ledger import Ledger
    from mmfuser_jax.mminstruct.project import Project
    from mmfuser_jax.mminstruct.sheet import draw_sheet
    from mmfuser_jax.mminstruct.status import print_status

    project = Project(Path(_PROJECT.value))
    with Ledger(project.ledger) as ledger:
        collect(project, ledger, _WORKERS.value)
        sheet = project.folder / "pictures.png"
        draw_sheet(ledger, project.images, sheet)
        print_status(ledger)
    print(f"{sheet}: what was taken and what was not")


def status() -> None:
    """Shows what the project has."""
    from mmfuser_jax.mminstruct.ledger import Ledger
    from mmfuser_jax.mminstruct.project import Project
    from mmfuser_jax.mminstruct.status import print_status

    with Ledger(Project(Path(_PROJECT.value)).ledger) as ledger:
        print_status(ledger)


def domains() -> None:
    """Lists the domains."""
    from mmfuser_jax.mminstruct.seed_questions import load_domains

    for name, domain in load_domains().items():
        seeds = ", ".join(f"{len(seeds)} {kind}" for kind, seeds in domain.seeds.items())
        print(f"{name:<24} {domain.title['zh']}  {seeds}")


if __name__ == "__main__":
    cli.run_command(
        {
            "init": cli.Command(init, ("project", "domain", "pictures")),
            "collect": cli.Command(collect, ("project",), ("workers",)),
            "status": cli.Command(status, ("project",)),
            "domains": cli.Command(domains),
        }
    )
