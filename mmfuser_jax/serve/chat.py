"""Chat in a terminal about a picture."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from mmfuser_jax.data.images import open_image
from mmfuser_jax.data.records import IMAGE_MARKER, Turn
from mmfuser_jax.facade import VisionLanguageModel
from mmfuser_jax.generate import GREEDY, Sampling

HELP = "Ask about the picture. /image FILE shows another one, /new forgets the conversation, /quit or Ctrl-D leaves."


class Chat:
    """A conversation about one picture, growing turn by turn."""

    def __init__(
        self,
        vlm: VisionLanguageModel,
        image: Image.Image | None,
        *,
        max_new_tokens: int = 128,
        sampling: Sampling = GREEDY,
    ) -> None:
        """A model that was trained on single questions is asked every question by itself, see `ModelCard.history`."""
        self._vlm = vlm
        self._image = image
        self._max_new_tokens = max_new_tokens
        self._sampling = sampling
        self._turns: list[Turn] = []

    def ask(self, question: str) -> str:
        """The model's answer, given everything said before."""
        if not self._vlm.card.history:
            self._turns = []
        first = not self._turns and self._image is not None
        turns = [*self._turns, Turn("human", f"{IMAGE_MARKER}\n{question}" if first else question)]
        images = [] if self._image is None else [self._image]
        answer = self._vlm.answer([turns], [images], max_new_tokens=self._max_new_tokens, sampling=self._sampling)[0]
        self._turns = [*turns, Turn("gpt", answer or " ")]
        return answer

    def show(self, image: Image.Image) -> None:
        """Starts over with another picture."""
        self._image = image
        self.reset()

    def reset(self) -> None:
        """Forgets the conversation, keeps the picture."""
        self._turns = []


def interact(chat: Chat) -> None:
    """Reads questions from the terminal until its end."""
    print(HELP)
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        command, _, rest = line.partition(" ")
        if command == "/quit":
            return
        if command == "/new":
            chat.reset()
        elif command == "/image":
            try:
                chat.show(open_image(Path(rest.strip())))
            except ValueError as error:
                print(f"error: {error}")
        elif command.startswith("/"):
            print(HELP)
        elif line:
            print(chat.ask(line.replace(IMAGE_MARKER, "")))
