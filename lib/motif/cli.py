"""`motif`: queries of the CREATORS table, for people and for programs."""

import io
import json
import os
import sys
from dataclasses import dataclass
from typing import Annotated

import pyarrow as pa
import tyro

from motif import command
from motif.command import printable
from motif.table import CreatorTable


@dataclass(frozen=True, kw_only=True)
class _Query:
    """What every query takes."""

    table: str
    """DATABASE/TABLE.lance, local or s3://."""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10
    """How many."""
    where: str = ""
    """Filter over the table's columns, in Lance SQL, such as "image_count >= 12"."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class Lookalikes(_Query):
    """Creators whose theme is nearest to one creator's."""

    creator: str
    """creator_id of the seed."""

    def query(self) -> pa.Table:
        """Run it."""
        table = CreatorTable.open(self.table)
        return table.lookalikes(self.creator, k=self.k, where=self.where or None)


@dataclass(frozen=True, kw_only=True)
class Rank(_Query):
    """Creators with the highest OAAR score for an adjective."""

    adjective: str
    """One that was published."""

    def query(self) -> pa.Table:
        """Run it."""
        table = CreatorTable.open(self.table)
        return table.rank(self.adjective, k=self.k, where=self.where or None)


def main() -> None:
    """Parse, query, print."""
    request = tyro.cli(
        Annotated[Lookalikes, tyro.conf.subcommand("lookalikes")]  # type: ignore[arg-type]
        | Annotated[Rank, tyro.conf.subcommand("rank")],
        prog="motif",
        description="Query the version of a CREATORS table that is live.",
    )
    command.log_to_stderr()
    with command.exit_on_refusal():
        rows = request.query()
        if request.json:
            # In ASCII, so that no id can move the cursor or meet a terminal that cannot show it.
            _write(json.dumps(rows.to_pylist(), indent=2) + "\n")
        else:
            _write(as_text(rows))


def _write(text: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has enough, as `head` has. Without this, Python would complain as it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def as_text(rows: pa.Table) -> str:
    """Return rows of a query as a small table for a person."""
    if not rows.num_rows:
        return "no creators\n"
    score = rows.column_names[1]
    lines = [f"{'':>3}  {'creator':<32} {score:>10} {'images':>7} {'consistency':>11}"]
    for rank, row in enumerate(rows.to_pylist(), 1):
        consistency = row["theme_consistency"]
        shown = "-" if consistency is None else f"{consistency:.2f}"
        lines.append(
            f"{rank:>3}  {printable(row['creator_id']):<32} {row[score]:>10.4f}"
            f" {row['image_count']:>7} {shown:>11}"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
