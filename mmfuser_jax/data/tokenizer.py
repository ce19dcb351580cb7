"""Tokenizers behind one small interface: text → ids with character offsets, ids → text."""

from __future__ import annotations

import abc
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from mmfuser_jax import hub
from mmfuser_jax.files import read_json

JSON_FILE = "tokenizer.json"
SENTENCEPIECE_FILE = "tokenizer.model"
TOKENIZER_FILES = (
    SENTENCEPIECE_FILE,
    JSON_FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""All that a tokenizer folder can hold for `load_tokenizer`; one of the first two must be there."""

DEFAULT_SPECIALS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
SPECIALS = ["<unk>", "<s>", "</s>"]
"""Special tokens of the tokenizers made here, in the order of their ids."""


@dataclasses.dataclass(frozen=True)
class Encoding:
    """Token ids, and for each the [start, end) characters of the text it came from."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Tokenizer(abc.ABC):
    """What models and data need of a tokenizer.

    Attributes:
      folder: where it was read from.
      bos_id, eos_id, pad_id: ids of the special tokens; padding is <unk> as in LLaMA, where there is one.
      starts: what a sequence begins with: bos_id, or nothing where the config says so.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        """`config` is what `read_config` returns; the subclass can already answer `_token_id`."""
        self.folder = folder
        names = {key: token_text(config.get(key)) or default for key, default in DEFAULT_SPECIALS.items()}
        self.bos_id, self.eos_id = self._require(names["bos_token"]), self._require(names["eos_token"])
        unknown, pad = names["unk_token"], token_text(config.get("pad_token"))
        padding = (self._token_id(name) for name in (unknown, pad) if name)
        self.pad_id = next((index for index in padding if index is not None), self.eos_id)
        self.starts = [] if config.get("add_bos_token") is False else [self.bos_id]

    @property
    @abc.abstractmethod
    def file(self) -> Path:
        """The vocabulary's file."""

    @property
    @abc.abstractmethod
    def vocab_size(self) -> int:
        """V, special and added tokens included."""

    @abc.abstractmethod
    def encode(self, text: str) -> Encoding:
        """Ids of `text` without a beginning-of-sequence token; special tokens written in the text are recognised."""

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, without special tokens and without white space around it."""

    @abc.abstractmethod
    def _token_id(self, token: str) -> int | None: ...

    def _require(self, token: str) -> int:
        index = self._token_id(token)
        if index is None:
            raise ValueError(f"{self.file}: no token {token!r}")
        return index


class JsonTokenizer(Tokenizer):
    """A `tokenizer.json`, which the `tokenizers` library reads with all its rules."""

    def __init__(self, folder: Path) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / JSON_FILE))
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"{folder / JSON_FILE}: not a tokenizer ({error})") from None
        super().__init__(folder, read_config(folder))

    @property
    def file(self) -> Path:
        """See `Tokenizer`."""
        return self.folder / JSON_FILE

    @property
    def vocab_size(self) -> int:
        """See `Tokenizer`."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> Encoding:
        """See `Tokenizer`."""
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        return Encoding(encoded.ids, encoded.offsets)

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer`."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def _token_id(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)


def read_config(folder: Path) -> dict[str, Any]:
    """`special_tokens_map.json` and over it what `tokenizer_config.json` says; null, "" and [] say nothing."""
    config = read_json(folder / "tokenizer_config.json")
    said = {key: value for key, value in config.items() if value not in (None, "", [])}
    return read_json(folder / "special_tokens_map.json") | said


def token_text(token: Any) -> str:
    """Text of a token in a config: a string, an object with "content", or nothing."""
    return (token.get("content") if isinstance(token, Mapping) else token) or ""


def is_tokenizer_folder(folder: Path) -> bool:
    """Whether `load_tokenizer` finds a vocabulary there."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES[:2])


def load_tokenizer(folder: str | Path, legacy: bool | None = None) -> Tokenizer:
    """The tokenizer of a folder; nothing in the folder is executed.

    `tokenizer.model` goes before `tokenizer.json`: LLaVA was trained with the slow tokenizer, which reads the former.
    What the latter does with white space and the text after special tokens depends on the version that converted it.

    Args:
      folder: (or hub id of one) with one of the two, and beside it, where there are, `tokenizer_config.json`, `special_tokens_map.json`
        and `added_tokens.json`.
      legacy: see `SentencePieceTokenizer`; None takes what `tokenizer_config.json` says, else True as in the reference
        (transformers 4.37).

    Raises:
      FileNotFoundError: the folder has neither file.
      ValueError: a file is not what its name says, a special token is missing from the vocabulary, or `legacy` is given
        for a `tokenizer.json`, which has a rule of its own.
    """
    folder = hub.local_folder(folder, weights=False) if hub.is_id(folder) else Path(folder)
    if (folder / SENTENCEPIECE_FILE).is_file():
        from mmfuser_jax.data.llama_tokenizer import SentencePieceTokenizer  # it builds on this module

        return SentencePieceTokenizer(folder, legacy)
    if not (folder / JSON_FILE).is_file():
        raise FileNotFoundError(f"{folder}: no {SENTENCEPIECE_FILE} and no {JSON_FILE}")
    if legacy is not None:
        raise ValueError(f"{folder / JSON_FILE}: legacy={legacy} is a rule of {SENTENCEPIECE_FILE} only")
    return JsonTokenizer(folder)


def train_word_tokenizer(texts: Iterable[str], folder: Path) -> Tokenizer:
    """Writes and returns a tokenizer whose tokens are the lower-case words and marks of `texts`, for small worlds."""
    tokenizer = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return _trained(tokenizer, trainers.WordLevelTrainer(special_tokens=SPECIALS, show_progress=False), texts, folder)


def train_bpe_tokenizer(texts: Iterable[str], folder: Path, vocab_size: int) -> Tokenizer:
    """Writes and returns a byte-level BPE tokenizer of at most `vocab_size` tokens, for worlds of any language.

    Raises:
      ValueError: `vocab_size` leaves no room for the 256 bytes and the special tokens.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size <= len(SPECIALS) + len(alphabet):
        raise ValueError(f"a byte-level vocabulary needs more than {vocab_size} tokens")
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    return _trained(tokenizer, trainer, texts, folder)


def _trained(tokenizer: tokenizers.Tokenizer, trainer: Any, texts: Iterable[str], folder: Path) -> Tokenizer:
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / JSON_FILE))
    names = {**DEFAULT_SPECIALS, "pad_token": DEFAULT_SPECIALS["unk_token"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(names, indent=2) + "\n")
    return JsonTokenizer(folder)
