"""Answers every conversation of some records by greedy cached decoding."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.progress import Progress

from mmfuser_jax.data import Record, Tokenizer, decode_answer, encode_prompt
from mmfuser_jax.data.images import open_image
from mmfuser_jax.data.records import IMAGE_MARKER, ImageFile
from mmfuser_jax.data.rows import RowFormat
from mmfuser_jax.data.sources import Source
from mmfuser_jax.generate import Engine

CHUNK = 100
"""Records decoded together: bounds memory, and lets a progress bar move."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One answered question.

    Attributes:
      record: id of its record.
      image: the first picture, None for text only.
      question: text of the last human turn.
      truth: the record's answer.
      answer: the model's.
      tags: of the conversation, such as its type.
    """

    record: str
    image: ImageFile | None
    question: str
    truth: str
    answer: str
    tags: Mapping[str, str]

    @property
    def correct(self) -> bool:
        """Whether the answer is the truth, case and outer blanks aside."""
        return self.answer.strip().lower() == self.truth.strip().lower()


def predict(
    engine: Engine,
    tokenizer: Tokenizer,
    records: Source | Sequence[Record],
    row: RowFormat,
    *,
    max_new_tokens: int,
    progress: bool = False,
) -> list[Prediction]:
    """Greedy answers to the last turn of every conversation; every picture is encoded once.

    Args:
      engine: model and parameters.
      tokenizer: of the language model.
      records: whose conversations end with the true answer.
      row: template and picture format; its length is not used.
      max_new_tokens: of an answer.
      progress: show a bar where the console is a terminal.

    Raises:
      RecordError: a picture cannot be read.
    """
    console = Console(stderr=True)
    predictions: list[Prediction] = []
    with Progress(console=console, disable=not (progress and console.is_terminal)) as bar:
        task = bar.add_task("answering", total=len(records))
        for start in range(0, len(records), CHUNK):
            chunk = [records[index] for index in range(start, min(start + CHUNK, len(records)))]
            predictions += _predict_chunk(engine, tokenizer, chunk, row, max_new_tokens)
            bar.update(task, completed=start + len(chunk))
    return predictions


def _predict_chunk(
    engine: Engine, tokenizer: Tokenizer, records: Sequence[Record], row: RowFormat, max_new_tokens: int
) -> Iterator[Prediction]:
    pictures = [[row.images.picture(open_image(file)) for file in record.images] for record in records]
    features, shown = engine.encode_pictures(pictures)
    asked = [
        (record, conversation, pictures)
        for record, pictures in zip(records, shown, strict=True)
        for conversation in range(len(record.conversations))
    ]
    answers = engine.generate(
        [
            encode_prompt(record.conversations[i][:-1], tokenizer, row.template, im_start_end=row.im_start_end)
            for record, i, _ in asked
        ],
        features,
        [pictures for _, _, pictures in asked],
        max_new_tokens=max_new_tokens,
    )
    for (record, i, _), ids in zip(asked, answers, strict=True):
        turns = record.conversations[i]
        yield Prediction(
            record=record.id,
            image=record.images[0] if record.images else None,
            question=turns[-2].text.replace(IMAGE_MARKER, "").strip(),
            truth=turns[-1].text,
            answer=decode_answer(ids, tokenizer, row.template),
            tags=record.tags[i] if record.tags else {},
        )
