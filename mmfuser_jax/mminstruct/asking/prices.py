"""What tokens cost: list prices, which a project keeps with their date in a file of its own, to be read and changed."""

from __future__ import annotations

import dataclasses
import datetime
from importlib import metadata
from pathlib import Path

import yaml

from mmfuser_jax import files

NAME = "prices.yaml"
HEAD = (
    "# US dollars for a million tokens. What stands here counts; a model that is missing is looked up once and added.\n"
)

SAMPLE = 1000
"""Tokens whose price is looked up: some models cost more for a question of a million."""


class PriceError(ValueError):
    """A model's price is not known; the message says where to write it."""


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Of a question and of its answer."""

    input: int = 0
    output: int = 0

    @property
    def total(self) -> int:
        """Both."""
        return self.input + self.output


NO_TOKENS = Tokens()


@dataclasses.dataclass(frozen=True)
class Price:
    """US dollars for a million tokens of questions, and of answers."""

    input: float
    output: float

    def of(self, tokens: Tokens) -> float:
        """US dollars."""
        return (tokens.input * self.input + tokens.output * self.output) / 1e6


def price_of(model: str, folder: Path) -> Price:
    """The price of a model in a project's folder; on first use, that of `genai-prices`, written there with the date.

    Raises:
      PriceError: it is not known, or the file is damaged.
    """
    path = folder / NAME
    try:
        known = (yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None) or {}
        if not isinstance(known, dict):
            raise TypeError(f"a {type(known).__name__}")
        if model not in known:
            known[model] = _listed(model, path)
            files.write_text(path, HEAD + yaml.safe_dump(known, sort_keys=False))
        return Price(float(known[model]["input"]), float(known[model]["output"]))
    except PriceError:
        raise
    except (yaml.YAMLError, TypeError, KeyError, ValueError) as error:
        raise PriceError(f"{path}: not models with input and output ({' '.join(str(error).split())})") from None


def _listed(model: str, path: Path) -> dict[str, float | str]:
    from genai_prices import Usage, calc_price

    try:
        found = calc_price(Usage(input_tokens=SAMPLE, output_tokens=SAMPLE), model_ref=model)
    except LookupError:
        entry = f"{model}: {{input: 0, output: 0}}"
        raise PriceError(f"no price is known of {model!r}; write one into {path}, such as: {entry}") from None
    source = f"genai-prices {metadata.version('genai-prices')}, {found.provider.id}"
    today = datetime.date.today().isoformat()
    return {
        "input": float(found.input_price) * 1e6 / SAMPLE,
        "output": float(found.output_price) * 1e6 / SAMPLE,
        "source": source,
        "date": today,
    }
