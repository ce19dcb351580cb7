"""Why something is not used: every code that is counted by, and what it means. Nothing is left out without one."""

from __future__ import annotations

PICTURES = {
    "missing_image": "there is no such file",
    "bad_image": "it is no picture, or damaged",
    "image_size": "it has too many pixels to be opened",
    "too_many_bytes": "its file is too large",
    "not_a_picture": "its address gives something else",
    "http_status": "its host does not give it",
    "timeout": "its host is too slow",
    "unreachable": "its host cannot be reached",
    "redirects": "its address leads on without end",
    "hash_differs": "it is not what the list says it is",
    "bad_address": "its address is none of http or https",
    "host_not_allowed": "its host is not in collect.hosts",
    "private_address": "its host is in a private network",
    "robots": "its host's robots.txt disallows it",
    "opted_out": "its host does not want it in such sets",
    "too_small": "its shorter side is too short",
    "too_long": "it is too long for its height, or too high",
    "too_dark": "it is nearly black",
    "too_bright": "it is nearly white",
    "no_contrast": "it shows nothing",
    "blurry": "it has no sharp edge",
    "near_duplicate": "it is nearly the same as another picture",
    "same_file": "the same file is there already",
    "replaced": "another picture is in its place now",
}
"""Of pictures that are not taken."""

ANSWERS = {
    "busy": "the server had no time for it",
    "unreachable": "the server could not be reached, or did not answer in time",
    "garbage": "the server's answer could not be read",
    "refused_by_server": "the server says that the question is wrong",
    "content_filter": "the provider's filter held it back",
    "refusal": "the model declined",
}
"""Of questions to which no reply came."""

CAPTIONS = {
    "cut_off": "the caption is longer than it may be",
    "caption_refusal": "the model says that it sees no picture, or declines",
    "caption_language": "the caption is in another language",
    "caption_short": "the caption is too short",
}
"""Of captions that are of no use."""

REPLIES = {
    "empty": "the reply is empty",
    "refusal": "the model says that it will not or cannot answer",
    "error_text": "the reply is the text of an error",
    "no_items": "the reply has neither tags nor JSON",
    "truncated": "the reply ends in the middle of this item",
    "no_question": "an answer without a question",
    "no_answer": "a question without an answer",
    "few_options": "a choice with fewer than two options",
    "many_options": "a choice with more options than letters",
    "broken_option": "an option is empty or runs over several lines",
    "same_options": "two options are the same",
    "answer_is_no_option": "the answer is none of the options",
    "several_answers": "more than one option is named as the answer",
    "letter_and_text_differ": "the answer's letter names another option than its text",
    "not_yes_or_no": "the answer to a judgement is neither yes nor no",
}
"""Of parts of a reply that are no items."""

CHECKS = {
    "copied_form": "it repeats the form that was shown instead of filling it in",
    "placeholder": "a placeholder of a seed question was not filled in",
    "brackets": "words in square brackets may be a placeholder that was not filled in",
    "refusal": "the model declines, or says that it sees no picture",
    "leak": "it speaks of the description instead of the picture",
    "perhaps_leak": "it may speak of the description instead of the picture",
    "language": "it is in another language than was asked for",
    "length": "a question, option or answer is too short or too long",
    "given_away": "the question of a choice says which option is right",
    "repeated": "the picture has this question already",
    "benchmark": "it is a question of a benchmark",
}
"""Of items that a check refuses or doubts, in the order in which they are checked."""

ITEMS = {
    "overused": "many pictures of the domain have this question with this answer",
    "too_few": "there were fewer than asked for",
    "few_rounds": "the conversation has too few rounds that can be used",
    "judge": "another model says that it is wrong",
}
"""Of items that are good on their own."""

JUDGE = {"no_opinion": "the judging model says neither yes nor no"}
"""Of opinions that are of no use."""

SETS = {
    "bad_json": "the question is not JSON",
    "field": "a field is missing, or holds something else than the set's authors say",
    "no_answer": "the set does not publish the answer",
    "no_picture": "it is asked about a text, not about a picture",
    "image_path": "the path of its picture leaves the set's folder",
    "missing_image": PICTURES["missing_image"],
    **{code: REPLIES[code] for code in ("few_options", "many_options", "same_options", "answer_is_no_option")},
}
"""Of questions of public sets that no item can be made of."""

MEANINGS = {**SETS, **PICTURES, **ANSWERS, **CAPTIONS, **REPLIES, **CHECKS, **ITEMS, **JUDGE}
"""All of them."""

TOLD = {
    "en": MEANINGS,
    "zh": {
        "busy": "服务器繁忙",
        "unreachable": "无法连接服务器，或服务器没有及时回应",
        "garbage": "服务器的回复无法读取",
        "refused_by_server": "服务器认为问题有误",
        "content_filter": "服务商的内容过滤拦截了回复",
        "refusal": "模型拒绝回答，或声称看不到图片",
        "cut_off": "描述超过了允许的长度",
        "caption_refusal": "模型声称看不到图片，或拒绝描述",
        "caption_language": "描述用了另一种语言",
        "caption_short": "描述太短",
        "empty": "回复是空的",
        "error_text": "回复只是一条报错信息",
        "no_items": "回复中既没有标签也没有 JSON",
        "truncated": "回复在这道题中间断开了",
        "no_question": "有答案而没有问题",
        "no_answer": "有问题而没有答案",
        "few_options": "选择题的选项少于两个",
        "many_options": "选择题的选项太多",
        "broken_option": "有选项是空的，或占了多行",
        "same_options": "有两个选项相同",
        "answer_is_no_option": "答案不是任何一个选项",
        "several_answers": "答案指向了不止一个选项",
        "letter_and_text_differ": "答案的字母与文字指向不同的选项",
        "not_yes_or_no": "判断题的答案既不是“是”也不是“否”",
        "copied_form": "照抄了格式示例，没有填写内容",
        "placeholder": "例题中的占位词没有替换成具体内容",
        "brackets": "方括号中的词可能是没有替换的占位词",
        "leak": "提到了描述，而不是图片本身",
        "perhaps_leak": "可能提到了描述，而不是图片本身",
        "language": "没有使用要求的语言",
        "length": "问题、选项或答案太短或太长",
        "given_away": "题目本身已经说出了正确选项",
        "repeated": "这张图片已经有这个问题了",
        "benchmark": "这是某个评测集中的问题",
        "overused": "该领域已有许多图片用了同样的问题和答案",
        "too_few": "数量少于要求",
        "few_rounds": "对话中可用的轮数太少",
        "judge": "另一个模型认为它有误",
    },
}
"""Language → what a model that is asked in it is told of its last answer, by code."""

PASSING = ("busy", "unreachable")
"""Reasons why a question failed that may be gone another day: asked again by the next run."""

PASSING_SQL = f"({', '.join(repr(reason) for reason in PASSING)})"
"""The same as a list of SQL."""
