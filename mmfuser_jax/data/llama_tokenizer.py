"""LLaMA's tokenizer from `tokenizer.model`: special tokens split off first, sentencepiece between them."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from mmfuser_jax.data.tokenizer import (
    DEFAULT_SPECIALS,
    SENTENCEPIECE_FILE,
    Encoding,
    Tokenizer,
    read_config,
    token_text,
)
from mmfuser_jax.files import read_json

SPACE = "▁"
SPECIAL_KEYS = (*DEFAULT_SPECIALS, "pad_token", "sep_token", "cls_token", "mask_token")
NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
"""ModelProto{normalizer_spec{add_dummy_prefix: false}}: put behind a model it overrules the model's own field, for
protobuf messages merge when concatenated. sentencepiece's switch for it is not in all of its versions."""

Spans = list[tuple[int, int]]
Stretch = tuple["AddedToken | None", str, int]
"""An added token, or None for text between them; its characters; where they start."""


class PieceModel:
    """A sentencepiece model that reads text as it stands, without normalising it, as LLaMA's do.

    Attributes:
      ids: id of every piece.
    """

    def __init__(self, file: Path, dummy_prefix: bool) -> None:
        """`dummy_prefix=False` keeps sentencepiece from putting a space before the text."""
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(file.read_bytes() + (b"" if dummy_prefix else NO_DUMMY_PREFIX))
        except RuntimeError:
            raise ValueError(f"{file}: not a sentencepiece model") from None
        indices = range(self._model.GetPieceSize())
        self.ids = {self._model.IdToPiece(index): index for index in indices}
        self._bytes = {piece: bytes([int(piece[1:-1], 16)]) for piece, i in self.ids.items() if self._model.IsByte(i)}
        self._unknown = self._model.unk_id()
        self._readable = {
            i: piece for piece, i in self.ids.items() if not self._model.IsControl(i) and i != self._unknown
        }
        self._dummies = len("".join(self._split("x"))) - len("x")
        probe = "a  ﬁ "
        if self._read(self._split(probe))[self._dummies :] != probe:
            raise ValueError(f"{file}: normalises text, which LLaMA's tokenizers do not")

    def encode(self, text: str, start: int) -> tuple[list[int], Spans]:
        """Ids, and the [begin, end) characters of each when `text` starts at character `start`."""
        pieces = self._split(text)
        return [self.ids.get(piece, self._unknown) for piece in pieces], list(self._spans(pieces, text, start))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`, a space put before it included; ids without text read as nothing."""
        return self._read(self._readable[index] for index in ids if index in self._readable)

    def _split(self, text: str) -> list[str]:
        return self._model.EncodeAsPieces(text)

    def _read(self, pieces: Iterable[str]) -> str:
        data = b"".join(self._bytes.get(piece) or piece.replace(SPACE, " ").encode() for piece in pieces)
        return data.decode(errors="replace")

    def _spans(self, pieces: Sequence[str], text: str, start: int) -> Iterator[tuple[int, int]]:
        """The bytes of one character all have its span; the space put before the text has its first character's."""
        position = -self._dummies
        bytes_left = 0
        for piece in pieces:
            begin = max(position, 0)
            if piece in self._bytes:
                bytes_left = (bytes_left or len(text[position].encode())) - 1
                position += bytes_left == 0
            else:
                position += len(piece)
            yield start + begin, start + max(position, begin + 1)


@dataclasses.dataclass(frozen=True)
class AddedToken:
    """A token that is split off before sentencepiece sees the text.

    Attributes:
      text: of the token.
      id: of sentencepiece's vocabulary, or beyond it.
      special: whether the config names it as a special token; `decode` leaves it out.
      lstrip, rstrip: whether it swallows the white space before and after it.
    """

    text: str
    id: int
    special: bool
    lstrip: bool = False
    rstrip: bool = False


class SentencePieceTokenizer(Tokenizer):
    """Gives the ids of transformers 4.37's slow `LlamaTokenizer`, with which LLaVA was trained.

    LLaMA has other tokens for a word after a space (`▁cat`) than without one (`cat`), and puts a space before the text:

      legacy=True   before every stretch between added tokens:               `cat</s>dog` → `▁cat </s> ▁dog`
      legacy=False  before the whole text, unless a special token begins it: `cat</s>dog` → `▁cat </s> dog`

    A model must get the rule it was trained with (LLaVA-1.5: False). In the offsets of `encode` that space belongs to
    the character after it. `decode` takes it away again, and unlike transformers puts none around added tokens.

    Attributes:
      legacy: which rule.
    """

    def __init__(self, folder: Path, legacy: bool | None = None) -> None:
        """See `load_tokenizer`."""
        self.folder = folder
        config = read_config(folder)
        self.legacy = bool(config.get("legacy", True) if legacy is None else legacy)
        self._model = PieceModel(self.file, dummy_prefix=self.legacy)
        try:
            self._added = _added_tokens(folder, config, self._model.ids)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder}: added tokens not as transformers saves them ({error!r})") from None
        self._added_by_id = {token.id: token for token in self._added.values()}
        self._splitter = re.compile(_added_pattern(self._added.values()))
        super().__init__(folder, config)

    @property
    def file(self) -> Path:
        """See `Tokenizer`."""
        return self.folder / SENTENCEPIECE_FILE

    @property
    def vocab_size(self) -> int:
        """See `Tokenizer`."""
        return max(len(self._model.ids), *(index + 1 for index in self._added_by_id))

    def encode(self, text: str) -> Encoding:
        """See `Tokenizer`."""
        if self.legacy or not text:
            return self._encode_stretches(self._stretches(text))
        # The space before the text is written out. A "▁" in the text is a space, as in the reference.
        stretches = self._stretches(SPACE + text.replace(SPACE, " "))
        if len(stretches) > 1 and stretches[0][1] == SPACE and stretches[1][0] and stretches[1][0].special:
            del stretches[0]
        encoding = self._encode_stretches(stretches)
        return Encoding(encoding.ids, [(max(begin - 1, 0), max(end - 1, 1)) for begin, end in encoding.offsets])

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer`."""
        kept = [index for index in ids if not (index in self._added_by_id and self._added_by_id[index].special)]
        parts: list[str] = []
        for is_added, group in itertools.groupby(kept, self._added_by_id.__contains__):
            if is_added:
                parts += [self._added_by_id[index].text for index in group]
            else:
                text = self._model.decode(group)
                parts.append(text.removeprefix(" ") if self.legacy or not parts else text)
        return "".join(parts).strip()

    def _token_id(self, token: str) -> int | None:
        return self._added[token].id if token in self._added else self._model.ids.get(token)

    def _encode_stretches(self, stretches: Iterable[Stretch]) -> Encoding:
        ids: list[int] = []
        spans: Spans = []
        for added, text, start in stretches:
            new = ([added.id], [(start, start + len(text))]) if added else self._model.encode(text, start)
            ids += new[0]
            spans += new[1]
        return Encoding(ids, spans)

    def _stretches(self, text: str) -> list[Stretch]:
        """Cuts the text into added tokens and what is between them."""
        stretches: list[Stretch] = []
        position = 0
        for match in self._splitter.finditer(text):
            if match.start() > position:
                stretches.append((None, text[position : match.start()], position))
            stretches.append((self._added[match.group(match.lastindex or 0)], match.group(), match.start()))
            position = match.end()
        if position < len(text):
            stretches.append((None, text[position:], position))
        return stretches


def _added_pattern(added: Iterable[AddedToken]) -> str:
    """Regular expression with a group for every token's own text; where one begins another, the longer comes first."""
    space = r"\s*"
    longest_first = sorted(added, key=lambda token: len(token.text), reverse=True)
    return "|".join(f"{space * token.lstrip}({re.escape(token.text)}){space * token.rstrip}" for token in longest_first)


def _added_tokens(folder: Path, config: Mapping[str, Any], vocabulary: Mapping[str, int]) -> dict[str, AddedToken]:
    """The special tokens of a config and the tokens added after pre-training, by their text.

    Older folders list added tokens in `added_tokens.json`, newer ones under `added_tokens_decoder` in the config.
    """
    listed = [config.get(key) or DEFAULT_SPECIALS.get(key, "") for key in SPECIAL_KEYS]
    specials = {token_text(token): token for token in [*listed, *config.get("additional_special_tokens", ())] if token}
    ids = read_json(folder / "added_tokens.json")
    entries = {text: specials.get(text, {}) for text in ids}
    for index, token in config.get("added_tokens_decoder", {}).items():
        ids[token["content"]], entries[token["content"]] = int(index), token
    for text, token in specials.items():
        if text not in ids:
            if text not in vocabulary:
                raise ValueError(f"{folder / SENTENCEPIECE_FILE}: no token {text!r}")
            ids[text], entries[text] = vocabulary[text], token
    return {text: _added_token(text, ids[text], text in specials, entry) for text, entry in entries.items()}


def _added_token(text: str, index: int, special: bool, entry: Any) -> AddedToken:
    """`entry` is the token's object in a config, or only its text."""
    flags = entry if isinstance(entry, Mapping) else {}
    return AddedToken(text, index, special, flags.get("lstrip", False), flags.get("rstrip", False))
