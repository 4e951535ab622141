"""Code that is run as the app's process is, without a guard around it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from site_guard.confinement import Confinement


@contextmanager
def folder_for_all() -> Iterator[Path]:
    """Return a folder that other users can enter, which they cannot with pytest's."""
    with tempfile.TemporaryDirectory(prefix="fedstrata-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@dataclass
class Done:
    """What a confined process printed, and what could not be taken from it."""

    stdout: str
    stderr: str
    failure: str


def run_confined(
    confinement: Confinement, code: str, *arguments: str, python: str = sys.executable
) -> Done:
    """Run Python code in a process that is confined as the app's process is."""
    reader, status = os.pipe()
    try:
        done = subprocess.run(
            confinement.command([python, "-I", "-c", code, *arguments], status),
            env=confinement.environment(os.environ),
            pass_fds=[status],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        os.close(status)
        return Done(done.stdout, done.stderr, os.read(reader, 1000).decode())
    finally:
        os.close(reader)
