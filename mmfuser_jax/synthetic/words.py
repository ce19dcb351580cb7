"""Vocabulary in English and Chinese: colours, shapes, places, made-up names, and small helpers to draw from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from numpy.random import Generator

T = TypeVar("T")

Text = tuple[str, str]
"""The same words in English and in Chinese."""

Words = str | Text
"""Words that are the same in every language (digits, names), or one text per language."""

Rgb = tuple[int, int, int]

Number = int | float
"""A position or length; the type checker at run time tells 3 from 3.0."""

LANGUAGES = ("en", "zh")

COLORS: dict[str, tuple[Text, Rgb]] = {
    "red": (("red", "红色"), (208, 36, 40)),
    "orange": (("orange", "橙色"), (244, 128, 24)),
    "yellow": (("yellow", "黄色"), (242, 206, 40)),
    "green": (("green", "绿色"), (40, 148, 60)),
    "teal": (("teal", "青色"), (0, 158, 168)),
    "blue": (("blue", "蓝色"), (36, 84, 204)),
    "purple": (("purple", "紫色"), (128, 56, 168)),
    "pink": (("pink", "粉色"), (242, 140, 184)),
    "brown": (("brown", "棕色"), (126, 78, 40)),
    "grey": (("grey", "灰色"), (128, 128, 132)),
    "black": (("black", "黑色"), (30, 30, 34)),
}

TINTS = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "pink")
"""Colours that are hard to take for each other; most domains use these."""

SIDES: dict[str, Text] = {"left": ("left", "左边"), "right": ("right", "右边")}

SHAPES: dict[str, Text] = {
    "circle": ("circle", "圆形"),
    "triangle": ("triangle", "三角形"),
    "square": ("square", "正方形"),
    "diamond": ("diamond", "菱形"),
    "pentagon": ("pentagon", "五边形"),
    "hexagon": ("hexagon", "六边形"),
    "star": ("star", "星形"),
    "cross": ("cross", "十字形"),
}

NAMES = [
    "Ada",
    "Ben",
    "Cleo",
    "Dan",
    "Eva",
    "Finn",
    "Gina",
    "Hugo",
    "Ida",
    "Jack",
    "Kira",
    "Leo",
    "Mia",
    "Noah",
    "Olga",
    "Paul",
    "Rosa",
    "Sam",
    "Tina",
    "Umar",
    "Vera",
    "Will",
    "Yara",
    "Zoe",
]

STEMS = [
    "Al",
    "Ber",
    "Cor",
    "Dor",
    "El",
    "Fal",
    "Gor",
    "Hal",
    "Ist",
    "Jor",
    "Kel",
    "Lor",
    "Mar",
    "Nor",
    "Or",
    "Pel",
    "Quin",
    "Ros",
    "Sal",
    "Tor",
    "Ul",
    "Ven",
    "Wil",
    "Zan",
]
ENDINGS = [
    "aro",
    "den",
    "exa",
    "fin",
    "gate",
    "ima",
    "lux",
    "mont",
    "nix",
    "ola",
    "port",
    "rix",
    "stead",
    "tano",
    "una",
    "vik",
    "wood",
    "zo",
]

STREETS = [
    "Mill Lane",
    "Oak Street",
    "Harbour Road",
    "Station Square",
    "Castle Hill",
    "River Walk",
    "Park Avenue",
    "Bridge Street",
]

MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]


def pick(rng: Generator, items: Sequence[T]) -> T:
    """One of `items`."""
    return items[int(rng.integers(len(items)))]


def sample(rng: Generator, items: Sequence[T], count: int) -> list[T]:
    """`count` different ones of `items`, in random order."""
    return [items[int(i)] for i in rng.permutation(len(items))[:count]]


def between(rng: Generator, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included."""
    return int(rng.integers(low, high + 1))


def color(name: str) -> Text:
    """The words for a colour."""
    return COLORS[name][0]


def thing(color_name: str, noun: Text) -> Text:
    """A noun with its colour: ("red star", "红色星形")."""
    return (f"{COLORS[color_name][0][0]} {noun[0]}", f"{COLORS[color_name][0][1]}{noun[1]}")


def both(words: Words) -> Text:
    """One text per language, whatever was given."""
    return (words, words) if isinstance(words, str) else words


def listed(items: Sequence[Words]) -> Text:
    """("a, b and c", "a、b和c")."""
    english, chinese = ([both(item)[i] for item in items] for i in (0, 1))
    if len(items) == 1:
        return english[0], chinese[0]
    return (
        ", ".join(english[:-1]) + f" and {english[-1]}",
        "、".join(chinese[:-1]) + f"和{chinese[-1]}",
    )


def invented(rng: Generator, count: int) -> list[str]:
    """Different made-up names, such as "Lordena"; no two share their beginning."""
    return [stem + pick(rng, ENDINGS) for stem in sample(rng, STEMS, count)]


def strangers(rng: Generator, count: int, *known: str) -> list[str]:
    """Different made-up names that are not among the `known` ones."""
    return without(invented(rng, count + len(known)), *known)[:count]


def digits(rng: Generator, count: int) -> str:
    """A number of `count` digits that does not begin with 0, as text."""
    return str(between(rng, 10 ** (count - 1), 10**count - 1))


def near(rng: Generator, value: int, step: int = 1, low: int = 0) -> list[str]:
    """Three other numbers around `value`, so placed that its rank among the four is as often the first as the last.

    Args:
      step: distance between neighbours.
      low: no number is below it.
    """
    first = max(value - step * between(rng, 0, 3), value - (value - low) // step * step)
    return [str(first + step * i) for i in range(4) if first + step * i != value]


def years_near(rng: Generator, year: str) -> list[str]:
    """Three other years, close to `year` or some decades off."""
    return near(rng, int(year), pick(rng, (1, 3, 10)))


def days_near(rng: Generator, date: str) -> list[str]:
    """Three other dates in the same month; `date` begins with the day."""
    end = next(place for place, letter in enumerate(date) if not letter.isdigit())
    return [day + date[end:] for day in near(rng, int(date[:end]), low=1)]


def slips(rng: Generator, text: str, count: int = 4) -> list[str]:
    """Different misreadings of `text`: each has one digit changed."""
    places = [i for i, letter in enumerate(text) if letter.isdigit()]
    wrong: set[str] = set()
    found: list[str] = []
    while len(found) < count:
        place = pick(rng, places)
        digit = pick(rng, [d for d in "123456789" if d != text[place]])
        changed = text[:place] + digit + text[place + 1 :]
        if changed not in wrong:
            wrong.add(changed)
            found.append(changed)
    return found


def without(items: Sequence[T], *given: T) -> list[T]:
    """`items` less the `given` ones."""
    return [item for item in items if item not in given]
