"""Measures one suite: each row against a named peer in the same run, as a ratio.

python launch/bench.py data [--json=FILE] [--rows=2000]
"""

from pathlib import Path

from absl import flags

from mmfuser_jax import cli

_JSON = flags.DEFINE_string("json", "", "File for what was measured.")
_ROWS = flags.DEFINE_integer("rows", 2000, "data: rows of the generated set.")


def data() -> None:
    """The data path against a torch DataLoader."""
    from mmfuser_jax.bench import data
    from mmfuser_jax.bench.rows import show

    show(data.run(_ROWS.value), Path(_JSON.value) if _JSON.value else None)


COMMANDS = {"data": cli.Command(data, (), ("json", "rows"))}

if __name__ == "__main__":
    cli.run_command(COMMANDS)
