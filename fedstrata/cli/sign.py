"""`fedstrata sign`: the signature of a bundle, its plan and its start, by a consortium's key."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedstrata.support.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the signature of what `flwr run` would send, with the same folder and ``-c``."""
    parser = argparse.ArgumentParser(
        prog="fedstrata sign",
        description="Signs an app's bundle together with the plan that its sites will get and the "
        "checkpoint that the run starts from. Repeat here the experiment and the overrides of the "
        "run; with others no site takes the signature.",
        epilog='flwr run . hospitals -c "experiment=\\"images\\" '
        'signature=\\"$(fedstrata sign --key consortium -c experiment=images)\\""',
    )
    parser.add_argument("--key", type=Path, required=True, help="Ed25519, as ssh-keygen writes it")
    parser.add_argument("app", type=Path, nargs="?", default=Path(), help="folder of the app")
    parser.add_argument(
        "-c",
        dest="pairs",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="experiment=NAME or overrides=TEXT, as for the run",
    )
    parser.add_argument(
        "--checkpoint",
        type=_start,
        metavar="HASH",
        help="content hash of the checkpoint, for one that is not on this machine or that an earlier "
        "run trained; or any, for whichever the server sends",
    )
    options = parser.parse_args(arguments)
    from consortium.driver import read_pairs
    from fedstrata.support.ed25519 import private_key
    from site_guard.bundles import build
    from site_guard.signatures import sign

    try:
        key, pairs = private_key(options.key), read_pairs(options.pairs)
        bundle = build(options.app)
        signed = plans(options.app, pairs, options.checkpoint or "")
        for number, plan in enumerate(signed, start=1):
            print(f"plan {number}: {_start_words(plan)}", file=sys.stderr)
        print(" ".join(sign(bundle, plan, key) for plan in signed))
    except UserError as error:
        sys.exit(str(error))


def _start(text: str) -> str:
    if text != "any" and not re.fullmatch(r"[0-9a-f]{64}", text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: write 64 hexadecimal digits, as results.json has them, or any"
        )
    return text


def _start_words(plan: str) -> str:
    loaded = json.loads(plan)
    start, starts = loaded["weights"], loaded.get("starts", {})
    if "any" in (start, *starts.values()):
        return "it may start from ANY checkpoint, since this one is not known yet or not named"
    if starts:
        each = (f"{name} from checkpoint {hashed}" for name, hashed in sorted(starts.items()))
        return f"its models start, {', '.join(each)}, and any other from none"
    return f"it starts from checkpoint {start}" if start else "it starts from no checkpoint"


def plans(app: Path, pairs: Mapping[str, str], start: str = "") -> list[str]:
    """Return the plans, as JSON, that the app in a folder makes of a run's configuration.

    ``start`` is the checkpoint's content hash, or "any"; by default the app reads the checkpoint.

    The app's own code composes them in a process of its own: it may be another version than this.
    """
    try:
        project = tomllib.loads((app / "pyproject.toml").read_text())
        defaults = project["tool"]["flwr"]["app"]["config"]
    except (OSError, ValueError, LookupError) as error:
        raise UserError(
            f"{app / 'pyproject.toml'}: [tool.flwr.app.config] cannot be read: {error}"
        ) from None
    if unknown := sorted(pairs.keys() - defaults.keys()):
        raise UserError(f"-c {unknown[0]}=...: the app has {', '.join(sorted(defaults))}")
    # With -m the folder comes first on Python's path.
    done = subprocess.run(
        [sys.executable, "-m", "server_app.plans", json.dumps({**defaults, **pairs}), start],
        cwd=app,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise UserError(f"{app}: its plan cannot be composed: {lines[-1]}")
    made: list[str] = json.loads(done.stdout)
    return made
