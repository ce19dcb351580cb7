"""Running a launch script: absl flags, one-line errors for a user's mistakes, `--debug` for the traceback."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import app, flags
from absl import logging as absl_logging

_DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")

flags.disclaim_key_flags()  # flags that functions here define are the calling script's, as --help shows them

USER_ERRORS = (ValueError, RuntimeError, OSError)
"""What a user's mistake raises: all errors of this package derive from ValueError or RuntimeError."""


@dataclasses.dataclass(frozen=True)
class Command:
    """One of a script's commands.

    Attributes:
      main: what it does.
      required, optional: names of its flags; any other flag of the script is an error.
    """

    main: Callable[[], Any]
    required: Sequence[str] = ()
    optional: Sequence[str] = ()


def define_cluster_flags() -> Callable[[], dict[str, Any]]:
    """Defines the flags of a script that several processes run together; returns what gives `distributed.joined` them."""
    given = {
        "together": flags.DEFINE_bool(
            "distributed", False, "Join the other processes of this run: pod, GKE, SLURM or MPI."
        ),
        "coordinator": flags.DEFINE_string("coordinator", None, "Elsewhere: host:port where process 0 listens."),
        "num_processes": flags.DEFINE_integer("num_processes", None, "Elsewhere: how many there are.", lower_bound=1),
        "process_id": flags.DEFINE_integer(
            "process_id", None, "Elsewhere: which of them this is, from 0.", lower_bound=0
        ),
    }
    return lambda: {name: flag.value for name, flag in given.items()}


def run(main: Callable[[], Any]) -> None:
    """Parses flags, runs `main`, and exits 1 with one line on a user's mistake, 2 on a wrong flag."""
    _log_to_stderr()
    app.run(lambda _: _guarded(main), flags_parser=_parse)


def run_on(what: str, main: Callable[[Sequence[str]], Any]) -> None:
    """Like `run`, with arguments that are no flags for `main`: one `what` or more."""

    def parse(args: Sequence[str]) -> list[str]:
        rest = _parse(args, words=len(args))
        if len(rest) > 1:
            return rest
        print(f"error: give one {what} or more", file=sys.stderr)
        sys.exit(2)

    _log_to_stderr()
    app.run(lambda args: _guarded(lambda: main(args[1:])), flags_parser=parse)


def run_command(commands: Mapping[str, Command]) -> None:
    """Like `run`, with the first argument that is no flag naming what to run."""
    _log_to_stderr()
    app.run(lambda args: _guarded(commands[args[1]].main), flags_parser=lambda args: _parse_command(args, commands))


class _CurrentStderr(logging.StreamHandler):
    """Writes to whatever sys.stderr is now: a live progress bar replaces it, and lines then appear above the bar."""

    @property
    def stream(self) -> Any:
        """Today's sys.stderr."""
        return sys.stderr

    @stream.setter
    def stream(self, _: Any) -> None:
        """Ignored: logging sets it once, to what sys.stderr was then."""


def _log_to_stderr() -> None:
    """Shows this package's messages, and only warnings of the libraries, which are chatty."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = _CurrentStderr()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("mmfuser_jax")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _guarded(main: Callable[[], Any]) -> None:
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except USER_ERRORS as error:
        if _DEBUG.value:
            raise
        sys.exit(f"error: {_one_line(error)}")


def _parse_command(args: Sequence[str], commands: Mapping[str, Command]) -> list[str]:
    """Flags and one command, which takes no other flags than its own."""
    rest = _parse(args, words=2)
    given = {flag.name for flag in flags.FLAGS.get_key_flags_for_module(rest[0]) if flag.present}
    command = commands.get(rest[1]) if len(rest) > 1 else None
    if command is None:
        print(f"error: give one command: {', '.join(commands)}", file=sys.stderr)
    elif missing := [name for name in command.required if name not in given]:
        print(f"error: {rest[1]} needs --{' and --'.join(missing)}", file=sys.stderr)
    elif foreign := sorted(given - {*command.required, *command.optional}):
        print(f"error: {rest[1]} has no flag --{', --'.join(foreign)}", file=sys.stderr)
    else:
        return rest
    sys.exit(2)


def _parse(args: Sequence[str], words: int = 1) -> list[str]:
    """Flags and the config program; a wrong field, value or program is one line."""
    debug = any(arg in ("--debug", "--debug=true") for arg in args)
    try:
        rest = flags.FLAGS(list(args))
        if len(rest) <= words:
            return rest
        print(f"error: {' '.join(rest[words:])!r} belongs to no flag; quote values with blanks", file=sys.stderr)
    except flags.Error as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
    except (AttributeError, TypeError, *USER_ERRORS) as error:
        if debug:
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
    sys.exit(2)


def _one_line(error: BaseException) -> str:
    if "Traceback (most recent call last)" in str(error):  # config flags quote a config program's own error
        return str(error).strip().splitlines()[-1]
    return " ".join(str(error).split()) or type(error).__name__
