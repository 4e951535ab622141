"""Memory that was freed is used again, without new pages from the kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

from fedstrata.support.freed_memory import VARIABLES

BLOCK = 45_000_000  # bytes of a message with layers
PAGES = BLOCK // os.sysconf("SC_PAGE_SIZE")
FILL = f"""
import resource, sys
from fedstrata.support import freed_memory
kept = sys.argv[1] == "ask" and freed_memory.keep_freed_memory()
bytearray({BLOCK}).replace(b"x", b"y")
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    bytearray({BLOCK}).replace(b"x", b"y")
print(kept, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 4)
"""


def new_pages(how: str, more: Mapping[str, str]) -> tuple[bool, int]:
    """Return whether the process keeps memory, and the new pages that two blocks take."""
    environment = {**os.environ, **more}
    said = subprocess.check_output([sys.executable, "-c", FILL, how], env=environment, text=True)
    kept, pages = said.split()
    return kept == "True", int(pages)


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not os.confstr("CS_GNU_LIBC_VERSION"),
    reason="GNU's C library alone can be asked",
)
def test_a_freed_block_is_filled_again_without_new_pages() -> None:
    assert new_pages("leave", {})[1] > PAGES
    kept, pages = new_pages("ask", {})
    assert kept
    assert pages < PAGES / 10
    assert new_pages("leave", VARIABLES)[1] < PAGES / 10
