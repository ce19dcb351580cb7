"""The domain of reading: receipts from a shop, and labels with words in several colours, sizes and directions."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import Generator

from mmfuser_jax.synthetic.canvas import WHITE, Canvas, Size, mix
from mmfuser_jax.synthetic.kinds import Ask, Domain, Fact, Kind, Topic, fact
from mmfuser_jax.synthetic.words import (
    COLORS,
    Text,
    between,
    color,
    days_near,
    digits,
    invented,
    near,
    pick,
    sample,
    slips,
    strangers,
    without,
)  # fmt: skip

GOODS = [
    "apples",
    "bread",
    "milk",
    "cheese",
    "rice",
    "tea",
    "soap",
    "eggs",
    "pasta",
    "honey",
    "salt",
    "juice",
    "nuts",
    "candles",
]

GOODS_ZH = [
    "苹果",
    "面包",
    "牛奶",
    "奶酪",
    "大米",
    "茶叶",
    "肥皂",
    "鸡蛋",
    "意面",
    "蜂蜜",
    "盐",
    "果汁",
    "坚果",
    "蜡烛",
]


def good(name: str) -> Text:
    """The words for something that a shop sells."""
    return name, GOODS_ZH[GOODS.index(name)]


def money(cents: int) -> str:
    """Cents as dollars, without the sign."""
    return f"{cents // 100}.{cents % 100:02d}"


@dataclass(frozen=True)
class Receipt:
    """A shop's receipt: lines of (goods, quantity, price of the line in cents)."""

    shop: str
    number: str
    date: str
    lines: tuple[tuple[str, int, int], ...]
    paid: int
    table: str

    @property
    def total(self) -> int:
        """Sum of the lines, in cents."""
        return sum(cents for _, _, cents in self.lines)


def _receipt(rng: Generator) -> Receipt:
    lines = tuple(
        (name, quantity, quantity * between(rng, 12, 120) * 5)
        for name in sample(rng, GOODS, between(rng, 4, 6))
        for quantity in [between(rng, 1, 4)]
    )
    total = sum(cents for _, _, cents in lines)
    return Receipt(
        shop=f"{invented(rng, 1)[0]} Store",
        number=digits(rng, 5),
        date=f"{between(rng, 1, 28)}/{between(rng, 1, 12)}/20{between(rng, 20, 30)}",
        lines=lines,
        paid=(total // 1000 + between(rng, 1, 2)) * 1000,
        table=pick(rng, ("brown", "grey", "teal", "green", "blue")),
    )


def _draw_receipt(receipt: Receipt, size: Size, rng: Generator) -> list[Canvas]:
    canvas = Canvas(size, mix(receipt.table, WHITE, 0.25))
    for y in range(0, 100, 5):
        canvas.line([(0, y + rng.uniform(-1, 1)), (100, y + rng.uniform(-1, 1))], mix(receipt.table, WHITE, 0.35), 0.4)
    left, right = 50 - canvas.across(33), 50 + canvas.across(33)
    inner, outer = 50 - canvas.across(28), 50 + canvas.across(28)
    canvas.box(left, 3, right, 97, WHITE)
    canvas.text(50, 10, receipt.shop, 5.5)
    canvas.text(inner, 17.5, f"No. {receipt.number}", 3.2, anchor="lm")
    canvas.text(outer, 17.5, receipt.date, 3.2, anchor="rm")
    canvas.dashed((inner, 22), (outer, 22), width=0.3)
    for i, (name, quantity, cents) in enumerate(receipt.lines):
        y = 28 + i * 7
        canvas.text(inner, y, f"{quantity} x {name}", 3.8, anchor="lm")
        canvas.text(outer, y, money(cents), 3.8, anchor="rm")
    canvas.dashed((inner, 69), (outer, 69), width=0.3)
    for y, label, cents in (
        (74, "TOTAL", receipt.total),
        (80, "CASH", receipt.paid),
        (86, "CHANGE", receipt.paid - receipt.total),
    ):
        canvas.text(inner, y, label, 4.2 if label == "TOTAL" else 3.4, anchor="lm")
        canvas.text(outer, y, money(cents), 4.2 if label == "TOTAL" else 3.4, anchor="rm")
    canvas.text(50, 92.5, "thank you", 3)
    return [canvas]


def _receipt_facts(receipt: Receipt, rng: Generator) -> list[Fact]:
    prices = [money(cents) for _, _, cents in receipt.lines]
    dearest = max(receipt.lines, key=lambda line: line[2])
    change = money(receipt.paid - receipt.total)
    facts = [
        fact("shop", receipt.shop, [f"{name} Store" for name in strangers(rng, 4, receipt.shop.split()[0])]),
        fact("number", receipt.number, slips(rng, receipt.number)),
        fact("date", receipt.date, days_near(rng, receipt.date)),
        fact("lines", len(receipt.lines), near(rng, len(receipt.lines), low=1)),
    ]
    for (name, quantity, _), price in zip(receipt.lines, prices, strict=True):
        others = [*without(prices, price), *slips(rng, price, 3)]
        facts.append(fact("price", price, others, item=good(name), quantity=quantity))
    facts += [
        fact("quantity", quantity, near(rng, quantity, low=1), item=good(name))
        for name, quantity, _ in receipt.lines[:2]
    ]
    if sum(cents == dearest[2] for _, _, cents in receipt.lines) == 1:
        facts.append(fact("dearest", good(dearest[0]), [good(n) for n, _, _ in receipt.lines if n != dearest[0]]))
    facts.append(fact("total", money(receipt.total), slips(rng, money(receipt.total))))
    facts.append(fact("change", change, slips(rng, change), paid=money(receipt.paid)))
    return facts


_RECEIPT_ASKS = {
    "shop": Ask(
        "read", ("What is the name of the shop?", "商店的名字是什么？"),
        ("The receipt is from {a}. | At the top stands the shop's name, {a}.", "这张小票来自{a}。 | 最上面是店名{a}。"),
    ),
    "number": Ask(
        "read", ("What is the number of the receipt?", "小票的编号是多少？"),
        ("It has the number {a}.", "小票编号是{a}。"),
    ),
    "date": Ask("read", ("Which date is on the receipt?", "小票上的日期是什么？"), ("It is dated {a}.", "日期是{a}。")),
    "lines": Ask(
        "count", ("How many different goods are listed?", "小票上列了几种商品？"),
        ("Different goods on the list: {a}.", "小票上共有{a}种商品。"),
    ),
    "price": Ask(
        "read",
        ("What is the amount in the line for {item}?", "{item}这一行的金额是多少？"),
        (
            "The line for {item} comes to {a}. | For {item}, {a} was charged.",
            "{item}一行的金额是{a}。 | {item}收费{a}。",
        ),
    ),
    "quantity": Ask(
        "read", ("How many units of {item} were bought?", "{item}买了几份？"),
        ("The quantity of {item} is {a}.", "{item}的数量是{a}。"),
    ),
    "dearest": Ask(
        "compare", ("Which line has the highest amount?", "哪种商品的金额最高？"),
        ("The highest amount is that for {a}.", "金额最高的是{a}。"),
    ),
    "total": Ask("read", ("What is the total?", "总金额是多少？"), ("The total is {a}.", "总计{a}。")),
    "change": Ask(
        "calculate", ("How much change was given?", "找零多少？"),
        ("The customer paid {paid} and got {a} back.", "顾客付了{paid}，找回{a}。"),
    ),
}  # fmt: skip

RECEIPT = Kind(
    _receipt, _draw_receipt, _receipt_facts, _RECEIPT_ASKS,
    (
        Topic(
            (
                "Go through this receipt line by line. | What was bought, and for how much?",
                "请逐行说明这张小票。 | 买了什么，各花了多少钱？",
            ),
            ("shop", "price", "total"),
        ),
        Topic(
            ("How was the bill paid?", "这笔账是怎么付的？"), ("shop", "total", "change"),
            ("Total and change together make what was paid.", "总额与找零之和就是所付的钱。"),
        ),
        Topic(
            ("How could this receipt be found again in the shop's books?", "怎样在账本里找到这张小票？"),
            ("shop", "number", "date", "lines", "total"),
        ),
    ),
    (
        "A shop's receipt lies on a table. | The picture shows a long white receipt, printed in black.",
        "桌上放着一张购物小票。 | 图片里是一张黑字的白色小票。",
    ),
    png=0.3,
)  # fmt: skip

LABEL_WORDS = [
    "NORTH",
    "SUGAR",
    "PIANO",
    "RIVER",
    "CLOUD",
    "TIGER",
    "LEMON",
    "STONE",
    "MAPLE",
    "ROBOT",
    "CANDY",
    "DELTA",
    "OCEAN",
    "PEARL",
    "AMBER",
    "CEDAR",
]

LABEL_INKS = ("red", "blue", "green", "purple", "black", "orange", "brown")


@dataclass(frozen=True)
class Labels:
    """Words on labels: (word, number, ink), of which one is turned upwards and one in the smallest print."""

    labels: tuple[tuple[str, str, str], ...]
    turned: int
    smallest: int


def _labels(rng: Generator) -> Labels:
    words, inks = sample(rng, LABEL_WORDS, 6), sample(rng, LABEL_INKS, 6)
    turned, smallest = sample(rng, range(6), 2)
    return Labels(tuple((w, digits(rng, 4), ink) for w, ink in zip(words, inks, strict=True)), turned, smallest)


def _draw_labels(scene: Labels, size: Size, rng: Generator) -> list[Canvas]:
    canvas = Canvas(size, mix(pick(rng, list(COLORS)), WHITE, 0.7))
    for i, (word, number, ink) in enumerate(scene.labels):
        x, y = 26 + 48 * (i % 2) + rng.uniform(-2, 2), 18 + 32 * (i // 2) + rng.uniform(-2, 2)
        small = i == scene.smallest
        width, height = canvas.across(21), canvas.down(13.5)
        canvas.box(
            x - width,
            y - height,
            x + width,
            y + height,
            pick(rng, ((255, 255, 255), (250, 246, 222), (236, 246, 250))),
            ink,
            0.4,
            2,
        )
        if i == scene.turned:
            canvas.text(x - canvas.across(4), y, word, 5, ink, angle=90)
            canvas.text(x + canvas.across(6), y, number, 3.2, ink, angle=90)
        else:
            canvas.text(
                x, y - canvas.down(3), word, 3.2 if small else rng.uniform(5.5, 7.5), ink, angle=rng.uniform(-8, 8)
            )
            canvas.text(x, y + canvas.down(7), number, 3, ink)
    return [canvas]


def _label_facts(scene: Labels, rng: Generator) -> list[Fact]:
    words, numbers, inks = zip(*scene.labels, strict=True)
    facts = []
    for word, number, ink in scene.labels:
        shown = [color(other) for other in without(inks, ink)]
        facts.append(fact("word", word, without(words, word), ink=color(ink)))
        facts.append(fact("ink", color(ink), shown, word=word))
        facts.append(fact("number", number, [*without(numbers, number), *slips(rng, number, 2)], word=word))
    facts.append(fact("turned", words[scene.turned], without(words, words[scene.turned])))
    facts.append(fact("smallest", words[scene.smallest], without(words, words[scene.smallest])))
    return facts


_LABEL_ASKS = {
    "word": Ask(
        "read",
        ("What is the word on the label in {ink} letters?", "{ink}字的标签上写的是什么词？"),
        ("The label in {ink} letters says {a}.", "{ink}字的标签上写着{a}。"),
    ),
    "ink": Ask(
        "colour", ("In which colour is {word} written?", "{word}是用什么颜色写的？"),
        ("{word} is written in {a}.", "{word}是用{a}写的。"),
    ),
    "number": Ask(
        "read",
        ("Which small number goes with {word}?", "{word}对应的小号数字是多少？"),
        ("The small number with {word} is {a}.", "与{word}在一起的小数字是{a}。"),
    ),
    "turned": Ask(
        "locate",
        ("Which word is turned so that it reads upwards?", "哪个词是竖着转过来的？"),
        ("One word is turned to read upwards: {a}.", "竖着转过来的词是{a}。"),
    ),
    "smallest": Ask(
        "compare",
        ("Which word is printed in the smallest letters?", "哪个词的字最小？"),
        ("The smallest letters are those of {a}.", "字最小的词是{a}。"),
    ),
}  # fmt: skip

LABELS = Kind(
    _labels, _draw_labels, _label_facts, _LABEL_ASKS,
    (
        Topic(
            (
                "Transcribe all labels with their colours. | What do the labels say?",
                "请抄写所有标签及其颜色。 | 这些标签上写了什么？",
            ),
            ("word", "number"),
        ),
        Topic(
            ("Which labels look different from the others, and how?", "哪些标签与众不同？不同在哪里？"),
            ("turned", "smallest", "ink"),
            ("All others stand about level and are larger.", "其余的标签大致水平，字也更大。"),
        ),
    ),
    (
        "Six labels with frames are stuck to a coloured wall. | The picture shows six paper labels, each with a word "
        "and a number.",
        "彩色的墙上贴着六张带边框的标签。 | 图中有六张标签，每张上有一个词和一个数字。",
    ),
    ("word", "number", "turned", "smallest"), png=0.2,
)  # fmt: skip

DOMAINS = {"ocr": Domain((RECEIPT, LABELS))}
