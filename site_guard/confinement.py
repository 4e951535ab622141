"""What the app's process is left with: its user, files, limits and network, from site.yaml."""

from __future__ import annotations

import json
import os
import resource
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedstrata.support.errors import UserError
from fedstrata.support.folders import default_models_dir
from fedstrata.support.home import home
from site_guard import landlock, launcher
from site_guard.app_user import AppUser, own_user, read_user, refuse_without_capabilities
from site_guard.no_network import NoFilter, filter_order
from site_guard.settings import Limits, SiteSettings

# Read once: a file that is changed while the guard runs changes nothing of what it starts.
_LAUNCHER = Path(launcher.__file__).read_text()
_ROOT = Path(__file__).parents[1]
# The interpreter itself, not the virtual environment's link to it: what that reads beside the link
# says where its library is, and could be changed.
_INTERPRETER = str(getattr(sys, "_base_executable", sys.executable))
# Variables with these words in their names may have secrets in their values.
_SECRET = ("SECRET", "TOKEN", "PASSW", "CREDENTIAL", "API_KEY", "PRIVATE", "PROXY")
_TAKEN = ("FLWR_HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "SSH_AUTH_SOCK")
_PROCESSES = 2048  # processes and threads, where the app has a user of its own


@dataclass(frozen=True)
class Confinement:
    """What the app's process may do, and how it is started so that it can do nothing else.

    Parameters
    ----------
    temporary : Path
        Its working folder, for temporary files: emptied at each start.
    read, write : tuple of Path
        What it may read; folders to which it may write.
    bundles : Path
        Where its bundle is unpacked.
    user : AppUser or None
        As whom it runs; None for the guard's own user.
    limits : Limits
        What it may take of the machine.
    network : bool
        Whether it keeps the network.
    """

    temporary: Path
    bundles: Path
    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    user: AppUser | None = None
    limits: Limits = field(default_factory=Limits)
    network: bool = False

    def command(self, app: Sequence[str], status: int) -> list[str]:
        """Return the command that gives everything else up and then becomes ``app``.

        Parameters
        ----------
        app : sequence of str
            The command of the app's process.
        status : int
            The file descriptor to which a failure is written, and which closes with success.

        Raises
        ------
        UserError
            This machine has no filter of system calls, and the network is to be taken away.
        """
        order = {
            "command": list(app),
            "status": status,
            "limits": self._limits(),
            "user": self._user(),
            "temporary": str(self.temporary),
            "writable": [str(path) for path in self.write],
            "readable": [str(path) for path in self.read],
            "landlock": self._landlock(),
            "filter": self._filter(),
        }
        return [_INTERPRETER, "-I", "-S", "-B", "-c", _LAUNCHER, json.dumps(order)]

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Return what of ``variables`` the app's process gets: no secret, and folders of its own."""
        left = {
            name: value
            for name, value in variables.items()
            if name not in _TAKEN and not any(word in name.upper() for word in _SECRET)
        }
        own = {name: str(self.temporary) for name in ("HOME", "TMPDIR")}
        return left | {"FEDSTRATA_HOME": str(home(variables))} | own

    def _limits(self) -> dict[str, int]:
        limits = {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": self.limits.open_files}
        if self.limits.memory_gb is not None:
            limits["RLIMIT_DATA"] = int(self.limits.memory_gb * 1e9)
        processes = self.limits.processes
        if processes is None and self.user is not None:
            processes = _PROCESSES
        if processes is not None:
            limits["RLIMIT_NPROC"] = processes
        return {name: most for name, most in limits.items() if hasattr(resource, name)}

    def _user(self) -> dict[str, Any] | None:
        if self.user is None:
            return None
        return {"uid": self.user.uid, "gid": self.user.gid, "groups": self.user.groups}

    def _landlock(self) -> dict[str, Any] | None:
        version = landlock.kernel_version()
        if not version:
            return None
        libraries = os.environ.get("LD_LIBRARY_PATH", "").split(":")
        return landlock.rules(
            version,
            programs=sorted(
                {_ROOT, *map(Path, (sys.prefix, sys.base_prefix, sys.base_exec_prefix))}
                | {Path(folder) for folder in libraries if folder.startswith("/")}
            ),
            read=(self.bundles, *self.read),
            write=(self.temporary, *self.write),
            network=self.network,
        )

    def _filter(self) -> dict[str, Any] | None:
        if self.network:
            return None
        try:
            return filter_order()
        except NoFilter as error:
            raise UserError(
                f"the network of the app's process cannot be taken away: {error}; with "
                "`network: keep` in site.yaml the app runs all the same, and can reach what this "
                "machine can"
            ) from None

    def weaknesses(self) -> list[str]:
        """Return a sentence for each protection that is not in force, for the log."""
        user = self.user or own_user()
        found = []
        if self.network:
            found.append(
                "network: keep: the app's process KEEPS THE NETWORK and can reach what this machine "
                "can, past the answer filter"
            )
        if self.user is None:
            found.append(
                f"the app's process runs as this process's own user, {user.name}: name another as "
                "app-user in site.yaml"
                + (", above all as this one is root" if user.uid == 0 else "")
            )
        version = landlock.kernel_version()
        if version < landlock.COMPLETE:
            found.append(
                f"this kernel's Landlock has version {version} and not {landlock.COMPLETE}: the "
                "app's process can signal other processes of its user"
                if version
                else "Landlock is not in force on this kernel: the app's process can read and write "
                f"all files that user {user.name} can"
            )
        if not version and (writable := [path for path in _code() if user.may_write(path)]):
            found.append(
                f"user {user.name}, as whom the app runs, can change {writable[0]}, from which this "
                "process itself is started: let another user own it"
            )
        return found


def _code() -> list[Path]:
    """Return the files and folders that decide what this process is."""
    paths = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    return [Path(__file__), Path(__file__).parent, *paths, Path(sys.prefix), Path(_INTERPRETER)]


def make_confinement(settings: SiteSettings) -> Confinement:
    """Return what the settings leave to the app's process.

    Raises
    ------
    UserError
        The app's user does not exist, or cannot be used by this process; or the app could write
        to the guard's own folder.
    """
    write = (Path(settings.state), Path(settings.cache))
    audit = settings.audit
    for entry, own in (
        ("guard", settings.guard_folder),
        ("audit.log", audit.log),
        ("audit.key", audit.key),
    ):
        for folder in write:
            if own and Path(own).resolve().is_relative_to(folder.resolve()):
                raise UserError(
                    f"site.yaml: {entry}: {own} lies in {folder}, where the app may write: it could "
                    "approve its own runs or change the log; write a place outside state and cache"
                )
    user = None
    bundles = Path(settings.cache) / "bundles" / settings.site
    if settings.app_user is not None:
        user = read_user(settings.app_user, "site.yaml: app-user")
        refuse_without_capabilities("site.yaml: app-user")
        # The app owns its cache: there it could put a link in the place of a folder.
        bundles = Path(tempfile.mkdtemp(prefix=f"fedstrata-{settings.site}-"))
        bundles.chmod(0o711)
    read = [Path(path) for path in (settings.data, settings.models) if path]
    if not settings.models and user is None:
        read.append(default_models_dir())
    return Confinement(
        temporary=Path(settings.cache) / "tmp" / settings.site,
        bundles=bundles,
        read=tuple(read),
        write=write,
        user=user,
        limits=settings.limits,
        network=settings.network == "keep",
    )
