"""What a project's config may say of a server: where it is, what it can, how fast and how often it may be asked."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict

STEPS = ("caption", "generate", "expand", "judge")
"""In which servers are asked."""

OURS = {
    "model", "messages", "seed", "temperature", "max_tokens", "max_completion_tokens", "response_format", "stream", "n",
}  # fmt: skip
"""Fields of what is sent to a server that nobody else may give."""


def _variable(name: str) -> str:
    """Not repeated in the message: it may be a key itself."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("name the variables of the environment that hold the keys; keys themselves stand in no file")
    return name


def _address(text: str) -> str:
    if not re.fullmatch(r"https?://\S+", text):
        raise ValueError(f"{text!r} is no address; write it as https://api.openai.com/v1 or http://localhost:8000/v1")
    return text


def _beside_ours(fields: dict[str, pydantic.JsonValue]) -> dict[str, pydantic.JsonValue]:
    if taken := sorted(OURS.intersection(fields)):
        raise ValueError(f"{taken[0]} is given by the program; see temperature, tokens_field and json_schema")
    return fields


class Server(BaseModel):
    """A server that speaks OpenAI's protocol.

    Attributes:
      base_url: up to and with `/v1`, or what stands for it.
      model: its name there.
      keys: variables of the environment that hold keys, each asked as if it were a server of its own; never the keys.
      most: questions on their way at a time, of each key.
      requests_per_minute, tokens_per_minute: of each key; 0 for no limit.
      timeout_seconds: for an answer.
      temperature: of drawing tokens; None leaves it to the server, as models that reason want it.
      tokens_field: what the server calls the most tokens of an answer: OpenAI's models that reason know the second name alone.
      extra: fields that are sent beside those of the program, as {reasoning_effort: low}.
      steps: in which it is asked; all servers of a step have the same model. "judge" is a step of its own, made where it has
        a server.
      picture_side: pixels of the longer side to which pictures are made smaller before they are sent.
      picture_tokens: that a picture of that size costs, for the budget and for estimates without answers to go by.
      batch: whether questions are sent in files that are answered within a day.
      batch_price: share of the price that such questions cost.
      json_schema: whether it can hold an answer to a JSON schema; else answers are tagged text.
      patience: factor of the pauses before a question is asked again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    base_url: Annotated[str, AfterValidator(_address)]
    model: str
    keys: list[Annotated[str, AfterValidator(_variable)]] = []
    most: int = pydantic.Field(default=64, ge=1)
    requests_per_minute: int = pydantic.Field(default=0, ge=0)
    tokens_per_minute: int = pydantic.Field(default=0, ge=0)
    timeout_seconds: float = pydantic.Field(default=120.0, gt=0)
    temperature: float | None = 0.7
    tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    extra: Annotated[dict[str, pydantic.JsonValue], AfterValidator(_beside_ours)] = {}
    steps: list[Literal[STEPS]] = ["caption", "generate", "expand"]  # type: ignore[valid-type]
    picture_side: int = pydantic.Field(default=1024, ge=64)
    picture_tokens: int = pydantic.Field(default=1500, ge=0)
    batch: bool = False
    batch_price: float = pydantic.Field(default=0.5, ge=0, le=1)
    json_schema: bool = True
    patience: float = pydantic.Field(default=1.0, ge=0)
