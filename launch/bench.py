"""Measures one suite: each row against a named peer in the same run, as a ratio.

python launch/bench.py ops|parts|vision|train_step|decode|compile|data|all [--json=FILE] [--cores=2] [--repeats=7]
python launch/bench.py growth --plot=FILE
python launch/bench.py table --json=FILE --into=FILE.md [--name=bench]
python launch/bench.py profile --into=FILE.md
python launch/bench.py ops --platform=gpu
python launch/bench.py step --config=configs/finetune.py:7b,lora --platform=gpu [--stage=finetune] [--steps=5]
"""

import functools
import importlib
import json
import os
import tempfile
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from mmfuser_jax import cli, xla_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "step: config program, configs/NAME.py[:ARG].", lock_config=True
)
_NAME = flags.DEFINE_string("name", "bench", "table: what the document's markers call it.")
_STAGE = flags.DEFINE_string("stage", "", "step: one stage of the config; default: every one.")
_STEPS = flags.DEFINE_integer("steps", 5, "step: how many are timed.", lower_bound=1)
_PLATFORM = flags.DEFINE_enum("platform", "cpu", ["cpu", "gpu", "tpu"], "Where to measure; peers know no TPUs.")

_JSON = flags.DEFINE_string("json", "", "File for what was measured; other suites in it stay.")
_CORES = flags.DEFINE_integer("cores", 2, "Cores that ours and the peer are tied to.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Times each row is measured, in turns with its peer.", lower_bound=1)
_ROWS = flags.DEFINE_integer("rows", 2000, "data: rows of the generated set.")
_PLOT = flags.DEFINE_string("plot", "", "growth: picture to write.")
_INTO = flags.DEFINE_string("into", "", "table, profile: document whose table to replace.")

SUITES = ("ops", "parts", "vision", "train_step", "decode", "compile", "data")


def measure(*suites: str) -> None:
    """Measures some suites, printing each row as it is known."""
    _choose_platform()
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


def step() -> None:
    """The step of a config, on all devices of the platform."""
    _choose_platform()
    from mmfuser_jax import compilation, files
    from mmfuser_jax.bench import step

    with tempfile.TemporaryDirectory() as folder:
        compilation.cache_compilations(Path(folder))  # the step is compiled to be looked at, then to be run
        found = [measured.to_json() for measured in step.measure(_CONFIG.value.to_dict(), _STAGE.value, _STEPS.value)]
    print(json.dumps(found, indent=2))
    if _JSON.value:
        files.write_text(Path(_JSON.value), json.dumps(found, indent=2) + "\n")


def _choose_platform() -> None:
    """Tells JAX: an installed libtpu, which it would try first, breaks profiling on CPUs. With the flags that runs set."""
    os.environ.update(xla_flags.environment(_PLATFORM.value, os.environ))
    import jax

    jax.config.update("jax_platforms", {"gpu": "cuda"}.get(_PLATFORM.value, _PLATFORM.value))


def growth() -> None:
    """How seconds grow with the size of the work."""
    _choose_platform()
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

    rows.put_into(Path(_INTO.value), _NAME.value, rows.markdown(rows.load(Path(_JSON.value))))


def profile() -> None:
    """Where the time of a train step goes, ours and the peer's, as a document's table."""
    _choose_platform()
    from mmfuser_jax.bench import models, profile, rows, timing, train_step

    timing.pin(_CORES.value)
    table = profile.markdown(*profile.measure(models.vlm(), train_step.ROWS, train_step.LENGTH))
    print(table)
    rows.put_into(Path(_INTO.value), "profile", table)


COMMANDS = {
    **{
        suite: cli.Command(
            functools.partial(measure, suite),
            (),
            ("json", "cores", *{"data": ["rows"], "ops": ["repeats", "platform"]}.get(suite, ["repeats"])),
        )
        for suite in SUITES
    },
    "all": cli.Command(functools.partial(measure, *SUITES), (), ("json", "cores", "repeats", "rows")),
    "growth": cli.Command(growth, ("plot",), ("cores", "repeats")),
    "table": cli.Command(table, ("json", "into"), ("name",)),
    "step": cli.Command(step, ("config",), ("stage", "steps", "platform", "json")),
    "profile": cli.Command(profile, ("into",), ("cores",)),
}

if __name__ == "__main__":
    cli.run_command(COMMANDS)
