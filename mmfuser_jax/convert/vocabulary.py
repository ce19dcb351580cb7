"""The `<image>` token that the `llava-hf` layout needs and LLaVA's own does not have."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmfuser_jax.convert.errors import ConversionError
from mmfuser_jax.convert.folders import read_json
from mmfuser_jax.convert.shards import Entry, write_json
from mmfuser_jax.convert.tables import Prefixes
from mmfuser_jax.data.tokenizer import is_tokenizer_folder, load_tokenizer
from mmfuser_jax.models import VlmConfig

IMAGE, PAD = "<image>", "<pad>"
MULTIPLE = 64
"""Rows are padded to a multiple of this, as in the published `llava-hf` checkpoints (32,000 + 2 → 32,064)."""


def with_image_token(
    entries: dict[str, Entry], prefixes: Prefixes, config: VlmConfig, folder: Path, original: Mapping[str, Any]
) -> tuple[dict[str, Entry], int]:
    """Makes sure that there is an `<image>`, and a row for it in embedding and head; returns the entries and its id.

    A model that has it already is left alone, bit for bit. Otherwise `<image>` and `<pad>` become the tokenizer's next
    tokens. New rows are the mean of the others, so that an untrained token is neither likely nor extreme.

    Args:
      entries: tensors by key.
      prefixes: their layout.
      config: the model.
      folder: its tokenizer's files, which are changed; there may be none.
      original: config.json of a `llava-hf` folder that the model came from; else empty.
    """
    if prefixes.llm is None:
        raise ConversionError("the llava-hf layout needs a language model")
    token = _image_token(folder, original)
    needed = 0 if token is None else token + 1
    if token is None:
        token = _tokenizer_size(folder) or config.llm.vocab_size
        needed = token + 2
        _add_tokens(folder, token)
    if needed <= config.llm.vocab_size:
        return entries, token
    keys = [f"{prefixes.llm}embed_tokens.weight", f"{prefixes.head}.weight"]
    rows = -(-needed // MULTIPLE) * MULTIPLE
    return {key: _extended(entry, rows) if key in keys else entry for key, entry in entries.items()}, token


def _image_token(folder: Path, original: Mapping[str, Any]) -> int | None:
    """Id of `<image>`, from the model's own config.json or a tokenizer's files (which differ between versions)."""
    if "image_token_index" in original:
        return int(original["image_token_index"])
    for name, find in (
        ("tokenizer_config.json", _from_decoder),
        ("added_tokens.json", lambda fields: fields.get(IMAGE)),
        ("tokenizer.json", _from_tokenizer),
    ):
        if (found := find(read_json(folder / name))) is not None:
            return int(found)
    return None


def _from_decoder(fields: dict) -> str | None:
    added = fields.get("added_tokens_decoder", {})
    return next((index for index, token in added.items() if token.get("content") == IMAGE), None)


def _from_tokenizer(fields: dict) -> int | None:
    return next((token["id"] for token in fields.get("added_tokens", ()) if token["content"] == IMAGE), None)


def _tokenizer_size(folder: Path) -> int | None:
    """Tokens of the tokenizer in a folder, which may be fewer than the rows of the embedding; None if there is none."""
    return load_tokenizer(folder).vocab_size if is_tokenizer_folder(folder) else None


def _extended(entry: Entry, rows: int) -> Entry:
    def make() -> np.ndarray:
        matrix = entry.make()
        mean = matrix.astype(np.float32).mean(axis=0, keepdims=True).astype(matrix.dtype)
        return np.concatenate([matrix, np.repeat(mean, rows - len(matrix), axis=0)])

    return dataclasses.replace(entry, shape=(rows, entry.shape[1]), make=make)


def _add_tokens(folder: Path, first: int) -> None:
    """Writes `<image>` and `<pad>` into a tokenizer's tokenizer_config.json and, where there is one, tokenizer.json."""
    if _tokenizer_size(folder) is None:
        return
    config = folder / "tokenizer_config.json"
    fields = read_json(config)
    fields.setdefault("added_tokens_decoder", {})
    whole = folder / "tokenizer.json"
    tokens = read_json(whole)
    for index, content in enumerate((IMAGE, PAD), start=first):
        flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
        fields["added_tokens_decoder"][str(index)] = {"content": content, **flags}
        if tokens:
            tokens["added_tokens"].append({"id": index, "content": content, **flags})
    fields |= {"image_token": IMAGE, "pad_token": PAD}
    write_json(config, fields)
    if tokens:
        whole.write_text(json.dumps(tokens, indent=2, ensure_ascii=False) + "\n")
