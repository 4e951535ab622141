"""The public keys that hospitals send, one folder a hospital; their private halves never come here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)

from consortium.founding import HOSPITALS
from consortium.key_files import (
    PUBLIC_FILE,
    PUBLIC_FOLDER,
    read,
    replace,
    write,
)
from consortium.members import Hospital
from fedstrata.support.durable import new_folder
from fedstrata.support.errors import UserError
from fedstrata.support.fingerprints import fingerprint

NODE, AUDIT, TASK = "supernode.pub", "audit.pub", "task"
MOST_BYTES = 10_000  # of a file with a public key
_KINDS = {NODE: EllipticCurvePublicKey, AUDIT: Ed25519PublicKey}
_EXAMPLES = {NODE: "ecdsa-sha2-nistp384 AAAA... name", AUDIT: "ssh-ed25519 AAAA... name"}


@dataclass(frozen=True)
class PublicKey:
    """A public key twice: as OpenSSH's files have it, and as the SuperLink does."""

    line: str
    pem: bytes

    @property
    def fingerprint(self) -> str:
        """What to compare with the hospital by telephone."""
        return fingerprint(self.line)


def read_public_key(path: Path, kind: str = NODE) -> PublicKey:
    """Return the public key in a file.

    Raises
    ------
    UserError
        It has a private key, or no public key of that kind.
    """
    text = read(path)[:MOST_BYTES]
    if b"PRIVATE KEY" in text:
        raise UserError(
            f"{path} is a private key, which must not leave its hospital: have new keys made with "
            "`fedstrata site keygen`, and ask for the .pub file"
        )
    try:
        name, key, *_ = text.decode("ascii").split()
        public = load_ssh_public_key(text)
    except (ValueError, UnsupportedAlgorithm):
        public = None
    if public is None or not isinstance(public, _KINDS[kind]):
        raise UserError(f"{path} is no public key in OpenSSH's form: {_EXAMPLES[kind]!r}")
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(f"{name} {key}", pem)


def add_hospital(
    folder: Path,
    hospital: Hospital,
    key: Path,
    audit_key: Path | None = None,
    *,
    replaces: bool = False,
) -> PublicKey:
    """Take in the public keys of one more hospital; return that of its node.

    Parameters
    ----------
    folder : Path
        The consortium's.
    hospital : Hospital
        Its name and its task.
    key : Path
        ``supernode.pub``, as the hospital sent it.
    audit_key : Path or None
        ``audit.pub``, by which the hospital's audit log is checked.
    replaces : bool
        Whether the hospital is there, and gets new keys.

    Raises
    ------
    UserError
        There is no consortium in ``folder``, it has this hospital or this key, or a file is no
        public key.
    """
    if not (folder / HOSPITALS).is_dir():
        raise UserError(f"{folder} has no consortium: make one with `fedstrata consortium found`")
    public = read_public_key(key)
    lines = {NODE: public.line}
    if audit_key is not None:
        lines[AUDIT] = read_public_key(audit_key, AUDIT).line
    for other in hospitals_in(folder):
        if read_public_key(folder / HOSPITALS / other.name / NODE).line == public.line:
            raise UserError(f"{key} is the key that {other.name} has already")
    home = folder / HOSPITALS / hospital.name
    if home.exists() != replaces:
        raise UserError(
            f"{home} is not there, and so nothing to replace: leave out --replace"
            if replaces
            else f"{home} exists: give --replace if {hospital.name} has made new keys"
        )
    files = {name: f"{line} {hospital.name}\n" for name, line in lines.items()}
    files[TASK] = f"{hospital.task}\n"
    if replaces:
        for name, text in files.items():
            replace(home / name, text.encode(), PUBLIC_FILE)
    else:
        with new_folder(home, PUBLIC_FOLDER) as made:
            for name, text in files.items():
                write(made / name, text.encode(), PUBLIC_FILE)
    return public


def hospitals_in(folder: Path) -> tuple[Hospital, ...]:
    """Return the hospitals with keys in ``folder``, by name; raise UserError if one is damaged."""
    keys = sorted((folder / HOSPITALS).glob(f"[!.]*/{NODE}"))
    tasks = [read(path.with_name(TASK)).decode(errors="replace").strip() for path in keys]
    return tuple(Hospital(key.parent.name, task) for key, task in zip(keys, tasks, strict=True))
