"""Measures one suite: each row against a named peer in the same run, as a ratio.

python launch/bench.py ops|vision|train_step|decode|compile|data|all [--json=FILE] [--cores=2] [--repeats=7]
python launch/bench.py growth --plot=FILE
python launch/bench.py table --json=FILE --into=FILE.md
python launch/bench.py profile --into=FILE.md
"""

import functools
import importlib
import os
from pathlib import Path

from absl import flags

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # both sides are tied to cores; an installed libtpu breaks profiling

from mmfuser_jax import cli

_JSON = flags.DEFINE_string("json", "", "File for what was measured; other suites in it stay.")
_CORES = flags.DEFINE_integer("cores", 2, "Cores that ours and the peer are tied to.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Times each row is measured, in turns with its peer.", lower_bound=1)
_ROWS = flags.DEFINE_integer("rows", 2000, "data: rows of the generated set.")
_PLOT = flags.DEFINE_string("plot", "", "growth: picture to write.")
_INTO = flags.DEFINE_string("into", "", "table, profile: document whose table to replace.")

SUITES = ("ops", "vision", "train_step", "decode", "compile", "data")


def measure(*suites: str) -> None:
    """Measures some suites, printing each row as it is known."""
    from mmfuser_jax.bench import rows, timing

    timing.pin(_CORES.value)
    measured = {}
    for suite in suites:
        module = importlib.import_module(f"mmfuser_jax.bench.{suite}")
        measured[suite] = []
        for row in module.run(**_options(suite)):
            print(row, flush=True)
            measured[suite].append(row)
            if _JSON.value:
                rows.save(measured, Path(_JSON.value))
    rows.show(measured)


def _options(suite: str) -> dict[str, int]:
    special = {"data": {"rows": _ROWS.value}, "compile": {}}  # compiling once takes long enough
    return special.get(suite, {"repeats": _REPEATS.value})


def growth() -> None:
    """How seconds grow with the size of the work."""
    from mmfuser_jax.bench import growth, timing

    timing.pin(_CORES.value)
    points = []
    for point in growth.measure(_REPEATS.value):
        print(point, flush=True)
        points.append(point)
    growth.plot(points, Path(_PLOT.value))


def table() -> None:
    """What a file of rows says, as a document's table."""
    from mmfuser_jax.bench import rows

    rows.put_into(Path(_INTO.value), "bench", rows.markdown(rows.load(Path(_JSON.value))))


def profile() -> None:
    """Where the time of a train step goes, ours and the peer's, as a document's table."""
    from mmfuser_jax.bench import models, profile, rows, timing, train_step

    timing.pin(_CORES.value)
    table = profile.markdown(*profile.measure(models.vlm(), train_step.ROWS, train_step.LENGTH))
    print(table)
    rows.put_into(Path(_INTO.value), "profile", table)


COMMANDS = {
    **{
        suite: cli.Command(
            functools.partial(measure, suite), (), ("json", "cores", *(["rows"] if suite == "data" else ["repeats"]))
        )
        for suite in SUITES
    },
    "all": cli.Command(functools.partial(measure, *SUITES), (), ("json", "cores", "repeats", "rows")),
    "growth": cli.Command(growth, ("plot",), ("cores", "repeats")),
    "table": cli.Command(table, ("json", "into")),
    "profile": cli.Command(profile, ("into",), ("cores",)),
}

if __name__ == "__main__":
    cli.run_command(COMMANDS)
