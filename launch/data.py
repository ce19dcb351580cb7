"""Prepares data: audits a source, builds a TFDS dataset from it, shows records, or generates rows.

python launch/data.py audit --source=MMInstruct-GPT4V [--image_folder=DIR] [--json=FILE] [--plots=DIR] [--workers=8]
python launch/data.py build --source=… --out=DIR --name=mminstruct/qa_en [--validation=0.02] [--max_side=672]
python launch/data.py verify --out=DIR/mminstruct/qa_en/1.0.0
python launch/data.py peek --source=… --out=FILE.png [--tokenizer=FOLDER] [--template=v1]
python launch/data.py generate --out=DIR --rows=20000
"""

from pathlib import Path

from absl import flags

from mmfuser_jax import cli

_SOURCE = flags.DEFINE_string("source", None, "Name, file or folder of records.")
_SPLIT = flags.DEFINE_string("split", "train", "Split of a source that has splits.")
_IMAGES = flags.DEFINE_string("image_folder", "", "What picture paths are relative to; default: beside the rows.")
_WORKERS = flags.DEFINE_integer("workers", 1, "Processes.")
_JSON = flags.DEFINE_string("json", None, "audit: file for the report.")
_PLOTS = flags.DEFINE_string("plots", None, "audit: folder for plots.")
_OUT = flags.DEFINE_string("out", None, "build and generate: folder to make; verify: a build; peek: the picture.")
_NAME = flags.DEFINE_string("name", "mminstruct/qa_en", "build: the dataset and its config, as TFDS calls them.")
_VALIDATION = flags.DEFINE_float("validation", 0.02, "build: share of the rows held out.")
_MAX_SIDE = flags.DEFINE_integer("max_side", 0, "build: shrink larger pictures to this many pixels; 0 keeps all as is.")
_SHARD_MB = flags.DEFINE_float("shard_mb", 256, "build: about how large a file becomes.")
_BAD = flags.DEFINE_float("max_bad_fraction", 0.05, "build: stop where more of the rows cannot be used.")
_COUNT = flags.DEFINE_integer("count", 4, "peek: records.")
_SEED = flags.DEFINE_integer("seed", 0, "peek: which records; generate: which pictures.")
_TOKENIZER = flags.DEFINE_string("tokenizer", "", "peek: tokenizer folder, to show tokens.")
_TEMPLATE = flags.DEFINE_string("template", "v1", "peek: conversation template.")
_LENGTH = flags.DEFINE_integer("length", 2048, "peek: tokens of a row; what is past them is struck out.")
_ROWS = flags.DEFINE_integer("rows", 20000, "generate: how many.")


def _spec():
    from mmfuser_jax.data.sources import SourceSpec

    return SourceSpec(_SOURCE.value, _SPLIT.value, _IMAGES.value)


def audit() -> None:
    """Looks through a source."""
    from mmfuser_jax.prepare.audit import audit

    plots, report = (Path(flag.value) if flag.value else None for flag in (_PLOTS, _JSON))
    audit(_spec(), workers=_WORKERS.value, json_file=report, plots=plots)


def build() -> None:
    """Writes a TFDS dataset."""
    from mmfuser_jax.prepare.build import build
    from mmfuser_jax.prepare.plan import Options

    options = Options(_NAME.value, _VALIDATION.value, _MAX_SIDE.value, _SHARD_MB.value)
    build(_spec(), Path(_OUT.value), options, max_bad_fraction=_BAD.value, workers=_WORKERS.value)


def verify() -> None:
    """Checks a build against its manifest."""
    from mmfuser_jax.prepare.build import verify

    print(verify(Path(_OUT.value)))


def peek() -> None:
    """Shows a few records as the model will see them."""
    from mmfuser_jax.prepare.peek import peek

    peek(
        _spec(),
        Path(_OUT.value),
        count=_COUNT.value,
        seed=_SEED.value,
        tokenizer=_TOKENIZER.value,
        template=_TEMPLATE.value,
        length=_LENGTH.value,
    )


def generate() -> None:
    """Writes synthetic pictures and rows."""
    from mmfuser_jax.synthetic.generate import generate

    counts = generate(Path(_OUT.value), rows=_ROWS.value, seed=_SEED.value, workers=_WORKERS.value)
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()))


_READING = ("split", "image_folder")
COMMANDS = {
    "audit": cli.Command(audit, ("source",), (*_READING, "workers", "json", "plots")),
    "build": cli.Command(
        build,
        ("source", "out"),
        (*_READING, "workers", "name", "validation", "max_side", "shard_mb", "max_bad_fraction"),
    ),
    "verify": cli.Command(verify, ("out",)),
    "peek": cli.Command(peek, ("source", "out"), (*_READING, "count", "seed", "tokenizer", "template", "length")),
    "generate": cli.Command(generate, ("out",), ("rows", "seed", "workers")),
}

if __name__ == "__main__":
    cli.run_command(COMMANDS)
