"""Starts the app's process, confined, with a pipe for orders and another for what it prints."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedstrata.support.errors import UserError
from site_guard.app_log import Allowance, AppLog
from site_guard.confinement import Confinement
from site_guard.pipe import Pipe

_SECONDS = 20.0  # within which the process has given up its rights
# With -I neither the environment nor the working folder adds to where Python looks for modules. This
# package is the guard's own, wherever that was found; the app's packages come from its bundle.
_CODE = """\
import sys
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location(
    "site_guard", {folder!r} + "/__init__.py", submodule_search_locations=[{folder!r}])
sys.modules["site_guard"] = module_from_spec(spec)
from site_guard.app_process import main
main()
"""


@dataclass
class Started:
    """A process of the app, and the two pipes to it."""

    process: subprocess.Popen[bytes]
    pipe: Pipe
    log: AppLog


def start_app(
    confinement: Confinement, environment: Mapping[str, str], allowance: Allowance
) -> Started:
    """Start a process that waits for orders, and return it once it is confined.

    Parameters
    ----------
    confinement : Confinement
        What the process is left with.
    environment : mapping
        Its environment variables.
    allowance : Allowance
        How much of what it prints is logged.

    Raises
    ------
    OSError
        No process can be started.
    UserError
        It could not be confined, and has ended.
    """
    ours, theirs = socket.socketpair()
    answer, status = os.pipe()
    log = AppLog(allowance)
    try:
        with theirs:
            # A new interpreter, not a fork: this process has our packages imported, and the app's
            # process must import those of the bundle.
            code = _CODE.format(folder=str(Path(__file__).parent))
            app = [sys.executable, "-I", "-u", "-c", code, str(theirs.fileno())]
            process = subprocess.Popen(
                confinement.command(app, status),
                env=dict(environment),
                pass_fds=[theirs.fileno(), status],
                stdin=subprocess.DEVNULL,
                stdout=log.writer,
                stderr=log.writer,
                cwd="/",
                start_new_session=True,  # so that all that it starts can be signalled with it
            )
    except BaseException:
        log.abandon()
        ours.close()
        os.close(answer)
        raise
    finally:
        os.close(status)
    log.started()
    failure = _failure(process, answer)
    if failure:
        process.kill()
        process.wait()
        ours.close()
        raise UserError(f"the app's process cannot be started: {failure}")
    return Started(process, Pipe(ours), log)


def _failure(process: subprocess.Popen[bytes], answer: int) -> str:
    """Return what the launcher could not do; "" once it has become the app's process."""
    try:
        if not select.select([answer], [], [], _SECONDS)[0]:
            return f"it was not ready within {_SECONDS:.0f} s"
        if text := os.read(answer, 1000).decode(errors="replace"):
            return text
    finally:
        os.close(answer)
    # Closed without a word: by the exec, or since the launcher itself has died.
    if process.poll() is not None:
        return f"it ended with status {process.returncode} before it was confined"
    return ""
