"""A question to a model, and what came of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mmfuser_jax.mminstruct.asking.prices import NO_TOKENS, Tokens
from mmfuser_jax.mminstruct.schema import AnswerRow


@dataclasses.dataclass(frozen=True)
class Ask:
    """One question to a model.

    Attributes:
      step: of the engine.
      domain, image, kind, language: what it is about; `image` is the SHA-256 of a picture, or "".
      prompt: name and version of its template.
      seed: of everything that was drawn at random for it.
      system, text: the words.
      about: key of the answer that it wants mended, or id of the item that it wants judged; else "".
      shown: whether the picture is sent along.
      schema: of the JSON that is asked for; None for text.
      tokens: at most, of the answer.
    """

    step: str
    domain: str
    image: str
    kind: str
    language: str
    prompt: str
    seed: int
    system: str
    text: str
    about: str = ""
    shown: bool = False
    schema: Mapping[str, Any] | None = None
    tokens: int = 1024

    def key(self, model: str) -> str:
        """Names the question in the ledger: equal questions to a model have equal keys."""
        fields = {**dataclasses.asdict(self), "model": model}
        return hashlib.sha256(json.dumps(fields, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]

    def at_most(self, picture: int) -> Tokens:
        """About the most that it takes: three letters or a Chinese character a token, `picture` for a picture, all its room."""
        words = self.system + self.text
        wide = (len(words.encode()) - len(words)) // 2  # Chinese characters are three bytes each
        return Tokens(wide + (len(words) - wide) // 3 + (picture if self.shown else 0), self.tokens)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came of a question.

    Attributes:
      ask, model: what was asked, and of whom.
      text: of the reply, as far as it came.
      finish: why it ends: "stop", "length", "content_filter", "refusal"; "" where there is none.
      reason: why there is none, "" where there is one.
      detail: of the error.
      tokens: as the server counts them.
      attempts: times that it was asked.
      seconds: that the last time took.
    """

    ask: Ask
    model: str
    text: str = ""
    finish: str = ""
    reason: str = ""
    detail: str = ""
    tokens: Tokens = NO_TOKENS
    attempts: int = 1
    seconds: float = 0.0

    def row(self, usd: float) -> AnswerRow:
        """As the ledger keeps it; `usd` is what it has cost."""
        ask = self.ask
        return AnswerRow(
            key=ask.key(self.model), step=ask.step, domain=ask.domain, image=ask.image, kind=ask.kind,
            language=ask.language, prompt=ask.prompt, seed=ask.seed, model=self.model, text=self.text, finish=self.finish,
            reason=self.reason, detail=self.detail, attempts=self.attempts, input_tokens=self.tokens.input,
            output_tokens=self.tokens.output, usd=usd, seconds=self.seconds,
            about=ask.about,
        )  # fmt: skip
