"""How a SuperLink is started: ports that run code on the operator's network, files for one user alone."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from consortium.founding import SECRET
from consortium.key_files import PRIVATE_FILE, PRIVATE_FOLDER
from fedstrata.support.errors import UserError
from fedstrata.support.freed_memory import keep_freed_memory

TESTED = ("1.31",)  # Flower's versions, without the last number, that the tests were run with
DATABASE = "superlink.db"
CONTROL, APPIO = "127.0.0.1:9093", "127.0.0.1:9091"
UMASK = 0o077
_FILES = {"ca-certfile": "ca.crt", "certfile": "server.crt", "keyfile": "server.key"}


@dataclass(frozen=True)
class Start:
    """What a person decides of a SuperLink; Flower's other options are handed on.

    Parameters
    ----------
    keys : Path or None
        Folder ``superlink/`` of the consortium; None for a SuperLink without TLS and keys.
    state : Path
        Folder of its database, which only its user can read.
    control, appio : str
        Addresses of the ports through which code is run here.
    isolation : str
        ``process``: ServerApps run by ``flower-superexec``, as another user; ``subprocess``: as the
        SuperLink's user.
    """

    keys: Path | None
    state: Path
    control: str = CONTROL
    appio: str = APPIO
    isolation: str = "process"

    def command(self) -> list[str]:
        """Return the command line of Flower's SuperLink.

        Raises
        ------
        UserError
            A port through which code is run would be open on all networks.
        """
        for option, address in (("control", self.control), ("serverappio", self.appio)):
            check_address(f"--{option}-api-address", address)
        words = ["--database", str(self.state / DATABASE), "--isolation", self.isolation]
        words += ["--control-api-address", self.control, "--serverappio-api-address", self.appio]
        if self.keys is None:
            return [*words, "--insecure"]
        for option, name in _FILES.items():
            words += [f"--ssl-{option}", str(self.keys / name)]
        if self.isolation == "process":
            words += ["--superexec-auth-secret-file", str(self.keys / SECRET)]
        return [*words, "--enable-supernode-auth"]

    def notices(self) -> list[str]:
        """Return what to say before it starts: who can run code here, and as whom."""
        lines = [
            f"the Control port is {self.control}: whoever reaches it runs ServerApps, for Flower "
            "asks for no password there"
        ]
        if self.isolation == "process":
            lines.append(
                f"ServerApps run where `flower-superexec --plugin-type serverapp` is connected to "
                f"{self.appio}: start it as another user than this one"
            )
        else:
            lines.append(
                "ServerApps run as this user: whoever reaches the Control port can read the "
                "server's key and the database; --isolation process ends that"
            )
        if self.keys is None:
            lines.append(
                "no TLS and no keys: anybody on the network can read and change everything"
            )
        if os.getuid() == 0:
            lines.append("runs as root: give it a user of its own")
        return lines


def check_address(option: str, address: str) -> None:
    """Raise UserError unless an address is of one network of this machine."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        everywhere = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        everywhere = not host
    if everywhere:
        raise UserError(
            f"{option} {address}: whoever reaches this port runs code here, and the hospitals would; "
            "write 127.0.0.1:PORT, or this machine's address on the operator's network"
        )


def prepare_state(folder: Path) -> None:
    """Make the folder of the database for this user alone, also what is there, whatever the umask.

    Raises
    ------
    UserError
        The folder cannot be made, or is another user's.
    """
    os.umask(UMASK)
    try:
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        folder.chmod(PRIVATE_FOLDER)
        for path in folder.glob(f"{DATABASE}*"):
            path.chmod(PRIVATE_FILE)
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from None


def become(command: Sequence[str]) -> None:
    """Turn this process into Flower's SuperLink, with layers in files beside its database."""
    try:
        from flwr.server import app
    except ImportError as error:
        raise UserError(f"{error}: install Flower beside this Python, `pip install -e .`") from None
    keep_freed_memory()
    if reason := put_layers_in_files(app, version("flwr")):
        print(f"fedstrata superlink: {reason}", file=sys.stderr, flush=True)
    sys.argv = ["flower-superlink", *command]  # Flower reads its options from there alone
    app.run_superlink()


def put_layers_in_files(app: ModuleType, flower: str) -> str:
    """Let Flower's module keep large objects in files; return "" or why its database has them.

    Only the name of the class that makes its store is replaced.
    """
    ours, flowers = "large layers pass through the database, which is slower", "ObjectStoreFactory"
    if ".".join(flower.split(".")[:2]) not in TESTED:
        return f"{ours}: tested with Flower {' or '.join(TESTED)} alone, and {flower} is installed"
    from consortium.object_files import ObjectFilesFactory

    if getattr(app, flowers, None) is not ObjectFilesFactory.__base__:
        return f"{ours}: {app.__name__} has no {flowers}, as that of Flower {TESTED[-1]} has"
    vars(app)[flowers] = ObjectFilesFactory
    return ""
