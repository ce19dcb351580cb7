"""Processes to be killed: importing takes seconds, so one process does it once, and forks a child for each life."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

NURSERY = """
import importlib, os, sys
from pathlib import Path
module = importlib.import_module(sys.argv[1])
for line in sys.stdin:  # nothing has touched a device yet: children are made in no time
    if not (child := os.fork()):
        code = 9
        try:
            code = int(getattr(module, line.strip())(Path(sys.argv[2])) or 0)
        finally:
            os._exit(code)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""
"""Starts a child that runs a function of a module for each line that names one; says its number, then its end."""


class Children:
    """Of a nursery, one at a time; each is given the folder."""

    def __init__(self, process, errors):
        self._process = process
        self._errors = errors

    def begin(self, function):
        """Number of a child that runs it."""
        self._process.stdin.write(function + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def lives(self, child):
        """Whether it has not ended."""
        return Path(f"/proc/{child}").exists()

    def end(self):
        """How the child ended."""
        return os.waitstatus_to_exitcode(int(self._process.stdout.readline()))

    def errors(self):
        """What all of them said."""
        return self._errors.read_text()


@contextlib.contextmanager
def nursery(module, folder):
    """Children that run functions of a module, to be killed: one at a time."""
    command = [sys.executable, "-c", NURSERY, module, str(folder)]
    errors = folder / "errors"
    with (
        errors.open("w") as file,
        subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"MMFUSER_TEST_DEVICES": "1"}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file,
        ) as process,
    ):  # fmt: skip
        yield Children(process, errors)
        process.kill()
