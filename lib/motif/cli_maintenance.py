"""`motif versions`, `promote`, `rollback`, `cleanup`, `erase`: versions, and being forgotten."""

import functools
import json
import operator
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

import tyro

from motif import cli_output, command, storage
from motif.artefacts import erased
from motif.erasure import Request, erase
from motif.errors import InputError
from motif.table import versions
from motif.table.layout import CANDIDATE, TableUri

Repeated = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
"""A flag that may be given several times, with one value each."""

_AGE = re.compile(r"([0-9]{1,5})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, kw_only=True)
class _Command:
    """What every command of this kind takes."""

    json: bool = False
    """Print JSON."""

    def _write(self, record: Any, text: str) -> None:
        # In ASCII, so that nothing can move the cursor.
        cli_output.write_text(json.dumps(record, indent=2) + "\n" if self.json else text)


@dataclass(frozen=True, kw_only=True)
class _OfTable(_Command):
    table: str
    """DATABASE/TABLE.lance, local or s3://."""


@dataclass(frozen=True, kw_only=True)
class Versions(_OfTable):
    """List a table's versions, newest first, and which of them is live."""

    def perform(self) -> list[dict[str, Any]]:
        """Return them."""
        return [one.to_json() for one in versions.list_versions(TableUri.parse(self.table))]

    def run(self) -> None:
        """List and write."""
        found = self.perform()
        self._write(found, _as_text(found))


@dataclass(frozen=True, kw_only=True)
class Rollback(_OfTable):
    """Make another published version the one that readers see."""

    to: str
    """The version's number or tag, from `motif versions`."""
    single_writer: bool = False
    """Do without the lock, on storage without conditional writes."""

    def perform(self) -> dict[str, Any]:
        """Move the tag, and return what was done."""
        where = TableUri.parse(self.table)
        number = self.to.isascii() and self.to.isdigit()
        to = int(self.to) if number else self.to
        return versions.rollback(where, to, single_writer=self.single_writer)

    def run(self) -> None:
        """Move the tag and write."""
        done = self.perform()
        self._write(done, _moved(done))


@dataclass(frozen=True, kw_only=True)
class Promote(_OfTable):
    """Make a candidate, such as a backfill's, the version that readers see."""

    tag: str = CANDIDATE
    """Of the version, from `motif versions`."""
    single_writer: bool = False
    """Do without the lock, on storage without conditional writes."""

    def perform(self) -> dict[str, Any]:
        """Move the tag, and return what was done."""
        where = TableUri.parse(self.table)
        return versions.promote(where, self.tag, single_writer=self.single_writer)

    def run(self) -> None:
        """Move the tag and write."""
        done = self.perform()
        back = ""
        if done["from_version"] is not None:
            back = f"to go back: motif rollback --table {self.table} --to {done['from_version']}\n"
        self._write(done, _moved(done) + back)


@dataclass(frozen=True, kw_only=True)
class Cleanup(_OfTable):
    """Drop old versions of a table, but for those that a tag holds, and files of no version."""

    older_than: str
    """Age of the versions, such as 30d; m, h, d or w. Readers that opened one of them lose it."""
    single_writer: bool = False
    """Do without the lock, on storage without conditional writes."""
    dry_run: bool = False
    """Say what would go; change nothing."""

    def perform(self) -> dict[str, Any]:
        """Clean up, and return what was done."""
        return versions.cleanup(
            TableUri.parse(self.table),
            parse_age(self.older_than),
            dry_run=self.dry_run,
            single_writer=self.single_writer,
        )

    def run(self) -> None:
        """Clean up and write."""
        done = self.perform()
        dropped, kept = (
            ", ".join(map(str, done[name])) or "none"
            for name in ("dropped_versions", "kept_versions")
        )
        would = "would be dropped" if self.dry_run else "dropped"
        self._write(
            done,
            f"versions {would}: {dropped}; kept: {kept}\n"
            f"{done['files_removed']:,} files, {done['bytes_removed']:,} bytes,"
            f" {len(done['sidecars_removed'])} files beside the table\n",
        )


@dataclass(frozen=True, kw_only=True)
class Erase(_Command):
    """Take creators out of every artefact that is named, for good, and keep them out.

    Nothing can bring them back: versions and files that held them are deleted. Name every artefact
    that they may be in. Cut off, the same command completes.
    """

    creator: Repeated = ()
    """creator_id; may be given several times."""
    creators_file: str = ""
    """File with one creator_id a line, in UTF-8: out of the shell's history."""
    table: Repeated = ()
    """DATABASE/TABLE.lance; may be given several times."""
    embeddings: Repeated = ()
    """Folder of EMBEDDINGS; may be given several times."""
    evaluations: Repeated = ()
    """Folder of jobs.evaluate: deleted if it shows them; may be given several times."""
    key_file: str = ""
    """The key of the lists that keep them out; MOTIF_ERASURE_KEY does the same. Without one, a new
    list gets a random key that lies in it, so that whoever reads it can test an id."""
    single_writer: bool = False
    """Do without the locks, on storage without conditional writes."""

    def perform(self) -> dict[str, Any]:
        """Erase, prove it, and return what was done, without ids."""
        return erase(
            Request(
                creators=(*self.creator, *self._listed()),
                tables=tuple(TableUri.parse(uri) for uri in self.table),
                embeddings=tuple(map(storage.absolute, self.embeddings)),
                evaluations=tuple(map(storage.absolute, self.evaluations)),
                key=erased.read_key(self.key_file),
                single_writer=self.single_writer,
            )
        )

    def run(self) -> None:
        """Erase and write."""
        done = self.perform()
        lines = [
            f"{folder}: {', '.join(f'{n:,} {what}' for what, n in found.items())} erased"
            for folder, found in done["embeddings"].items()
        ]
        lines += [f"{folder}: {what}" for folder, what in done["evaluations"].items()]
        for uri, found in done["tables"].items():
            dropped = ", ".join(map(str, found["dropped_versions"])) or "none"
            lines.append(
                f"{uri}: {found['rows']:,} rows erased; live is version"
                f" {found['live_version'] or 'none'}; versions dropped: {dropped}"
            )
        if not done["was_somewhere"]:
            lines.append("nobody of that name was anywhere; they are kept out all the same")
        lines.append(f"proven: {done['files_read_back']:,} files were read back")
        self._write(done, "\n".join(lines) + "\n")

    def _listed(self) -> list[str]:
        if not self.creators_file:
            return []
        try:
            text = storage.read_bytes(self.creators_file).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--creators-file {self.creators_file}: {error}") from error
        return [line for line in text.splitlines() if line]


SUBCOMMANDS: dict[str, type[Versions | Promote | Rollback | Cleanup | Erase]] = {
    "versions": Versions,
    "promote": Promote,
    "rollback": Rollback,
    "cleanup": Cleanup,
    "erase": Erase,
}


def _moved(done: dict[str, Any]) -> str:
    before = done["from_version"] or "none"
    return f"live is version {done['to_version']} with {done['rows']:,} creators; it was {before}\n"


def parse_age(text: str) -> timedelta:
    """Return an age such as `30d`, `12h`, `2w` or `0d`.

    Raises:
        InputError: It is none.
    """
    if not (match := _AGE.fullmatch(text.strip())):
        raise InputError(f"--older-than {text!r}: expected a number and m, h, d or w, such as 30d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _as_text(found: list[dict[str, Any]]) -> str:
    lines = [f"{'version':>7}  {'created':<25} {'rows':>10}  {'state':<10} {'run':<14} tags"]
    for one in found:
        state = "live" if one["live"] else "published" if one["published"] else "unchecked"
        if one["run_id"] is None:
            state = "not ours"
        text = (
            f"{one['version']:>7}  {one['created_at']:<25} {one['rows']:>10,}  {state:<10}"
            f" {(one['run_id'] or '-'):<14} {', '.join(one['tags'])}"
        )
        lines.append(command.printable(text.rstrip()))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the command line and do what it says."""
    commands = (
        Annotated[chosen, tyro.conf.subcommand(name)] for name, chosen in SUBCOMMANDS.items()
    )
    request: Any = tyro.cli(
        functools.reduce(operator.or_, commands),  # type: ignore[arg-type]
        prog="python -m motif.cli_maintenance",
    )
    with command.exit_on_refusal():
        command.log_to_stderr()
        request.run()


if __name__ == "__main__":
    main()
