"""easy-VQA (package `easy-vqa`, MIT licence): 5,000 real PNG pictures of one coloured shape and 48,248 questions.

The package has a train and a test split. Every tenth training picture is held out as a validation split, on which all
choices are made; the test split is scored once.
"""

from __future__ import annotations

import re
from collections import defaultdict
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
    """"yes/no", "color" or "shape", by what is asked."""
    if answer in ("yes", "no"):
        return "yes/no"
    return "color" if "color" in question else "shape"


def questions(split: str) -> list[Record]:
    """One record per picture, one conversation per question, tagged with `type`."""
    pairs, paths = _questions(split)
    return [
        Record(
            id=f"{split}/{image}",
            images=(Path(paths[image]),),
            conversations=tuple(
                (Turn("human", f"{IMAGE_MARKER}\n{question}"), Turn("gpt", answer)) for question, answer in asked
            ),
            tags=tuple({"type": question_type(question, answer)} for question, answer in asked),
        ).validate()
        for image, asked in pairs.items()
    ]


def captions(split: str) -> list[Record]:
    """One record per picture with the caption that its own questions and answers reveal, such as "a teal circle".

    Pictures whose questions leave colour or shape open are dropped (about one in ten).
    """
    pairs, paths = _questions(split)
    everything = [pair for asked in pairs.values() for pair in asked]
    colors, shapes = (
        {answer for question, answer in everything if question_type(question, answer) == kind}
        for kind in ("color", "shape")
    )
    records = []
    for image, asked in pairs.items():
        revealed = [word for question, answer in asked for word in _revealed(question, answer)]
        color = next((word for word in revealed if word in colors), None)
        shape = next((word for word in revealed if word in shapes), None)
        if color and shape:
            turns = (Turn("human", IMAGE_MARKER), Turn("gpt", f"a {color} {shape}"))
            records.append(Record(f"{split}/{image}", (Path(paths[image]),), (turns,)).validate())
    return records


def _revealed(question: str, answer: str) -> list[str]:
    """Words that are true of the picture: those of a 'what' question and its answer, or of a confirmed statement."""
    words = re.findall(r"[a-z]+", question)
    if answer not in ("yes", "no"):
        return [answer, *words]
    negated = "not" in words or "no" in words
    return words if (answer == "yes") != negated else []
