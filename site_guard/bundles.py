"""App bundles: built to be signed; unpacked for one process, and removed with it.

Flower's own functions read and write bundles: its insides, tested with Flower 1.31.
"""

from __future__ import annotations

import hashlib
import io
import logging
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import click
from flwr.cli.build import build_fab_from_disk
from flwr.cli.config_utils import get_fab_metadata
from flwr.cli.install import install_from_fab

from fedstrata.protocol.limits import Refused, printable
from fedstrata.support.errors import UserError

logger = logging.getLogger("flwr")
MOST_UNPACKED = 100_000_000  # bytes of a bundle's files; Flower's own limit is 10 MB packed


@dataclass(frozen=True)
class Bundle:
    """An app bundle as it came, and the app that the run names.

    Parameters
    ----------
    content : bytes
        The archive.
    app_id, version : str
        ``publisher/name``, and the version.
    """

    content: bytes
    app_id: str
    version: str

    @cached_property
    def digest(self) -> str:
        """The archive's SHA-256, in hexadecimal digits."""
        return hashlib.sha256(self.content).hexdigest()

    def unpack(self, under: Path, *, shared: bool = False) -> tuple[Path, Path]:
        """Unpack into a new folder that only this user may write; return it, and the app's in it.

        Only this user may read it, too, unless it is ``shared`` with the app's user. A folder that
        is there already is never used: an app that ran before could have written it.

        Raises
        ------
        Refused
            It cannot be read, would fill the disk, or would be written elsewhere.
        OSError
            There is no room for it, or no permission.
        """
        under.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{self.digest[:16]}-", dir=under))
        try:
            _refuse_large(self.content)
            _refuse_escape(self.content)
            app = install_from_fab(self.content, install_dir=folder, skip_prompt=True)
            if shared:
                for path in (folder, *folder.rglob("*")):
                    path.chmod(0o755 if path.is_dir() else 0o644)
            return folder, app
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        # Nothing about the bundle is trusted: anything in it may be wrong.
        except Exception as error:
            shutil.rmtree(folder, ignore_errors=True)
            logger.warning("the app bundle %s: %s", self.digest[:16], printable(repr(error)[:2000]))
            # Flower's other errors name the folder in which it unpacks, which stays here.
            reason = (
                error.message if isinstance(error, click.ClickException) else type(error).__name__
            )
            raise Refused(
                f"the app bundle {self.digest[:16]} cannot be read: {reason[:200]}"
            ) from None


def build(app: Path) -> bytes:
    """Return the bundle of an app's folder, as `flwr run` sends it; UserError where it is no app."""
    try:
        return build_fab_from_disk(app)
    except (ValueError, OSError, click.ClickException) as error:
        raise UserError(f"{app} is no app that can be bundled: {error}") from None


def _refuse_large(bundle: bytes) -> None:
    """Raise ClickException, as Flower does, for a bundle that would fill the disk."""
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > MOST_UNPACKED:
        raise click.ClickException(
            f"it would take {size} bytes unpacked, and {MOST_UNPACKED} are the most"
        )


def _refuse_escape(bundle: bytes) -> None:
    """Raise ClickException if the folder that Flower names after the app would lie elsewhere."""
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        parts = [part for name in archive.namelist() for part in name.removesuffix("/").split("/")]
    if {"", ".", ".."} & set(parts):  # two names of one file: the one not checked might be used
        raise click.ClickException("a name in it has parts that are empty, '.' or '..'")
    app_id, version = get_fab_metadata(bundle)
    folder = f"{app_id} {version}"  # Flower makes its name of these
    if folder.count("/") != 1 or "\\" in folder or ".." in folder:
        raise click.ClickException(
            "its publisher, name or version names a path outside its folder: write them without "
            "'/', '\\' and '..'"
        )
