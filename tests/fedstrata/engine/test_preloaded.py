"""What every process of a simulation is forked with."""

from __future__ import annotations

import subprocess
import sys


def test_it_imports_all_that_a_round_needs_and_starts_no_thread() -> None:
    script = (
        "import sys, threading, fedstrata.engine.preloaded\n"
        "wanted = ('torch', 'client_app.orders', 'server_app.run', 'fedstrata.engine.grid')\n"
        "assert all(name in sys.modules for name in wanted)\n"
        "import torch\n"
        "print(threading.active_count(), torch.cuda.is_initialized())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "1 False\n"
