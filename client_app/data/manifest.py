"""Lists the pictures that a CSV manifest names, and counts those that it does not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from client_app.data.cells import Faults, normal
from client_app.data.findings import Findings
from client_app.data.formats import is_picture
from client_app.data.labels import NO_LABEL
from client_app.data.listing import SUFFIX, Entry
from client_app.data.paths import describe_file, file_inside
from client_app.data.tables import FOUND, TableFormat, describe_line, row_split, table_rows
from client_app.data.walking import leave_links, walk
from fedstrata.support.errors import PrivateText, UserError, private

NOT_NAMED = "not in the manifest"


@dataclass(frozen=True)
class ManifestColumns:
    """Which columns of a manifest are read, beside ``path`` and ``split``.

    Parameters
    ----------
    labels : sequence of str
        Those of the task.
    domain, group : str or None
        Those of ``data.site_split.column`` and ``data.group``.
    split_names : mapping
        ``data.split_names``.
    """

    labels: Sequence[str]
    domain: str | None = None
    group: str | None = None
    split_names: Mapping[str, str] = field(default_factory=dict)

    @property
    def needed(self) -> list[str]:
        """Return the columns that must exist."""
        more = [column for column in (self.domain, self.group) if column]
        return list(dict.fromkeys(normal(each) for each in ("path", *self.labels, *more)))


def from_manifest(
    root: Path,
    name: str,
    columns: ManifestColumns,
    findings: Findings,
    *,
    labelled: Callable[[Sequence[str]], bool] = any,
    written: TableFormat = FOUND,
) -> list[Entry]:
    """List the pictures that have a label in the CSV file ``root / name``, in its order.

    The columns are ``path`` (relative to the manifest), those of ``columns``, optionally ``split``,
    and any others. ``labelled`` says whether cells have a label; a row without is left out.

    Raises
    ------
    UserError
        The file, a column, a row or a path is wrong.
    """
    manifest = file_inside(root, name, "data.manifest")
    known = _Files(root, manifest, findings)
    labels = [normal(column) for column in columns.labels]
    entries: dict[Path, Entry] = {}
    wrong = Faults()
    without: set[str] = set()
    for line, row in table_rows(manifest, columns.needed, written):
        source = describe_line(manifest, line)
        cells = tuple(row[column] for column in labels)
        if not labelled(cells):
            findings.leave_out(NO_LABEL, source)
            for column in columns.labels:
                findings.miss(column, 1)
            without.add(row["path"])
            continue
        try:
            path = known.find(row["path"], source)
        except UserError as error:
            wrong.add(PrivateText(str(error), error.public))
            continue
        if path in entries:  # it could be in two splits
            wrong.add(source + ": " + private(repr(row["path"]), "its file") + " is listed twice")
        entries[path] = Entry(
            path,
            cells,
            row_split(row, source, columns.split_names),
            normal(row[normal(columns.domain)]) if columns.domain else "",
            normal(row[normal(columns.group)]) if columns.group else "",
            line,
        )
    wrong.raise_any("")
    if not entries:
        named = " or ".join(map(repr, columns.labels))
        raise UserError(describe_file(manifest) + f": no picture has a label in column {named}")
    known.count_others(entries, without)
    return list(entries.values())


class _Files:
    """The files under a folder, so that each of many names is a look-up."""

    def __init__(self, root: Path, manifest: Path, findings: Findings) -> None:
        self.root, self.manifest, self.findings = root, manifest, findings
        self.before = manifest.parent.relative_to(root).as_posix()
        self.tree = walk(root, root, findings)
        self.plain: dict[str, bool] = dict(self.tree.below())
        # A name can be written composed, and the file's decomposed, as macOS stores it.
        self.composed = {normal(each): each for each in self.plain if not each.isascii()}

    def find(self, name: str, source: PrivateText) -> Path:
        """Return the file that a cell names; raise `UserError` where there is none."""
        if name.startswith(f"{self.root}/"):  # an absolute name of a file in the data folder
            inside = name.removeprefix(f"{self.root}/")
        else:
            inside = name if self.before == "." or not name else f"{self.before}/{name}"
        for written in (inside, inside.replace("\\", "/"), inside.removeprefix("./")):
            actual = self.composed.get(normal(written), written)
            # Only names as the walk found them: those lie inside the root and are no links.
            if self.plain.get(actual):
                return self.root / actual
        if PurePosixPath(name).is_absolute() or not name:
            inside = name
        return file_inside(self.root, inside, source)

    def count_others(self, entries: Mapping[Path, Entry], without: Collection[str]) -> None:
        """Count what the manifest does not name as left out; ``without`` are those without label."""
        leave_links(self.tree, self.findings)
        named = {str(path) for path in (*entries, self.manifest)}
        named |= {str(self.manifest.parent / name) for name in without if name}
        before = f"{self.root}/"
        for each in self.plain:
            if before + each not in named:
                reason = NOT_NAMED if is_picture(PurePosixPath(each)) else SUFFIX
                self.findings.leave_out(reason, describe_file(self.root / each))
