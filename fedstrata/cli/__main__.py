"""The command `fedstrata` where it is not on the path: ``python -m fedstrata.cli``."""

from __future__ import annotations

from fedstrata.cli.main import main

if __name__ == "__main__":
    main()
