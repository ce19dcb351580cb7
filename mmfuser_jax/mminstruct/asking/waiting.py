"""Questions that wait to be sent: new ones, drawn one by one, and those that are to be asked again."""

from __future__ import annotations

import dataclasses
import heapq
import time
from collections.abc import Callable, Iterator

from mmfuser_jax.mminstruct.asking.ask import Ask


@dataclasses.dataclass(order=True)
class Question:
    """A question that goes from one endpoint to another until it has an answer; the first to be due is the least.

    Attributes:
      due: time from which it may be asked.
      ask: what is asked.
      attempts: times that it was.
      begun: time of the first.
      sent: whether it has left this process since it was due.
    """

    due: float
    ask: Ask = dataclasses.field(compare=False)
    attempts: int = dataclasses.field(default=0, compare=False)
    begun: float = dataclasses.field(default=0.0, compare=False)
    sent: bool = dataclasses.field(default=False, compare=False)

    def send(self) -> None:
        """It leaves this process."""
        self.sent, self.attempts, self.begun = True, self.attempts + 1, self.begun or time.monotonic()


class Waiting:
    """All questions that are not on their way and have no answer."""

    def __init__(self, asks: Iterator[Ask], reserve: Callable[[Ask], bool]) -> None:
        """Arguments:
        asks: drawn as they are needed.
        reserve: sets the money aside for one; False where there is not enough.
        """
        self._asks = asks
        self._reserve = reserve
        self._again: list[Question] = []  # a heap
        self._refused: Ask | None = None
        self._drawn = False

    def next(self, most: int) -> Question | None:
        """One that is due, or else a new one if fewer than `most` wait to be asked again; None where there is none."""
        if self._again and self._again[0].due <= time.monotonic():
            return heapq.heappop(self._again)
        if len(self._again) >= most:
            return None
        ask = self._refused or next(self._asks, None)
        self._refused, self._drawn = None, ask is None
        if ask is not None and not self._reserve(ask):
            self._refused, ask = ask, None  # until those on their way have cost less than was set aside for them
        return Question(0.0, ask) if ask else None

    def put_back(self, question: Question, seconds: float = 0.0) -> None:
        """Has it asked again after some time."""
        question.due, question.sent = time.monotonic() + seconds, False
        heapq.heappush(self._again, question)

    def is_over(self) -> bool:
        """Whether there is none left."""
        return self._drawn and not self._again

    def lacks_money(self) -> bool:
        """Whether only those are left for which there is no money."""
        return self._refused is not None and not self._again
