"""Code that is run as the app's process is, without a guard around it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

from site_guard.confinement import Confinement


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
