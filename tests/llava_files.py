"""LLaVA's rows in files, for tests of what reads them."""

import json

from mmfuser_jax.data.sources import SourceSpec, open_source


def row(name, image="cats/a.jpg", question="what is this?", answer="a cat"):
    """A row with one exchange, about a picture unless `image` is None."""
    picture = {} if image is None else {"image": image}
    text = question if image is None else f"<image>\n{question}"
    return {
        "id": name,
        **picture,
        "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": answer}],
    }


def write_lines(path, rows):
    """Writes a .jsonl file and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def ids(source):
    """Ids of all records."""
    return [source[index].id for index in range(len(source))]


def opened(path, **fields):
    """What `open_source` makes of a path."""
    return open_source(SourceSpec(str(path), **fields))
