"""Records as one picture: their pictures at the left, at the right the text with every span on its colour."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from mmfuser_jax.prepare.spans import Kind, Span

LOG = logging.getLogger(__name__)

WIDTH, LEFT, MARGIN = 1500, 480, 24
FONT_SIZE, LINE = 18, 27
BREAK = "  "
LINES_SHOWN = 100
"""Of a conversation; the page beside the picture shows all."""

COLORS = {
    Kind.READ: ("#f0f2f5", "#e2e6ea"),
    Kind.LEARNT: ("#aceebb", "#8fdca2"),
    Kind.IMAGE: ("#b6e3ff", "#b6e3ff"),
    Kind.CUT: ("#fff", "#fff"),
}
"""Two shades, taken in turn, so that one sees where a token ends."""

INK, FAINT = "#1f2328", "#9aa0a6"
CJK_FONTS = (
    "NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "SourceHanSansSC-Regular.otf", "wqy-microhei.ttc", "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf", "PingFang.ttc", "STHeiti Medium.ttc", "msyh.ttc", "simhei.ttf",
)  # fmt: skip
"""Names under which systems have a font with Chinese characters."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Content = tuple[str, Sequence[Image.Image], Sequence[Sequence[Span]]]
"""Title, pictures (at most LEFT wide), and conversations."""


def draw_cards(cards: Sequence[Content], path: Path) -> None:
    """Writes a picture of cards, one under the other. Characters that no font here has are drawn as empty boxes."""
    texts = (span.text for _, _, conversations in cards for spans in conversations for span in spans)
    if _chinese() is _latin() and any(_is_wide(character) for text in texts for character in text):
        LOG.warning("%s: no installed font has Chinese characters, they are boxes; the page beside it has them", path)
    drawn = [_draw_card(*card) for card in cards]
    page = Image.new("RGB", (WIDTH, sum(card.height for card in drawn) + LINE + MARGIN), "white")
    top = _draw_legend(page)
    for card in drawn:
        page.paste(card, (0, top))
        top += card.height
    page.save(path)


@functools.cache
def _latin() -> Font:
    return ImageFont.load_default(FONT_SIZE)


@functools.cache
def _chinese() -> Font:
    for name in CJK_FONTS:
        try:
            return ImageFont.truetype(name, FONT_SIZE)
        except OSError:
            continue
    return _latin()


def _draw_legend(page: Image.Image) -> int:
    draw, font = ImageDraw.Draw(page), _latin()
    left = float(MARGIN)
    for kind in Kind:
        width = font.getlength(kind.value)
        draw.rectangle(
            (left, MARGIN / 2, left + width + 12, MARGIN / 2 + LINE - 3), fill=COLORS[kind][1], outline=FAINT
        )
        draw.text((left + 6, MARGIN / 2 + 2), kind.value, fill=INK, font=font)
        left += width + 28
    return MARGIN + LINE - MARGIN // 2


def _draw_card(title: str, pictures: Sequence[Image.Image], conversations: Sequence[Sequence[Span]]) -> Image.Image:
    left = MARGIN + (LEFT + MARGIN if pictures else 0)
    lines = [list(islice(_lines(spans, WIDTH - left - MARGIN), LINES_SHOWN)) for spans in conversations]
    text = sum(len(part) * LINE + MARGIN for part in lines)
    shown = sum(picture.height + 8 for picture in pictures)
    card = Image.new("RGB", (WIDTH, MARGIN + LINE + max(text, shown) + MARGIN), "white")
    draw = ImageDraw.Draw(card)
    draw.line((MARGIN, 8, WIDTH - MARGIN, 8), fill="#d0d7de")
    _draw_text(draw, (MARGIN, 16), title, INK)
    top = MARGIN + LINE
    for picture in pictures:
        card.paste(picture, (MARGIN, top))
        top += picture.height + 8
    top = MARGIN + LINE
    for part in lines:
        for line in part:
            _draw_line(draw, left, top, line)
            top += LINE
        top += MARGIN
    return card


Cell = tuple[float, str, Kind, int]
"""Where a stretch of one colour begins, its text, its kind, and the number of its span."""


def _lines(spans: Sequence[Span], width: int) -> Iterator[list[Cell]]:
    """Spans broken into lines, between words where one fits."""
    line: list[Cell] = []
    left = 0.0
    for number, span in enumerate(spans):
        for text, ends in _chunks(span):
            size = _width(text)
            if left + size > width and line:
                yield line
                line, left = [], 0.0
            line.append((left, text, span.kind, number))
            left += size
            if ends:
                yield line
                line, left = [], 0.0
    if line:
        yield line


def _chunks(span: Span) -> Iterator[tuple[str, bool]]:
    """Words, or single characters of scripts without blanks; and whether a line ends there."""
    if span.kind is Kind.IMAGE:
        yield span.text.replace("×", "x"), False  # Pillow's own font has no ×
        return
    for index, row in enumerate(span.text.split("\n")):
        if index:
            yield BREAK, True
        word = ""
        for character in row:
            word += character
            if character == " " or _is_wide(character) or len(word) > 60:
                yield word, False
                word = ""
        if word:
            yield word, False


def _draw_line(draw: ImageDraw.ImageDraw, left: int, top: int, line: Sequence[Cell]) -> None:
    for place, text, kind, number in line:
        begin, end = left + place, left + place + _width(text)
        draw.rectangle((begin, top, end - 1, top + LINE - 4), fill=COLORS[kind][number % 2])
        _draw_text(draw, (begin, top + 1), text, FAINT if kind is Kind.CUT else INK)
        if kind is Kind.CUT:
            draw.line((begin, top + LINE / 2, end, top + LINE / 2), fill=FAINT)


def _draw_text(draw: ImageDraw.ImageDraw, place: tuple[float | int, int], text: str, ink: str) -> None:
    left, top = place
    for character, font in _fonts(text):
        draw.text((left, top), character, fill=ink, font=font)
        left += font.getlength(character)


def _width(text: str) -> float:
    return sum(font.getlength(character) for character, font in _fonts(text))


def _fonts(text: str) -> Iterator[tuple[str, Font]]:
    """Runs of characters with a font that has them."""
    run, wide = "", False
    for character in text:
        if _is_wide(character) != wide:
            if run:
                yield run, _chinese() if wide else _latin()
            run, wide = "", not wide
        run += character
    if run:
        yield run, _chinese() if wide else _latin()


def _is_wide(character: str) -> bool:
    """Whether it is Chinese, Japanese or Korean (or a symbol of higher planes)."""
    return ord(character) > 0x2E7F
