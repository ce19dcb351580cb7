"""What a card says to programs: to the Hugging Face hub, in its head, and to those who load the files, in examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from mmfuser_jax.mminstruct.export.markdown import table
from mmfuser_jax.mminstruct.questions.items import LANGUAGES, TYPES

KINDS = (*TYPES, "conversation")
"""Of items."""

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
LICENCES = frozenset(
    (
        "apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-3.0", "cc-by-sa-4.0", "cc-by-sa-3.0",
        "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "cc-by-nd-4.0", "odc-by", "odbl", "pddl",
    )
)  # fmt: skip
"""Names by which the hub knows licences; of others it wants to know that they are others."""

FIELDS = {
    "domain": "field of pictures",
    "type": f"{', '.join(KINDS)}",
    "language": "of the words: en or zh",
    "sha256": "of the picture's file",
    "origin": "where the picture was found",
    "licence": "of the picture, as its source says",
    "step": "of the engine; or the public set that the item was taken over from",
    "model": "that wrote the item",
    "prompt": "its template, with a hash of the wording",
    "seed": "of what was drawn at random for the prompt",
    "item": "id of the item",
    "reviewers": "people who looked at it: numbers, in the order in which they began, unless they are named",
    "edited": "whether one of them changed it",
}


def front_matter(name: str, slug: str, licence: str, formats: Sequence[str], numbers: Mapping[str, Any]) -> str:
    """The head, in YAML; arguments as of `card.card_text`."""
    known = licence.lower() in LICENCES
    fields: dict[str, Any] = {
        "pretty_name": name,
        "license": licence.lower() if known else "other" if licence else "unknown",
        **({"license_name": licence} if licence and not known else {}),
        "language": [language for language in LANGUAGES if language in numbers["languages"]],
        "task_categories": ["visual-question-answering", "image-text-to-text"],
        "tags": ["instruction-tuning", "multimodal", "mmfuser-jax"],
        "size_categories": [next((size for most, size in SIZES if numbers["items"] < most), "1M<n<10M")],
    }
    files = next((path for kind, path in _files(slug).items() if kind in formats), "")
    if files:
        fields["configs"] = [{"config_name": "default", "data_files": [{"split": "train", "path": files}]}]
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---\n"


def _files(slug: str) -> dict[str, str]:
    """Format → files, of formats that the hub shows; the best first."""
    return {"parquet": "data/train-*.parquet", "jsonl": f"{slug}.jsonl", "llava": f"{slug}.json"}


_LOADING = {
    "jsonl": """
from mmfuser_jax.data.sources import SourceSpec, open_source
records = open_source(SourceSpec("{slug}.jsonl"))
print(records[0])
""",
    "llava": """
import json, pathlib
rows = json.loads(pathlib.Path("{slug}.json").read_text(encoding="utf-8"))
print(rows[0]["image"], rows[0]["conversations"])
""",
    "parquet": """
from datasets import load_dataset
rows = load_dataset("parquet", data_files="data/train-*.parquet", split="train")
print(rows[0]["image"], rows[0]["conversations"])
""",
    "arrayrecord": """
import tensorflow_datasets as tfds
records = tfds.data_source("{slug}", split="train", data_dir=".")
print(records[0]["conversations"])
""",
}
_WHAT = {
    "jsonl": "`{slug}.jsonl` has a row for every item, in LLaVA's words; the pictures are in `images`.",
    "llava": "`{slug}.json` has the same rows as one list, for trainers that read no other.",
    "parquet": "`data` has the rows with their pictures, for Hugging Face `datasets`.",
    "arrayrecord": "`{slug}` is a TFDS dataset of ArrayRecord files: a record is a picture with all items about it.",
}


def loading(slug: str, formats: Sequence[str]) -> str:
    """How to load the files, and what their fields say; arguments as of `card.card_text`."""
    parts = ["## How to load it\n"]
    for kind in (kind for kind in _WHAT if kind in formats):
        parts.append(_WHAT[kind].format(slug=slug) + "\n\n```python" + _LOADING[kind].format(slug=slug) + "```\n")
    rows = [(f"`{field}`", meaning) for field, meaning in FIELDS.items()]
    return "\n".join((*parts, f"Every item says in `tags`, in texts:\n\n{table(('field', 'what it says'), rows)}"))
