"""The peer of the data benchmark: LLaVA's way to a batch, a torch DataLoader over Pillow and CLIPImageProcessor."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mmfuser_jax.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


class LlavaDataset(torch.utils.data.Dataset):
    """Rows of LLaVA's JSON → pixels, ids and labels, one sample at a time, all rows held in memory."""

    def __init__(self, files: Sequence[Path], image_folder: Path, tokenizer: Path, image_size: int) -> None:
        """`tokenizer` is a tokenizer.json."""
        self.rows = [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]
        self._folder = image_folder
        self._tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(tokenizer), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
        )
        self._processor = CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=image_size)
        self._blank = torch.zeros(3, image_size, image_size)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self.rows[index]
        ids, labels = self._text(row["conversations"])
        paths = row.get("image", [])
        images = [self._image(path) for path in ([paths] if isinstance(paths, str) else paths)]
        return {"input_ids": ids, "labels": labels, "images": torch.stack(images or [self._blank])}

    def _image(self, path: str) -> torch.Tensor:
        image = Image.open(self._folder / path).convert("RGB")
        side = max(image.size)
        square = Image.new("RGB", (side, side), (122, 116, 104))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return self._processor.preprocess(square, return_tensors="pt")["pixel_values"][0]

    def _text(self, conversation: Sequence[dict[str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
        """The v1 template; as in the reference, every round is tokenised again to find what is the human's."""
        rounds = [
            (f" USER: {human['value']} ASSISTANT:", f" {answer['value']}</s>")
            for human, answer in zip(conversation[::2], conversation[1::2], strict=True)
        ]
        ids = self._ids(SYSTEM + "".join(human + answer for human, answer in rounds))
        labels = torch.tensor(ids)
        position = len(self._ids(SYSTEM))
        labels[:position] = IGNORE_INDEX
        for human, answer in rounds:
            labels[position : position + len(self._ids(human)) - 1] = IGNORE_INDEX
            position += len(self._ids(human + answer)) - 1
        return torch.tensor(ids), labels

    def _ids(self, text: str) -> list[int]:
        parts = [self._tokenizer(part, add_special_tokens=False).input_ids for part in text.split("<image>")]
        ids = [1, *parts[0]]
        for part in parts[1:]:
            ids += [IMAGE_TOKEN_INDEX, *part]
        return ids


def _collate(samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Rows padded to the longest."""
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad([x["input_ids"] for x in samples], batch_first=True),
        "labels": pad([x["labels"] for x in samples], batch_first=True, padding_value=IGNORE_INDEX),
        "images": torch.cat([x["images"] for x in samples]),
    }


def batches(dataset: LlavaDataset, batch_size: int, workers: int) -> Iterator[dict[str, torch.Tensor]]:
    """One shuffled epoch."""
    generator = torch.Generator().manual_seed(0)
    yield from torch.utils.data.DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        collate_fn=_collate,
        generator=generator,
        drop_last=True,
    )
