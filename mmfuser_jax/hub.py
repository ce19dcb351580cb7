"""Hugging Face hub ids wherever a model folder may stand."""

from __future__ import annotations

import re
from pathlib import Path

_ID = re.compile(r"[\w][\w.-]*/[\w.-]+")

TEXTS = ("*.json", "*.model", "*.jinja")
"""Files of a model repository that are read besides its weights."""

WEIGHTS = ("*.safetensors", "non_lora_trainables.bin", "mm_projector.bin")
"""Its weights; LLaVA's own code saves the last two as pickles even beside safetensors."""


class HubError(ValueError):
    """A hub id cannot be turned into a folder."""


def is_id(name: str | Path) -> bool:
    """Whether a name looks like `owner/model` and is no folder here."""
    return bool(_ID.fullmatch(str(name))) and not Path(name).exists()


def local_folder(name: str | Path, weights: bool = True) -> Path:
    """A folder (or file) as it is, or the local copy of a hub repository, downloaded once; weights only where asked for.

    Raises:
      HubError: neither exists; the message says which files would have been needed.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    if not is_id(name):
        raise HubError(f"{name}: no such folder, and not a hub id (owner/model)")
    from huggingface_hub import snapshot_download  # slow to import, and rarely needed
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        files = Path(snapshot_download(str(name), allow_patterns=[*TEXTS, *(WEIGHTS if weights else ())]))
        if weights and not any(files.glob("*.safetensors")):
            files = Path(snapshot_download(str(name), allow_patterns=[*TEXTS, "*.bin"]))
    except HfHubHTTPError as error:
        raise HubError(f"{name}: no such folder; the hub says {str(error).splitlines()[0]}") from None
    except Exception as error:  # whatever the network stack raises: it is no bug of the user's
        reason = "offline" if isinstance(error, LocalEntryNotFoundError) else type(error).__name__
        raise HubError(
            f"{name}: no such folder, and the hub cannot be reached ({reason}); put config.json, *.safetensors and the "
            "tokenizer's files (tokenizer.model or tokenizer.json, tokenizer_config.json) into a folder and name that"
        ) from None
    return files
