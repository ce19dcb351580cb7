"""What comes before the first step: the run's folder claimed, its data, tokenizer and checkpoints opened."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from mmfuser_jax import checksums, distributed, files, model_folder, sharding
from mmfuser_jax.checkpoint import Checkpoints
from mmfuser_jax.data import Tokenizer, load_tokenizer
from mmfuser_jax.data.pipeline import check_shares
from mmfuser_jax.data.records import IMAGE_MARKER, usable
from mmfuser_jax.data.sources import Source, SourceSpec, check_images, open_source
from mmfuser_jax.data.tokenizer import is_tokenizer_folder, train_bpe_tokenizer, train_word_tokenizer
from mmfuser_jax.locks import locked
from mmfuser_jax.models import VLM
from mmfuser_jax.models.params import boxed_params
from mmfuser_jax.train.config import check_unchanged, parse_run
from mmfuser_jax.train.errors import TrainingError
from mmfuser_jax.train.goodput import Goodput
from mmfuser_jax.train.metrics import open_metrics
from mmfuser_jax.train.optim import assign_rules, flatten
from mmfuser_jax.train.profiling import Profile
from mmfuser_jax.train.stage_data import stage_loading
from mmfuser_jax.train.stopping import StopSignals
from mmfuser_jax.train.watchdog import Watchdog

LOG = logging.getLogger(__name__)


class Run:
    """What the stages of one process share.

    Attributes:
      config: typed.
      mesh, model, tokenizer: of all stages.
      card: describes the model as the last stage leaves it.
      checkpoints, metrics, goodput, profile, watchdog, stop: see their classes.
      workdir: its folder.
      resume_step: step of the checkpoint to go on from; 0 for none.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        workdir: Path,
        stop: StopSignals,
        open_things: ExitStack,
        *,
        profile_steps: range,
        allow_changes: bool,
    ) -> None:
        """Claims `workdir`; what it opens is closed by `open_things`. See `loop.train`."""
        self.stop = stop
        self.workdir = workdir
        self.started = time.monotonic()
        self.config = parse_run(config)
        self._sources: dict[SourceSpec, Source] = {}
        self.mesh = sharding.make_mesh(**self.config.mesh)
        self._check_data()
        distributed.on_first(lambda: open_things.enter_context(locked(workdir)))
        distributed.on_first(lambda: _claim(workdir, config, allow_changes))
        self.model = VLM(self.config.model, jnp.dtype(self.config.dtype), self.config.remat)
        distributed.on_first(lambda: _make_tokenizer(self, workdir))
        self.tokenizer = _tokenizer(self, workdir)
        paths = flatten(boxed_params(self.model))
        for stage in self.config.stages:
            assign_rules(paths, stage.optimizer.rules)
        self.card = _card(self)
        distributed.on_first(lambda: model_folder.write_card(workdir, self.card))
        checkpoints = workdir / model_folder.CHECKPOINTS
        distributed.on_first(lambda: checksums.set_aside_damaged(checkpoints))
        self.checkpoints = Checkpoints(checkpoints, self.config.keep, keep_best=bool(self.config.keep_best))
        open_things.callback(self.checkpoints.close)
        self.resume_step = self.checkpoints.latest_step() or 0
        if self.resume_step > self.config.steps:
            raise TrainingError(f"{workdir} is at step {self.resume_step}, past the last step {self.config.steps}")
        self.seconds_before = self.checkpoints.read_meta(self.resume_step)["train_seconds"] if self.resume_step else 0.0
        self.goodput = Goodput(workdir, self.seconds_before, self.started)
        self.watchdog = Watchdog(self.config.stall_seconds)
        open_things.callback(self.watchdog.close)
        self.profile = Profile(workdir / "profile", profile_steps)
        open_things.callback(self.profile.close)
        self.metrics = open_metrics(workdir, self.resume_step, self.config.steps, self.config.wandb)
        open_things.callback(self.metrics.close)

    def open(self, spec: SourceSpec) -> Source:
        """A source, opened once, and checked to have its pictures."""
        if spec not in self._sources:
            source = open_source(spec)
            check_images(source)
            self._sources[spec] = source
        return self._sources[spec]

    def _check_data(self) -> None:
        """What cannot be read stops a run before it leaves anything behind, and not after its first stage."""
        for spec in self.config.sources:
            self.open(spec)
        for stage in self.config.stages:
            counts = {name: len(self.open(spec)) for name, (spec, _) in stage.sources.items()}
            _, shares = sharding.batch_share(self.mesh)
            check_shares(counts, stage_loading(self.config, stage, shares), shares)

    def seconds(self) -> float:
        """Wall-clock trained so far, over all resumed parts."""
        return self.seconds_before + time.monotonic() - self.started


def _claim(workdir: Path, config: Mapping[str, Any], allow_changes: bool) -> None:
    """Makes the folder and writes config.json, or makes sure that the one there is the same."""
    workdir.mkdir(parents=True, exist_ok=True)
    path, given = workdir / "config.json", json.loads(json.dumps(config))
    if path.exists():
        check_unchanged(json.loads(path.read_text()), given, workdir, allow=allow_changes)
    files.write_text(path, json.dumps(given, indent=2) + "\n")


def _make_tokenizer(run: Run, workdir: Path) -> None:
    """Makes the tokenizer's folder, if it is not there."""
    config, folder = run.config, workdir / model_folder.TOKENIZER
    if not is_tokenizer_folder(folder):
        if config.init_from:
            model_folder.copy_tokenizer(Path(config.init_from) / model_folder.TOKENIZER, workdir)
        elif config.tokenizer == "words":
            train_word_tokenizer(_training_texts(run), folder)
        elif config.tokenizer == "bpe":
            train_bpe_tokenizer(_training_texts(run), folder, config.model.llm.vocab_size)
        else:
            model_folder.copy_tokenizer(Path(config.tokenizer), workdir)


def _tokenizer(run: Run, workdir: Path) -> Tokenizer:
    tokenizer = load_tokenizer(workdir / model_folder.TOKENIZER)
    slots = run.config.model.llm.vocab_size
    if tokenizer.vocab_size > slots:
        raise TrainingError(f"{tokenizer.vocab_size} tokens, but config.model.llm.vocab_size={slots}")
    return tokenizer


def _training_texts(run: Run) -> Iterator[str]:
    yield "USER: ASSISTANT:"
    for spec in run.config.text_sources:
        for record in usable(run.open(spec)):
            yield from (turn.text.replace(IMAGE_MARKER, "") for turns in record.conversations for turn in turns)


def _card(run: Run) -> model_folder.ModelCard:
    """The model as its last stage leaves it; it remembers earlier turns if it is trained on conversations of several."""
    last = run.config.stages[-1]
    seen = (record for spec, _ in last.sources.values() for record in itertools.islice(usable(run.open(spec)), 200))
    history = any(len(turns) > 2 for record in seen for turns in record.conversations)
    return model_folder.ModelCard(
        run.config.model, last.row.template, last.row.images.aspect, history, last.row.im_start_end
    )
