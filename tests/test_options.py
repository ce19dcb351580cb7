"""Options of choices keep their words and their letters, and an answer names one of them or is refused."""

import json

import pytest

from mmfuser_jax.mminstruct.questions.items import Item
from mmfuser_jax.mminstruct.questions.options import chosen, fault_of_options, split_options
from mmfuser_jax.mminstruct.questions.replies import read_reply

COLOURS = ("red", "green", "blue", "pink")
ANIMALS = ("cat", "dog", "bird", "pig")


def one(text):
    """The only thing that a reply to a request for choices holds."""
    reply = read_reply(text, "choice")
    (found,) = (*reply.items, *reply.rejected)
    return found


def choice(options, answer):
    return one(f"<Q1>Which colour?</Q1><C1>{options}</C1><A1>{answer}</A1>")


@pytest.mark.parametrize(
    "options",
    [
        "A. red B. green C. blue D. pink",
        "A. red\nB. green\nC. blue\nD. pink",
        "Ａ．red Ｂ．green Ｃ．blue Ｄ．pink",
        "A、red B、green C、blue D、pink",
        "A：red；B：green；C：blue；D：pink",
        "(A) red (B) green (C) blue (D) pink",
        "{A. red, B. green, C. blue, D. pink}",
        "red\ngreen\nblue\npink",
        "red, green, blue, pink",
        "{red、green、blue、pink}",
        "- A. red\n- B. green\n- C. blue\n- D. pink",
        "* A. red\n* B. green\n* C. blue\n* D. pink",
        "> A) red\n> B) green\n> C) blue\n> D) pink",
        "**A. red**\n**B. green**\n**C. blue**\n**D. pink**",
        "**A.** red\n**B.** green\n**C.** blue\n**D.** pink",
        "**A**. red **B**. green **C**. blue **D**. pink",
        "\n\nA. red\n\nB. green\n\nC. blue\n\nD. pink\n",
        "A. red B. green\nC. blue D. pink",
        "A red\nB green\nC blue\nD pink",
        "A\nred\nB\ngreen\nC\nblue\nD\npink",
        'A. "red", B. "green", C. "blue", D. "pink"',
    ],
)
def test_options(options):
    assert split_options(options).texts == COLOURS
    assert choice(options, "C") == Item("choice", "Which colour?", "C", COLOURS)


@pytest.mark.parametrize(
    ("written", "texts"),
    [
        ("A. Point B\nB. Point C\nC. Point D\nD. Point E", ("Point B", "Point C", "Point D", "Point E")),
        ("A. Vitamin B: in meat\nB. Vitamin C: in fruit", ("Vitamin B: in meat", "Vitamin C: in fruit")),
        ("A. Vitamin B: in meat B. Vitamin C: in fruit", ("Vitamin B: in meat", "Vitamin C: in fruit")),
        ("A. vitamin C. B. vitamin D.", ("vitamin C.", "vitamin D.")),
        ("A. plan b. B. plan c.", ("plan b.", "plan c.")),
        ("a. red b. green", ("red", "green")),
        ("A 猫\nB 狗", ("猫", "狗")),
        ("A\nB\nC\nD", ("A", "B", "C", "D")),
        ("A.5 B.12", ("5", "12")),
        ("1.5\n2.5\n3.5", ("1.5", "2.5", "3.5")),
        ("1,000, 2,000, 3,000", ("1,000", "2,000", "3,000")),
        ("A. (0, 1)\nB. [0, 1]", ("(0, 1)", "[0, 1]")),
        ("A. x²\nB. 2x", ("x²", "2x")),
        ("E. coli\nS. aureus\nB. subtilis", ("E. coli", "S. aureus", "B. subtilis")),
        (["E. coli", "S. aureus", "B. subtilis"], ("E. coli", "S. aureus", "B. subtilis")),
        (["A. red", "B. green"], ("red", "green")),
        (["1. red", "2. green"], ("red", "green")),
    ],
)
def test_options_keep_their_words(written, texts):
    assert split_options(written).texts == texts


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("A. red\nB. green\nand white\nC. blue", "broken_option"),
        ("A. red\nB.\nC. blue", "broken_option"),  # whose letters must not move up
        ("A. red\nB. green\n\nAll of them are seen.", "broken_option"),
        ("A. red\nB. red", "same_options"),
        ("A. red\nB. ｒed.", "same_options"),
    ],
)
def test_options_that_cannot_be_used(options, reason):
    assert choice(options, "A").reason == reason
    assert fault_of_options(split_options(options).texts) == reason


@pytest.mark.parametrize(
    "options",
    [("x > 5", "x < 5", "x = 5"), ("$5", "€5"), ("STOP", "Stop", "stop"), ("1.5", "1,5", "15"), ("+", "-", "×", "÷")],
)
def test_options_may_differ_in_signs_and_capitals_alone(options):
    assert fault_of_options(options) == ""
    for letter, option in zip("ABCDEFGH", options, strict=False):
        assert chosen(option, options) == letter
        assert chosen(f"{letter}. {option}", options) == letter
    assert chosen(f"A. {options[1]}", options) == "letter_and_text_differ"


def test_options_behind_the_question_and_in_json():
    text = "<Q1>Which colour? A. red B. green C. blue D. pink</Q1><A1>D</A1>"
    assert one(text) == Item("choice", "Which colour?", "D", COLOURS)
    assert one("<Q1>A. red B. green</Q1><A1>A</A1>").reason == "no_question"
    for options in ('["red", "green", "blue", "pink"]', '{"A": "red", "B": "green", "C": "blue", "D": "pink"}'):
        for answer in ("D", "d", "pink"):
            text = f'{{"question": "Which colour?", "options": {options}, "answer": "{answer}"}}'
            assert one(text) == Item("choice", "Which colour?", "D", COLOURS)


@pytest.mark.parametrize(
    "answer",
    [
        "C", "C.", "(C)", "Ｃ", "C. blue", "C: Blue", "blue", "Blue.", "正确答案是C", "正确答案：C。", "答案为 C、blue",
        "The correct answer is C", "Answer: C", "the answer is (C) blue", "It is blue", "选C", "c", "c.", "(c)", "“c”", "**C**",
        "**C.** blue", "**Answer:** C", "C, because of the sky", "C，因为天空", "选项C正确", "我选择的是C", "C - blue", "C – blue",
        "Option A is wrong, option C is right",
    ],
)  # fmt: skip
def test_ways_to_name_an_option(answer):
    assert chosen(answer, COLOURS) == "C"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("yellow", "answer_is_no_option"),
        ("F", "answer_is_no_option"),
        ("A and C", "several_answers"),
        ("A、C", "several_answers"),
        ("A, B and C", "several_answers"),
        ("A，C", "several_answers"),
        ("A C", "several_answers"),
        ("A和C都对", "several_answers"),
        ("option A or option C", "several_answers"),
        ("red or blue", "several_answers"),
        ("A. blue", "letter_and_text_differ"),
        ("A - blue", "letter_and_text_differ"),
        ("A. blue, as the sky", "letter_and_text_differ"),
        ("选项A不正确", "answer_is_no_option"),
        ("It is not red", "answer_is_no_option"),
        ("2", "answer_is_no_option"),
    ],
)
def test_answers_that_name_no_single_option(answer, reason):
    assert choice("A. red B. green C. blue D. pink", answer).reason == reason


@pytest.mark.parametrize("answer", ["2", "2.", "(2)", "2. dog", "dog", "B", "The answer is 2", "选项2正确"])
@pytest.mark.parametrize(
    "options", ["1. cat\n2. dog\n3. bird\n4. pig", "(1) cat (2) dog (3) bird (4) pig", "1、cat 2、dog 3、bird 4、pig"]
)
def test_options_with_numbers_may_be_named_by_them(options, answer):
    assert choice(options, answer) == Item("choice", "Which colour?", "B", ANIMALS)


def test_a_number_that_is_an_option_and_names_another_is_refused():
    assert choice("1. 2\n2. 4\n3. 6", "2").reason == "letter_and_text_differ"
    assert choice("1. 2\n2. 4\n3. 6", "2. 4").answer == "B"
    assert choice("A. 2\nB. 4\nC. 6", "2").answer == "A"


def test_a_letter_that_is_an_option_and_names_another_is_refused():
    assert choice("A. A\nB. B\nC. C", "B").answer == "B"
    assert choice("A. B\nB. C\nC. A", "A").reason == "letter_and_text_differ"


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("这是一只狗", "B"),
        ("图中的动物是狗。", "B"),
        ("是狗还是猫", "several_answers"),
        ("这不是狗", "answer_is_no_option"),
        ("鸟", "answer_is_no_option"),
    ],
)
def test_chinese_answers_need_no_blanks_around_an_option(answer, letter):
    assert chosen(answer, ("猫", "狗")) == letter


def test_an_article_is_no_letter():
    assert chosen("A small car", ("a small car", "a bus")) == "A"
    assert chosen("A bus that is red", ("a small car", "a bus")) == "B"
    assert chosen("A Siamese cat", ("Persian", "Siamese")) == "B"
    assert chosen("A 12-year-old boy", ("girl", "boy")) == "B"


@pytest.mark.parametrize("answer", ["A and B", "D", "D. A and B"])
def test_an_option_may_speak_of_others(answer):
    assert chosen(answer, ("red", "green", "blue", "A and B")) == "D"


def test_every_option_of_a_list_is_accounted_for():
    for options in ([], ["red"], ["red", None], ["red", ""], ["red", 2], list("abcdefghi"), ["a\nb", "c"]):
        text = json.dumps({"question": "Which?", "options": options, "answer": "A"})
        found = one(text)
        assert (found == Item("choice", "Which?", "A", ("red", "2"))) == (options == ["red", 2])


THINGS = ("A cat", "A dog", "A bird", "A red car")


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("Answer: A dog", "B"),
        ("The answer is A dog.", "B"),
        ("Correct answer: A red car", "D"),
        ("The right option is A dog, which sleeps", "B"),
        ("Answer: A bird that sings", "C"),
        ("I choose A dog and A red car", "several_answers"),
        ("The answer is A dog and A bird", "several_answers"),
        ("Answer: A small dog", "answer_is_no_option"),
        ("Answer: B, A dog, since it barks", "B"),
        ("Option A shows it best", "A"),
        ("Answer: A", "A"),
        ("Answer: A. A cat", "A"),
        ("Answer: A. A dog", "letter_and_text_differ"),
        ("The answer is A because it has whiskers", "A"),
        ("Answer: c", "C"),
    ],
)
def test_an_article_behind_a_lead_in_is_no_letter(answer, letter):
    assert chosen(answer, THINGS) == letter


@pytest.mark.parametrize(
    "answer",
    [
        "Answer: A and B", "答案：A和B", "选A、B", "Answer: B and C", "应选B和C", "I choose B and C", "正确选项是B、C", "The answers are B and C",
        "A C", "B C都对", "B C are right", "A B C", "A\nC", "A, B, and C", "Answer: A B",
    ],
)  # fmt: skip
def test_several_letters_are_several_answers_with_a_lead_in_and_without(answer):
    assert chosen(answer, COLOURS) == "several_answers"


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("答案是红色和蓝色", "B"),
        ("应选红色和蓝色。", "B"),
        ("答案是红色", "A"),
        ("答案 B 不正确", "answer_is_no_option"),
    ],
)
def test_a_lead_in_is_no_part_of_an_option(answer, letter):
    assert chosen(answer, ("红色", "红色和蓝色", "绿色")) == letter


def test_a_letter_of_an_option_s_words_is_no_letter():
    assert chosen("Answer: C major scale", ("A minor", "C major", "D major")) == "B"
    assert chosen("Answer: A small dog", ("cat", "dog")) == "B"


def test_an_option_may_begin_as_a_lead_in_does():
    options = ("Answer sheet", "Sheet", "选手", "手")
    assert [chosen(option, options) for option in options] == list("ABCD")


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B A dog", "B"),
        ("A\nA cat", "A"),
        ("B\nA dog", "B"),
        ("**B** A dog", "B"),
        ("B, A dog", "B"),
        ("A A cat", "A"),
        ("B A small dog", "B"),
        ("A\nA dog", "letter_and_text_differ"),
        ("C A dog", "letter_and_text_differ"),
    ],
)
def test_an_article_behind_a_letter_is_no_second_letter(answer, letter):
    assert chosen(answer, THINGS) == letter


def test_a_number_and_the_text_of_another_option_differ():
    assert choice("1. 2\n2. 4\n3. 6", "1. 4").reason == "letter_and_text_differ"
