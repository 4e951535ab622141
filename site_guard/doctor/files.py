"""Whether the data can be read, the folders written, and keys are private."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedstrata.support.audit_check import read_and_verify
from fedstrata.support.ed25519 import private_key
from fedstrata.support.errors import UserError
from site_guard.doctor.checks import Check, ok, problem, unknown
from site_guard.settings import SiteSettings

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def check_files(settings_path: Path, settings: SiteSettings) -> Iterator[Check]:
    """Check the data, the site's folders, and who may read and write them."""
    yield check_data(settings)
    for entry in ("state", "cache"):
        yield check_folder(entry, Path(getattr(settings, entry)))
    if settings.models and not Path(settings.models).is_dir():
        yield problem("models", f"{settings.models} is no folder", "mend `models` in site.yaml")
    yield check_user()
    yield check_settings_mode(settings_path)
    yield from check_audit(settings)


def check_data(settings: SiteSettings) -> Check:
    """Check that the data is there and that this user can open it."""
    if not settings.data:
        return ok("data", "none is named: runs draw or download theirs")
    path, mend = Path(settings.data), "mend `data` in site.yaml, or mount the folder there"
    try:
        if path.is_dir():
            count = sum(1 for _ in os.scandir(path))
            if not count:
                return problem("data", f"{path} is empty", mend)
            return ok("data", f"{path} opens: {count} entries")
        with path.open("rb") as file:
            if not file.read(1):
                return problem("data", f"{path} is empty", mend)
    except FileNotFoundError:
        return problem("data", f"{path} does not exist", mend)
    except PermissionError:
        return _unreadable(path, settings)
    except OSError as error:
        return problem("data", f"{path}: {error.strerror}", mend)
    return ok("data", f"{path} opens")


def _unreadable(path: Path, settings: SiteSettings) -> Check:
    """Return what to say of data that this user may not read: the app may be another user."""
    me = os.geteuid()
    try:
        app = Path(settings.state).stat().st_uid
    except OSError:
        app = me
    if app != me:
        text = f"user {me} may not read {path}; the app is user {app}, as whom `state` is owned"
        return unknown("data", text, f"sudo -u '#{app}' ls {path}")
    return problem("data", f"user {me} may not read {path}", f"setfacl -R -m u:{me}:rX {path}")


def check_folder(entry: str, path: Path) -> Check:
    """Check that the nearest folder that exists can be written, and is private."""
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return problem(
            entry,
            f"user {os.geteuid()} may not write to {there}",
            f"install -d -m 700 -o {os.geteuid()} {path}",
        )
    if there != path:
        return ok(entry, f"{path} will be made")
    if entry == "state" and path.stat().st_mode & OTHERS:
        mode = stat.S_IMODE(path.stat().st_mode)
        return problem(
            entry,
            f"{path} has the mode {mode:o}: others reach personal layers",
            f"chmod 700 {path}",
        )
    return ok(entry, f"{path} can be written")


def check_user() -> Check:
    """Check that this is no administrator: the app would run as one too."""
    if os.geteuid() == 0:
        return problem(
            "user",
            "this is root, and the consortium's app would run as root",
            "run `fedstrata site` as a user of its own: useradd --system fedstrata-site",
        )
    return ok("user", f"user {os.geteuid()}, not root")


def check_settings_mode(path: Path) -> Check:
    """Check that only the hospital can change its rules."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return unknown("site.yaml", f"{path}: {error.strerror}")
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return problem("site.yaml", f"others may write to {path}", f"chmod go-w {path}")
    return ok("site.yaml", f"{path} can be changed by its owner alone")


def check_private(name: str, path: Path) -> Check:
    """Check that a private key is there, can be read, and is its owner's, or its group's, alone."""
    try:
        status = path.stat()
        with path.open("rb"):
            pass
    except OSError as error:
        return problem(
            name,
            f"{path}: {error.strerror}",
            "make keys with `fedstrata site keygen`, or mend the path",
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & (stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP):
        return problem(
            name, f"{path} has the mode {mode:o}: others can read it", f"chmod 600 {path}"
        )
    who = f"by user {status.st_uid}"
    if mode & stat.S_IRGRP:
        who += f" and group {status.st_gid}"
    return ok(name, f"{path} can be read {who} alone")


def check_apart(key: Path, settings: SiteSettings) -> Check:
    """Check that the SuperNode's key is not the app's user's, whom the state belongs to."""
    try:
        secret, app = key.stat(), Path(settings.state).stat()
    except OSError as error:
        return unknown("users", f"{error.filename}: {error.strerror}")
    by_group = secret.st_mode & stat.S_IRGRP and secret.st_gid == app.st_gid
    if secret.st_uid == app.st_uid or by_group:
        who = f"group {secret.st_gid}" if by_group else f"user {secret.st_uid}"
        return problem(
            "users",
            f"{who} has the SuperNode's key and the app's state: the app can read the key",
            "run `fedstrata node` as another user, and chown the key to that one",
        )
    return ok("users", f"the key belongs to user {secret.st_uid}, the state to user {app.st_uid}")


def check_audit(settings: SiteSettings) -> Iterator[Check]:
    """Check the audit log's key, and what the log has so far."""
    key, log = settings.audit.key, settings.audit_log
    keys: tuple[Ed25519PublicKey, ...] = ()
    if not key:
        yield problem(
            "audit key",
            "the audit log is not signed: whoever can write the file can change it unseen",
            "fedstrata site keygen FOLDER --name SITE; then audit: {key: FOLDER/audit.key} in site.yaml",
        )
    else:
        yield check_private("audit key", Path(key))
        try:
            keys = (private_key(Path(key)).public_key(),)
        except UserError as error:
            yield problem("audit key", str(error), "make one with `fedstrata site keygen`")
            return
    yield _check_log(log, keys)


def _check_log(log: Path, keys: tuple[Ed25519PublicKey, ...]) -> Check:
    if not log.exists():
        return check_folder("audit log", log.parent)
    try:
        found = read_and_verify(log, keys)
    except OSError as error:
        return problem("audit log", f"{log}: {error.strerror}", "mend its owner and its mode")
    if found.problems:
        more = f" (and {len(found.problems) - 1} more)" if len(found.problems) > 1 else ""
        return problem(
            "audit log",
            f"{log}: {found.problems[0]}{more}",
            "fedstrata site audit --settings site.yaml --verify",
        )
    return ok("audit log", f"{log}: {len(found.lines)} lines, nothing is wrong")
