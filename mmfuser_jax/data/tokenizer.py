"""Tokenizers behind one small class: text → ids with character offsets, ids → text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers


@dataclasses.dataclass(frozen=True)
class Encoding:
    """Token ids, and for each the [start, end) characters of the text it came from."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Tokenizer:
    """A tokenizer folder: `tokenizer.json`, and `tokenizer_config.json` with the names of the special tokens.

    Attributes:
      bos_id, eos_id, pad_id: ids of the special tokens; padding is <unk> as in LLaMA.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        config_file = folder / "tokenizer_config.json"
        config = json.loads(config_file.read_text()) if config_file.exists() else {}
        self.eos_token = self._special(config, "eos_token", "</s>")
        self.bos_id = self._id(self._special(config, "bos_token", "<s>"))
        self.eos_id = self._id(self.eos_token)
        self.pad_id = self._id(self._special(config, "unk_token", "<unk>"))

    @property
    def vocab_size(self) -> int:
        """V, special tokens included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> Encoding:
        """Ids of `text` without a beginning-of-sequence token; special tokens written in the text are recognised."""
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        return Encoding(encoded.ids, encoded.offsets)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, without special tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    @staticmethod
    def _special(config: dict, key: str, default: str) -> str:
        token = config.get(key) or default
        return token["content"] if isinstance(token, dict) else token

    def _id(self, token: str) -> int:
        index = self._tokenizer.token_to_id(token)
        if index is None:
            raise ValueError(f"{self.folder / 'tokenizer.json'}: no token {token!r}")
        return index


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a folder.

    Raises:
      FileNotFoundError: the folder has no tokenizer.json.
      ValueError: a special token is missing from the vocabulary.
    """
    folder = Path(folder)
    if not (folder / "tokenizer.json").exists():
        raise FileNotFoundError(f"{folder}: no tokenizer.json")
    return Tokenizer(folder)


def train_word_tokenizer(texts: Iterable[str], folder: Path) -> Tokenizer:
    """Writes and returns a tokenizer whose tokens are the lower-case words and marks of `texts`, for small worlds."""
    specials = ["<unk>", "<s>", "</s>"]
    tokenizer = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=specials, show_progress=False))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names, indent=2) + "\n")
    return Tokenizer(folder)
