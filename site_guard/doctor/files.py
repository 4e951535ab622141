"""Whether the data can be read, the folders written, and keys are private."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedstrata.support.audit_check import read_and_verify
from fedstrata.support.ed25519 import private_key
from fedstrata.support.errors import UserError
from site_guard.app_user import AppUser, own_user, read_user
from site_guard.confinement import Confinement
from site_guard.doctor.checks import Check, ok, problem, unknown
from site_guard.settings import SiteSettings

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def check_files(settings_path: Path, settings: SiteSettings) -> Iterator[Check]:
    """Check the data, the site's folders, and who may read and write them."""
    yield check_data(settings)
    with contextlib.suppress(UserError):  # check_user says so
        for entry in ("state", "cache"):
            yield check_folder(entry, Path(getattr(settings, entry)), app_user(settings))
    if settings.models and not Path(settings.models).is_dir():
        yield problem("models", f"{settings.models} is no folder", "mend `models` in site.yaml")
    yield check_user(settings)
    yield from check_confinement(settings)
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
    if settings.app_user:
        text = f"only the app's user has to read {path}, and this one may not"
        return unknown("data", text, f"sudo -u {settings.app_user} ls {path}")
    me = os.geteuid()
    return problem("data", f"user {me} may not read {path}", f"setfacl -R -m u:{me}:rX {path}")


def check_folder(entry: str, path: Path, user: AppUser) -> Check:
    """Check that ``user`` can write the nearest folder that exists, and that it is private."""
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    mine = user.uid == os.geteuid()
    writes = os.access(there, os.W_OK | os.X_OK) if mine else user.may_write(there)
    if not there.is_dir() or not writes:
        return problem(
            entry,
            f"user {user.name} may not write to {there}",
            f"install -d -m 700 -o {user.uid} {path}",
        )
    if there != path:
        return ok(entry, f"{path} will be made")
    if entry == "state" and path.stat().st_mode & OTHERS:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = f"{path} has the mode {mode:o}: others reach personal layers"
        return problem(entry, text, f"chmod 700 {path}")
    return ok(entry, f"{path} can be written")


def check_user(settings: SiteSettings) -> Check:
    """Check as whom the app would run: not as root, nor as the site's own process."""
    try:
        user = app_user(settings)
    except UserError as error:
        return problem("user", str(error), "mend `app-user` in site.yaml")
    if user.uid == 0:
        return problem(
            "user",
            "this is root, and the consortium's app would run as root",
            "app-user: fedstrata-app in site.yaml",
        )
    return ok("user", f"the app runs as user {user.name}")


def check_confinement(settings: SiteSettings) -> Iterator[Check]:
    """Say which protections around the app's process are not in force here."""
    try:
        user = read_user(settings.app_user, "app-user") if settings.app_user else None
    except UserError:
        return
    keeps = settings.network == "keep"
    around = Confinement(Path(), Path(), (), (), user, settings.limits, keeps)
    found = around.weaknesses()
    for weakness in found:
        yield problem("app's process", weakness, "docs/hospital-it.md, The app's process")
    if not found:
        yield ok("app's process", "its user, its files and its network are taken care of")


def app_user(settings: SiteSettings) -> AppUser:
    """Return the user as whom the app runs; raise UserError where there is no such user."""
    return read_user(settings.app_user, "app-user") if settings.app_user else own_user()


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
    """Check that a private key is there, and that its owner, or its group, alone can read it."""
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
    """Check that the app's user cannot read the SuperNode's key."""
    try:
        secret, app = key.stat(), app_user(settings)
    except OSError as error:
        return unknown("users", f"{error.filename}: {error.strerror}")
    except UserError as error:
        return unknown("users", str(error))
    by_group = secret.st_mode & stat.S_IRGRP and secret.st_gid in app.groups
    if secret.st_uid == app.uid or by_group:
        return problem(
            "users",
            f"user {app.name}, as whom the app runs, can read the SuperNode's key {key}",
            "app-user: fedstrata-app in site.yaml, and the key for `fedstrata node`'s user alone",
        )
    return ok("users", f"the key is user {secret.st_uid}'s, and the app runs as {app.name}")


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
        return check_folder("audit log", log.parent, own_user())
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
