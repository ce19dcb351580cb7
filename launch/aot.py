"""Compiles a run for machines that are not here: does it fit, what does it cost, how fast can it be?

python launch/aot.py --config=configs/finetune.py:7b --topology=v5e:8x8 [--stage=finetune] [--json=FILE] [--recommend]
python launch/aot.py --config=configs/finetune.py:7b --topology='2x v5e:8x8' --config.mesh.data=2
python launch/aot.py --config=configs/finetune.py:7b --topology=v5e:4x4 --decode
python launch/aot.py --config=configs/finetune.py:7b --topology=h100:8
python launch/aot.py --table=compile    # docs/slices.md: the shipped configs on many slices; run again, it goes on
python launch/aot.py --table=mark       # only says anew which of its rows are older than the code

Exits with 0 if it fits, 1 if not (and then says what would), 2 if the question makes no sense.
"""

import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"  # whatever is attached here: it is not asked

from absl import flags
from ml_collections import config_flags

from mmfuser_jax import cli, xla_flags

os.environ.update(xla_flags.environment("tpu", os.environ))  # those that a run there sets

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config program, configs/NAME.py[:ARG].", lock_config=True)
_TOPOLOGY = flags.DEFINE_string("topology", None, "v5e:8x8, v5e-64, v6e:8x8, v4:…, v5p:…, tpu7x:…, h100:8.")
_SLICES = flags.DEFINE_integer("slices", 1, "How many of them, joined by the data centre's network.", lower_bound=1)
_STAGE = flags.DEFINE_string("stage", "", "One stage of the config; default: every one.")
_DECODE = flags.DEFINE_bool("decode", False, "Drawing tokens instead of training.")
_RECOMMEND = flags.DEFINE_bool("recommend", False, "Look for something faster that fits, even if the config does.")
_JSON = flags.DEFINE_string("json", None, "File for the reports.")
_TABLE = flags.DEFINE_enum(
    "table",
    None,
    ["compile", "mark"],
    "Compile what the table of docs/ lacks or has of older code, or mark the latter.",
)

DOCS = Path(__file__).parent.parent / "docs"


def main() -> None:
    """Compiles, and exits by what came out."""
    from mmfuser_jax.aot.main import Options, check
    from mmfuser_jax.aot.table import make_table, mark_table

    if _TABLE.value:
        write = make_table if _TABLE.value == "compile" else mark_table
        write(DOCS / "slices.json", DOCS / "slices.md")
        return
    if not (_CONFIG.value and _TOPOLOGY.value):
        print("error: give --config and --topology, or --table", file=sys.stderr)
        sys.exit(2)
    options = Options(_STAGE.value, _DECODE.value, _RECOMMEND.value)
    path = Path(_JSON.value) if _JSON.value else None
    try:
        fits = check(_CONFIG.value.to_dict(), _TOPOLOGY.value, _SLICES.value, options, path)
    except ValueError as error:
        if flags.FLAGS.debug:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0 if fits else 1)


if __name__ == "__main__":
    cli.run(main)
