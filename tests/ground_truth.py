"""A model that knows easy-VQA's pictures: it describes and questions them by what the set's own questions say."""

import hashlib
import json

import easy_vqa

from mmfuser_jax.data import easy_vqa as records
from mmfuser_jax.mminstruct import store

SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")


def pictures(split="test"):
    """Picture file → (colour, shape), for those whose questions say both."""
    paths = easy_vqa.get_test_image_paths() if split == "test" else easy_vqa.get_train_image_paths()
    seen, _ = records._described(split)
    return {paths[image]: words for image, words in seen.items()}


def key_of(content):
    """Names a picture as it is sent."""
    return hashlib.sha256(content).hexdigest()


def known(folder, shas, side=1024):
    """Sent picture → SHA-256 of its file."""
    return {key_of(store.sent(folder, sha, side)): sha for sha in shas}


def described(colour, shape):
    """A caption with what there is to say."""
    return (
        f"The picture shows one {shape}, filled with the colour {colour}, before a plain light background of a single tone. "
        f"Nothing else is to be seen: no people, no letters and no other thing stand beside the {colour} {shape}, whose edges "
        "are sharp and whose size is small beside that of the whole picture."
    )


def questions(kind, colour, shape, again):
    """What the engine asks for, right by the ground truth."""
    others = [x for x in COLOURS if x != colour]
    no_shape = next(x for x in SHAPES if x != shape)
    place = sum(map(ord, colour + shape)) % len(others)
    wrong = others[place:] + others[:place]
    start = "Looking closely, " if again else ""
    yes_no = [
        (f"{start}is there a {colour} shape?", "yes"), (f"{start}is the shape a {shape}?", "yes"),
        (f"{start}is there a {wrong[0]} shape?", "no"), (f"{start}does the image contain a {no_shape}?", "no"),
    ]  # fmt: skip
    short = [
        (f"{start}what color is the shape?", colour), (f"{start}what shape is in the image?", shape),
        (f"{start}which color does the {shape} have?", colour),
    ]  # fmt: skip
    long = [
        (f"{start}describe what the picture shows.", f"The picture shows a single {shape} that is {colour}, on a plain and light background."),
        (f"{start}explain how the shape stands out.", f"The {shape} stands out since it is {colour}, while the background is light and plain."),
        (f"{start}which things are missing from the picture?", f"Besides one {colour} {shape} there is nothing: no people, no letters, no other thing."),
        (f"{start}what would a child call this?", f"A child would call it a {colour} {shape}, as there is nothing else in the picture to name."),
        (f"{start}compare the shape with the background.", f"The {shape} is {colour} and has sharp edges, while the background is light and has no edges."),
    ]  # fmt: skip
    rows = {"judgement": yes_no, "short": short, "long": long[:3], "conversation": long}.get(kind)
    if rows is not None:
        return [{"question": question, "answer": answer} for question, answer in rows]
    options = [colour, *wrong[:3]]
    return [
        {"question": f"{start}which color has the {shape}?", "options": options, "answer": "A"},
        {
            "question": f"{start}which shape is {colour}?",
            "options": [shape, *(x for x in SHAPES if x != shape), "star"],
            "answer": "A",
        },
        {"question": f"{start}what is in the picture?", "options": [f"a {c} {shape}" for c in options], "answer": "A"},
    ]


def reply_with(truth):
    """The server's side; `truth`: sent picture → (colour, shape)."""
    from tests.fake_model import _kind

    def reply(body, before):
        system, content = (message["content"] for message in body["messages"])
        if isinstance(content, list):
            picture = content[1]["image_url"]["url"].partition("base64,")[2]
            return described(*truth[picture])
        words = content.split()
        colour = words[words.index("colour") + 1].strip(",.")
        shape = words[words.index("one") + 1].strip(",.")
        items = questions(_kind(body, content, system), colour, shape, "asked this before" in content)
        return json.dumps({"items": items})

    return reply
