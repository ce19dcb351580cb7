"""Processes that save one checkpoint after the other are killed in the middle of it; and there is no room on the disk."""

import os
import random
import resource
import signal
import time

import grain
import jax
import numpy as np
import pytest

from mmfuser_jax import checksums
from mmfuser_jax.checkpoint import CheckpointError, Checkpoints
from tests.nursery import nursery

KILLS = 20


def state(step):
    """What is saved at a step: everything depends on it."""
    rng = np.random.default_rng(step)
    params = {"dense": {"kernel": rng.normal(size=(64, 512)).astype(np.float32)}, "bias": np.full(7, step, np.int32)}
    return jax.device_put({"params": params, "train": {"moment": rng.normal(size=(512, 64)).astype(np.float32)}})


def batches():
    return iter(grain.MapDataset.range(1, 1_000_000).to_iter_dataset())


def goes_on(folder):
    """The checkpoints, after a look at the newest; its step, and its data."""
    checksums.set_aside_damaged(folder)
    checkpoints, data = Checkpoints(folder, keep=2), batches()
    step = checkpoints.latest_step() or 0
    if step:
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(step))
        found = checkpoints.restore(step, params=like["params"], train=like["train"], data=data)
        assert all(map(np.array_equal, jax.tree.leaves(found), jax.tree.leaves(tuple(state(step).values()))))
        assert checkpoints.read_meta(step) == {"step": step}
    return checkpoints, step, data


def save(checkpoints, step, data):
    assert next(data) == step
    checkpoints.save(step, **state(step), meta={"step": step}, data=data)


def saves_for_ever(root):
    folder = root / "checkpoints"
    checkpoints, step, data = goes_on(folder)
    log = (folder.parent / "log").open("a", buffering=1)
    print("begins", step, file=log)
    while True:
        step += 1
        save(checkpoints, step, data)
        if step % 3 == 0:  # else the next one waits for it
            checkpoints.wait()
            print("saved", step, file=log)


def has_no_room(root):
    folder = root / "checkpoints"
    checkpoints, step, data = goes_on(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    try:
        save(checkpoints, step + 1, data)
        checkpoints.wait()
    except CheckpointError as error:
        (folder.parent / "error").write_text(str(error))
        return 0
    return 1


@pytest.fixture
def children(tmp_path):
    with nursery("tests.test_saving", tmp_path) as children:
        yield children


def half_saved(folder):
    return [path.name for path in folder.glob("*tmp*")] if folder.exists() else []


def test_a_kill_in_the_middle_of_a_save_loses_nothing_that_was_saved(tmp_path, children):
    rng, folder = random.Random(0), tmp_path / "checkpoints"
    in_the_middle, deadline = 0, time.monotonic() + 300
    while in_the_middle < KILLS:
        child = children.begin("saves_for_ever")
        time.sleep(rng.random())
        while not half_saved(folder) and children.lives(child):
            assert time.monotonic() < deadline
        time.sleep(rng.random() * 0.05)
        os.kill(child, signal.SIGKILL)
        assert children.end() == -signal.SIGKILL, children.errors()
        in_the_middle += bool(half_saved(folder))
    saved = 0
    for line in (tmp_path / "log").read_text().splitlines():
        word, step = line.split()
        assert int(step) >= saved, "a step that was on the disk is gone"
        saved = max(saved, int(step)) if word == "saved" else saved
    assert saved >= 3, "something was saved in between"
    assert not list(folder.glob("*damaged*"))


def test_without_room_on_the_disk_the_checkpoint_before_stays(tmp_path, children):
    folder = tmp_path / "checkpoints"
    child = children.begin("saves_for_ever")
    deadline = time.monotonic() + 100
    while not (log := tmp_path / "log").exists() or "saved 3" not in log.read_text():
        assert time.monotonic() < deadline, children.errors()
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    children.end()
    before = checksums.steps(folder)[0]
    children.begin("has_no_room")
    assert children.end() == 0, children.errors()
    assert f"step {before + 1} could not be saved" in (tmp_path / "error").read_text()
    children.begin("has_no_room")  # which looks at the newest one first
    assert children.end() == 0, children.errors()
    assert checksums.steps(folder)[0] == before
