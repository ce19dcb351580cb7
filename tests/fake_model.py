"""A vision-language model that is none: it describes pictures by their hash, and makes true questions of its descriptions."""

import hashlib
import json
import random
import re

COLOURS = {"red": "红色", "green": "绿色", "blue": "蓝色", "white": "白色", "black": "黑色", "brown": "棕色"}
THINGS = {
    "boats": "小船",
    "houses": "房子",
    "trees": "树木",
    "cups": "杯子",
    "chairs": "椅子",
    "lamps": "灯",
    "birds": "小鸟",
}
CAPTION = (
    "On the left there are {n1} {c1} {t1}, and on the right there are {n2} {c2} {t2}, all in front of a {c3} wall. "
    "Below them somebody has written the word {word} in {c4} letters. The light comes from above, the style is plain, the "
    "mood is calm, and nothing else can be seen but a narrow path that leads to the edge of the picture."
)
CAPTION_ZH = (
    "左边有{n1}个{c1}的{t1}，右边有{n2}个{c2}的{t2}，它们都在一面{c3}的墙前面。下方写着单词{word}，字母是{c4}的。"
    "光线来自上方，风格朴素，气氛平静，除了一条通向画面边缘的小路以外，看不到其他任何东西。"
)
PATTERN = re.compile(
    r"there are (?P<n1>\d+) (?P<c1>\w+) (?P<t1>\w+), and on the right there are (?P<n2>\d+) (?P<c2>\w+) (?P<t2>\w+),.*?of a "
    r"(?P<c3>\w+) wall.*?the word (?P<word>\w+) in (?P<c4>\w+) letters",
    re.DOTALL,
)
PATTERN_ZH = re.compile(
    r"左边有(?P<n1>\d+)个(?P<c1>.+?)的(?P<t1>.+?)，右边有(?P<n2>\d+)个(?P<c2>.+?)的(?P<t2>.+?)，它们都在一面(?P<c3>.+?)的墙.*?"
    r"写着单词(?P<word>\w+)，字母是(?P<c4>.+?)的",
    re.DOTALL,
)
AGAIN = {"en": "In this picture, ", "zh": "在这张图中，"}
QUESTIONS = {
    "en": {
        "judgement": (
            ("are there {n1} {c1} {t1}?", "yes"), ("is the wall {c3}?", "yes"),
            ("are the {t2} {wrong}?", "no"), ("is {word} written in {wrong} letters?", "no"),
        ),
        "choice": (
            ("which colour do the {t1} have?", "{c1}"), ("which colour is the wall?", "{c3}"),
            ("which colour are the letters of {word}?", "{c4}"),
        ),
        "short": (
            ("how many {t2} are there?", "{n2}"), ("which word is written below the {t1}?", "{word}"),
            ("what stands on the right?", "{n2} {c2} {t2}"),
        ),
        "long": (
            ("what does the left side look like?", "On the left side there are {n1} {t1}, which are {c1}, in front of the wall."),
            ("what is written, and how?", "The word {word} is written below everything else, and its letters are {c4} ones."),
            ("what is on the right of the wall?", "The right side holds {n2} {t2} that are {c2} and stand before the {c3} wall."),
            ("which mood does the scene have?", "The mood is calm, as the style is plain and only {n1} {t1} and {n2} {t2} are there."),
            ("where does the path lead?", "A narrow path leads from the {c3} wall to the edge of the picture, below the word {word}."),
        ),
    },
    "zh": {
        "judgement": (
            ("左边有{n1}个{c1}的{t1}吗？", "是"), ("墙是{c3}的吗？", "是"),
            ("{t2}是{wrong}的吗？", "否"), ("单词{word}是用{wrong}的字母写的吗？", "否"),
        ),
        "choice": (("{t1}是什么颜色？", "{c1}"), ("墙是什么颜色？", "{c3}"), ("单词{word}的字母是什么颜色？", "{c4}")),
        "short": (("一共有几个{t2}？", "{n2}个"), ("{t1}下方写着哪个单词？", "{word}"), ("右边有什么？", "{n2}个{c2}的{t2}")),
        "long": (
            ("左边是什么样子？", "画面左边有{n1}个{t1}，它们都是{c1}的，位于墙的前面，看起来十分醒目。"),
            ("图中写了什么？是怎么写的？", "所有物体的下方写着单词{word}，它的字母都是{c4}的，非常清楚。"),
            ("墙的右边有什么？", "右边有{n2}个{t2}，它们是{c2}的，都立在{c3}的墙的前面，排列得很整齐。"),
            ("画面的气氛怎么样？", "气氛十分平静，因为风格朴素，只有{n1}个{t1}和{n2}个{t2}，没有别的东西。"),
            ("小路通向哪里？", "一条小路从{c3}的墙通向画面的边缘，就在单词{word}的旁边，显得很安静。"),
        ),
    },
}  # fmt: skip


def describe(picture, language):
    """A description that depends on the content of a picture."""
    draw = random.Random(hashlib.sha256(picture.encode()).hexdigest())
    colours, things = draw.sample(sorted(COLOURS), 4), draw.sample(sorted(THINGS), 2)
    zh = language == "zh"
    values = {f"c{place}": COLOURS[name] if zh else name for place, name in enumerate(colours, 1)}
    values |= {f"t{place}": THINGS[name] if zh else name for place, name in enumerate(things, 1)}
    values |= {"n1": draw.randint(2, 9), "n2": draw.randint(10, 19), "word": "".join(draw.sample("KLMNPRSTVZ", 5))}
    return (CAPTION_ZH if zh else CAPTION).format(**values)


def reply(body, before=0):
    """What the model says to a request of the engine."""
    system, content = (message["content"] for message in body["messages"])
    language = "zh" if re.search("[\u4e00-\u9fff]", system) else "en"
    text = content if isinstance(content, str) else content[0]["text"]
    if isinstance(content, list) and ("describe pictures" in system or "描述图片" in system):
        return describe(content[1]["image_url"]["url"], language)
    if isinstance(content, list):
        return "Yes." if language == "en" else "是。"
    again = AGAIN[language] if "asked this before" in text or "这样问过你" in text else ""
    return _written(_items(text, _kind(body, text, system), language, again), body, language)


def _kind(body, text, system):
    if "conversation" in system or "对话" in system:
        return "conversation"
    if "thoroughly" in system or "详尽" in system:
        return "long"
    kinds = {
        "judgement": ("yes or no:", "判断题"),
        "choice": ("four options", "单项选择题"),
        "short": ("one to five words", "简答题"),
    }
    return next(kind for kind, marks in kinds.items() if any(mark in text for mark in marks))


def _items(text, kind, language, again):
    values = (PATTERN_ZH if language == "zh" else PATTERN).search(text).groupdict()
    colours = [COLOURS[name] if language == "zh" else name for name in sorted(COLOURS)]
    values["wrong"] = next(x for x in colours if x not in {values[f"c{place}"] for place in range(1, 5)})
    for place, (question, answer) in enumerate(QUESTIONS[language]["long" if kind == "conversation" else kind]):
        if kind == "long" and place > 2:
            return
        question = again + question.format(**values)
        item = {"question": question[0].upper() + question[1:], "answer": answer.format(**values)}
        if kind == "choice":
            others = [x for x in colours if x != item["answer"]][:3]
            item |= {"options": [item["answer"], *others], "answer": "A"}
        yield item


def _written(items, body, language):
    if "response_format" in body:
        return json.dumps({"items": list(items)}, ensure_ascii=False)
    lines = []
    for place, item in enumerate(items, 1):
        options = "\n".join(
            f"{letter}. {option}" for letter, option in zip("ABCD", item.get("options", ()), strict=False)
        )
        lines.append(f"<Q{place}>{item['question']}</Q{place}>")
        lines += [f"<C{place}>{options}</C{place}>"] if options else []
        lines.append(f"<A{place}>{item['answer']}</A{place}>")
    return "\n".join(lines)
