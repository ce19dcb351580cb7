"""The chat templates of LLaVA as a table: what stands before, between and after the words of a conversation."""

from __future__ import annotations

import dataclasses
import enum

from mmfuser_jax.data.records import Turn


class Style(enum.Enum):
    """How training text relates to the template.

    ROLES: it is the text of a prompt, with the answers filled in.
    SECTIONS: every turn is a section of its own under a heading `### Human: `, although prompts say `###Human: `.
    PLAIN: no roles at all: the picture, then its caption (LLaVA's first stage).
    """

    ROLES = enum.auto()
    SECTIONS = enum.auto()
    PLAIN = enum.auto()


@dataclasses.dataclass(frozen=True)
class Speaker:
    """What surrounds the words of a turn: `header + gap + words + end`; of a turn without words the header alone.

    A prompt stops after the header of the answer. What follows the header is the model's to write, and supervised.
    """

    header: str
    gap: str
    end: str


@dataclasses.dataclass(frozen=True)
class Template:
    """How turns become text.

    Attributes:
      human, gpt: the speakers.
      opening: before the first turn, of a prompt.
      first: the first human turn where it differs from the later ones.
      stop: ends an answer when the model writes it; "" where only the end token does.
      style: see `Style`.
      system: the instruction to the model; training text of Style.SECTIONS begins with it, elsewhere it is in `opening`
        or `first` already.
      examples: turns that prompts put before the conversation, and training does not.
      mmtag: whether training writes `<Image><image></Image>` for a picture. Prompts do not, as in the reference.
      im_start_end: whether a picture stands between the tokens `<im_start>` and `<im_end>`, in training and prompts; a
        model's config says so (`mm_use_im_start_end`). Style.PLAIN shows pictures bare, as in the reference.
    """

    human: Speaker
    gpt: Speaker
    opening: str = ""
    first: Speaker | None = None
    stop: str = "</s>"
    style: Style = Style.ROLES
    system: str = ""
    examples: tuple[Turn, ...] = ()
    mmtag: bool = False
    im_start_end: bool = False


def _chat(system: str, mmtag: bool = False) -> Template:
    """Vicuna 1.1: `system USER: words ASSISTANT: words</s>USER: …`."""
    opening = f"{system} " if system else ""
    human, gpt = Speaker("USER:", " ", " "), Speaker("ASSISTANT:", " ", "</s>")
    return Template(human, gpt, opening, system=system, mmtag=mmtag)


def _sections(system: str, examples: tuple[Turn, ...] = (), mmtag: bool = False) -> Template:
    """Vicuna 0: `system###Human: words###Assistant: words###…`."""
    human, gpt = Speaker("Human:", " ", "###"), Speaker("Assistant:", " ", "###")
    return Template(human, gpt, f"{system}###", None, "###", Style.SECTIONS, system, examples, mmtag)


def _llama_2(system: str, begin: str = "<s>") -> Template:
    """LLaMA-2 chat: `[INST] <<SYS>>…<</SYS>> words [/INST] words </s><s>[INST] …`; the caller writes the first <s>."""
    instruction = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
    return Template(
        human=Speaker("", f"{begin}[INST] ", " [/INST]"),
        gpt=Speaker("", " ", " </s>"),
        first=Speaker("", f"[INST] {instruction}", " [/INST]"),
        stop=begin,
        system=system,
    )


def _chatml(system: str) -> Template:
    """MPT and others: `<|im_start|>role`, a line with the words, `<|im_end|>`."""
    end = "<|im_end|>"
    human, gpt = Speaker("<|im_start|>user\n", "", end), Speaker("<|im_start|>assistant\n", "", end)
    return Template(human, gpt, f"<|im_start|>system\n{system}{end}", stop=end, system=system)


_USER = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_HUMAN = _USER.replace("user", "human")
_TAGGED = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant is able to understand "
    "the visual content that the user provides, and assist the user with a variety of tasks using natural "
    "language.The visual content will be provided with the following format: <Image>visual content</Image>."
)
_SAFE = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being "
    "safe.  Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal "
    "content. Please ensure that your responses are socially unbiased and positive in nature.\n"
    "\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering "
    "something not correct. If you don't know the answer to a question, please don't share false information."
)
_SEEING = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the "
    "user provides, and assist the user with a variety of tasks using natural language."
)
_TALKING = (
    "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers."
)
_EXAMPLES = (
    Turn("human", "What are the key differences between renewable and non-renewable energy sources?"),
    Turn(
        "gpt",
        "Renewable energy sources are those that can be replenished naturally in a relatively short amount of "
        "time, such as solar, wind, hydro, geothermal, and biomass. Non-renewable energy sources, on the other "
        "hand, are finite and will eventually be depleted, such as coal, oil, and natural gas. Here are some key "
        "differences between renewable and non-renewable energy sources:\n"
        "1. Availability: Renewable energy sources are virtually inexhaustible, while non-renewable energy "
        "sources are finite and will eventually run out.\n"
        "2. Environmental impact: Renewable energy sources have a much lower environmental impact than "
        "non-renewable sources, which can lead to air and water pollution, greenhouse gas emissions, and other "
        "negative effects.\n"
        "3. Cost: Renewable energy sources can be more expensive to initially set up, but they typically have "
        "lower operational costs than non-renewable sources.\n"
        "4. Reliability: Renewable energy sources are often more reliable and can be used in more remote "
        "locations than non-renewable sources.\n"
        "5. Flexibility: Renewable energy sources are often more flexible and can be adapted to different "
        "situations and needs, while non-renewable sources are more rigid and inflexible.\n"
        "6. Sustainability: Renewable energy sources are more sustainable over the long term, while "
        "non-renewable sources are not, and their depletion can lead to economic and social instability.\n",
    ),
)

TEMPLATES: dict[str, Template] = {
    "v1": _chat(_USER),
    # v1 without its system sentence: for models trained from scratch, to whom it would only be padding.
    "short": _chat(""),
    "plain": Template(Speaker("", "", ""), Speaker("", "", "\n"), stop="\n", style=Style.PLAIN),
    "v0_plain": Template(Speaker("", "", ""), Speaker("", "", "\n"), stop="\n", style=Style.PLAIN),
    "vicuna_v1": _chat(_USER),
    "llava_v1": _chat(_HUMAN),
    "v1_mmtag": _chat(_TAGGED, mmtag=True),
    "default": _sections(_HUMAN, _EXAMPLES),
    "v0": _sections(_HUMAN, _EXAMPLES),
    "llava_v0": _sections(_HUMAN),
    "v0_mmtag": _sections(_TAGGED, mmtag=True),
    "llama_2": _llama_2(_SAFE),
    "llava_llama_2": _llama_2(_SEEING),
    "mistral_instruct": _llama_2("", begin=""),
    "mpt": _chatml(_TALKING),
    "chatml_direct": _chatml("Answer the questions."),
    "mistral_direct": _chatml("Answer the questions."),
}
"""Templates by LLaVA's names, and `short`. LLaVA-1.5 and MMFuser train stage 1 with `plain`, stage 2 with `v1`, and are
asked with `v1` (`vicuna_v1`)."""


def get_template(name: str, im_start_end: bool = False) -> Template:
    """The template called `name`, with `im_start_end` set as the model's config says.

    Raises:
      ValueError: there is none.
    """
    if name not in TEMPLATES:
        raise ValueError(f"no conversation template {name!r}; there are {', '.join(TEMPLATES)}")
    return dataclasses.replace(TEMPLATES[name], im_start_end=im_start_end)
