"""Facts → rows: judgements, choices, short and long answers and captions, in English or Chinese."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from numpy.random import Generator

from mmfuser_jax.data.records import IMAGE_MARKER
from mmfuser_jax.synthetic import phrases
from mmfuser_jax.synthetic.kinds import Fact, Kind
from mmfuser_jax.synthetic.words import LANGUAGES, Words, both, pick, sample

LETTERS = "ABCD"
ROUNDS = {"long": (1, 1, 2, 2, 3, 4), "short": (1, 1, 1, 2, 2, 3, 4), "caption": (1,)}
"""How many exchanges a row has, drawn from these; the other types as in `FEW`."""
FEW = (1, 1, 1, 1, 2, 3)
TYPE_SHARES = {"judgement": 17, "choice": 18, "short": 20, "long": 27, "caption": 18}
CHINESE = {"caption": 0.6}
"""Share of Chinese rows: captions are mostly Chinese in the release; the other types as in `CHINESE_QUESTIONS`."""
CHINESE_QUESTIONS = 0.25

Exchange = tuple[str, str, str]
"""Question, answer and skill."""


class Interview:
    """Asks about one picture; no fact is asked for twice before all have been."""

    def __init__(self, kind: Kind[Any], facts: Sequence[Fact], rng: Generator) -> None:
        self._kind, self._facts, self._rng = kind, facts, rng
        self._askable = [fact for fact in facts if kind.asks[fact.key].question[0]]
        self._order = self._endless()

    def _endless(self) -> Iterator[Fact]:
        while True:
            yield from sample(self._rng, self._askable, len(self._askable))

    def _next(self, others: int = 0) -> Fact:
        return next(fact for fact in self._order if len(fact.others) >= others)

    def exchanges(self, kind: str, language: int, rounds: int) -> list[Exchange]:
        """At most `rounds` exchanges of one type, in one language."""
        makers: dict[str, Callable[[int, int], list[Exchange]]] = {
            "judgement": lambda language, rounds: [self._judgement(language) for _ in range(rounds)],
            "choice": lambda language, rounds: [self._choice(language) for _ in range(rounds)],
            "short": lambda language, rounds: [self._short(language) for _ in range(rounds)],
            "long": self._long,
            "caption": self._caption,
        }
        suffixes = phrases.SUFFIXES[kind][language]
        asked = [(q + pick(self._rng, suffixes), a, skill) for q, a, skill in makers[kind](language, rounds)]
        return list({question: (question, answer, skill) for question, answer, skill in asked}.values())

    def _question(self, fact: Fact, language: int) -> str:
        return phrases.fill(self._kind.asks[fact.key].question, language, fact.slots, self._rng)

    def _statement(self, fact: Fact, language: int, answer: Words) -> str:
        slots = {**fact.slots, "a": answer}
        return phrases.fill(self._kind.asks[fact.key].statement, language, slots, self._rng)

    def _skill(self, fact: Fact) -> str:
        return self._kind.asks[fact.key].skill

    def _short(self, language: int) -> Exchange:
        fact = self._next()
        return self._question(fact, language), both(fact.answer)[language], self._skill(fact)

    def _judgement(self, language: int) -> Exchange:
        fact = self._next(others=1)
        truth = bool(self._rng.random() < 0.5)
        said = self._statement(fact, language, fact.answer if truth else pick(self._rng, fact.others))
        question = pick(self._rng, phrases.JUDGEMENTS[language]).format(s=said)
        return question, phrases.VERDICTS[truth][language], self._skill(fact)

    def _choice(self, language: int) -> Exchange:
        fact = self._next(others=3)
        options = [*sample(self._rng, fact.others, 3), fact.answer]
        order = [int(i) for i in self._rng.permutation(4)]
        texts = [both(options[i])[language] for i in order]
        right = order.index(3)
        listing = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=True))
        return f"{self._question(fact, language)}\n{listing}", LETTERS[right], self._skill(fact)

    def _long(self, language: int, rounds: int) -> list[Exchange]:
        exchanges = []
        for topic in sample(self._rng, self._kind.topics, rounds):
            told = [fact for key in topic.keys for fact in self._facts if fact.key == key]
            sentences = [self._statement(fact, language, fact.answer) for fact in told]
            sentences.append(phrases.fill(topic.closing, language, {}, self._rng))
            question = phrases.fill(topic.question, language, {}, self._rng)
            exchanges.append((question, phrases.join(sentences, language), "explain"))
        return exchanges

    def _caption(self, language: int, rounds: int) -> list[Exchange]:
        told = [fact for fact in self._facts if not self._kind.told or fact.key in self._kind.told]
        opening = phrases.fill(self._kind.opening, language, {}, self._rng)
        sentences = [opening, *(self._statement(fact, language, fact.answer) for fact in told)]
        request = pick(self._rng, phrases.CAPTION_REQUESTS[language])
        return [(request, phrases.join(sentences, language), "describe")] * rounds


def rows_of_picture(
    domain: str, types: Sequence[str], kind: Kind[Any], facts: Sequence[Fact], images: Sequence[str], count: int,
    rng: Generator,
) -> list[dict[str, Any]]:  # fmt: skip
    """`count` rows about one picture.

    Args:
      types: those that the domain has.
      images: the paths of the picture, or of the two pictures that are shown together.
      rng: chooses types, languages, facts and wording.
    """
    interview = Interview(kind, facts, rng)
    shares = [TYPE_SHARES[name] for name in types]
    rows = []
    for number in range(count):
        name = types[int(rng.choice(len(types), p=[share / sum(shares) for share in shares]))]
        language = int(rng.random() < CHINESE.get(name, CHINESE_QUESTIONS))
        exchanges = interview.exchanges(name, language, pick(rng, ROUNDS.get(name, FEW)))
        stem = images[0].rsplit(".", 1)[0].replace("/", "-")
        tags = {"domain": domain, "language": LANGUAGES[language], "type": name, "skill": exchanges[0][2]}
        rows.append(
            {
                "id": f"{stem}-{number}",
                "image": images[0] if len(images) == 1 else list(images),
                "conversations": _conversation(exchanges, len(images)),
                "tags": tags,
            }
        )
    return rows


def _conversation(exchanges: Sequence[Exchange], images: int) -> list[dict[str, str]]:
    turns = []
    for index, (question, answer, _) in enumerate(exchanges):
        markers = f"{IMAGE_MARKER}\n" * images if index == 0 else ""
        turns += [{"from": "human", "value": markers + question}, {"from": "gpt", "value": answer}]
    return turns
