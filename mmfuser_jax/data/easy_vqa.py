"""easy-VQA (package `easy-vqa`, MIT licence): 5,000 real PNG pictures of one coloured shape and 48,248 questions.

The package has a train and a test split. Every tenth training picture is held out as a validation split, on which all
choices are made; the test split is scored once.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mmfuser_jax.data.records import IMAGE_MARKER, Record, Turn

SPLITS = ("train", "validation", "test")


def _questions(split: str) -> tuple[dict[int, list[tuple[str, str]]], dict[int, str]]:
    """(question, answer) pairs and picture path by picture id."""
    try:
        import easy_vqa
    except ImportError:
        raise RuntimeError("easy-VQA is not installed; run: pip install 'mmfuser-jax[demo]'") from None
    if split not in SPLITS:
        raise ValueError(f"easy_vqa has no split {split!r}; it has {', '.join(SPLITS)}")
    test = split == "test"
    texts, answers, ids = easy_vqa.get_test_questions() if test else easy_vqa.get_train_questions()
    paths = easy_vqa.get_test_image_paths() if test else easy_vqa.get_train_image_paths()
    pairs = defaultdict(list)
    for text, answer, image in zip(texts, answers, ids, strict=True):
        if test or (image % 10 == 0) == (split == "validation"):
            pairs[image].append((text, answer))
    return dict(sorted(pairs.items())), paths


def question_type(question: str, answer: str) -> str:
    """ "yes/no", "color" or "shape", by what is asked."""
    if answer in ("yes", "no"):
        return "yes/no"
    return "color" if "color" in question else "shape"


@functools.cache  # the same records train, validate and make the tokenizer
def questions(split: str) -> Sequence[Record]:
    """One record per picture, one conversation per question, tagged with `type`."""
    pairs, paths = _questions(split)
    return [
        _record(
            split, image, paths, [(question, answer, question_type(question, answer)) for question, answer in asked]
        )
        for image, asked in pairs.items()
    ]


@functools.cache
def captions(split: str) -> Sequence[Record]:
    """One record per picture: "describe the picture." is answered by a caption such as "a teal circle".

    Pictures whose own questions and answers leave colour or shape open are dropped (about one in ten).
    """
    _, paths = _questions(split)
    seen, _ = _described(split)
    return [_record(split, image, paths, [_caption(*words)]) for image, words in seen.items()]


@functools.cache
def matches(split: str) -> Sequence[Record]:
    """The records of `captions`, and for every colour and shape whether the picture shows it.

    "teal?" is answered by "yes", "triangle?" by "no": image-text matching, beside captioning the other task that
    vision-language models are pretrained on (BLIP, arXiv 2201.12086). All of it follows from the pictures' own
    questions and answers.
    """
    _, paths = _questions(split)
    seen, vocabulary = _described(split)
    return [
        _record(
            split, image, paths,
            [_caption(*words), *((f"{word}?", "yes" if word in words else "no", "match") for word in vocabulary)],
        )
        for image, words in seen.items()
    ]  # fmt: skip


def _caption(color: str, shape: str) -> tuple[str, str, str]:
    return "describe the picture.", f"a {color} {shape}", "caption"


def _described(split: str) -> tuple[dict[int, tuple[str, str]], list[str]]:
    """(colour, shape) of every picture whose questions and answers reveal both, and all colours and shapes."""
    pairs, _ = _questions(split)
    everything = [pair for asked in pairs.values() for pair in asked]
    colors, shapes = (
        sorted({answer for question, answer in everything if question_type(question, answer) == kind})
        for kind in ("color", "shape")
    )
    seen = {}
    for image, asked in pairs.items():
        revealed = [word for question, answer in asked for word in _revealed(question, answer)]
        color = next((word for word in revealed if word in colors), None)
        shape = next((word for word in revealed if word in shapes), None)
        if color and shape:
            seen[image] = (color, shape)
    return seen, [*colors, *shapes]


def _record(split: str, image: int, paths: dict[int, str], tasks: list[tuple[str, str, str]]) -> Record:
    """A record of (question, answer, type) conversations about one picture."""
    return Record(
        id=f"{split}/{image}",
        images=(Path(paths[image]),),
        conversations=tuple(
            (Turn("human", f"{IMAGE_MARKER}\n{question}"), Turn("gpt", answer)) for question, answer, _ in tasks
        ),
        tags=tuple({"type": kind} for _, _, kind in tasks),
    ).validate()


def _revealed(question: str, answer: str) -> list[str]:
    """Words that are true of the picture: those of a 'what' question and its answer, or of a confirmed statement."""
    words = re.findall(r"[a-z]+", question)
    if answer not in ("yes", "no"):
        return [answer, *words]
    negated = "not" in words or "no" in words
    return words if (answer == "yes") != negated else []
