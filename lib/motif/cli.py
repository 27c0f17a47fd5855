"""`motif`: queries of tables; `cli_maintenance` keeps it in order, `cli_status` watches."""

import functools
import operator
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import pyarrow as pa
import tyro

from motif import cli_maintenance, cli_output, cli_status, command
from motif.errors import InputError
from motif.table import LIVE, CreatorTable
from motif.table.recommendations import RecommendationTable

Repeated = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
"""A flag that may be given several times, with one value each."""


class Command(Protocol):
    """A subcommand: a dataclass of its flags that knows what to do."""

    def run(self) -> None:
        """Do it, and write what there is to tell."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """What every query takes."""

    table: str
    """DATABASE/TABLE.lance, local or s3://."""
    version: str = LIVE
    """A tag, or a version's number."""
    columns: str = ""
    """Columns of the table to show, separated by commas, such as "country,followers"."""
    json: bool = False
    """Print JSON."""
    arrow: str = ""
    """Write an Arrow IPC stream to this file; `-` is standard output."""

    def _open(self, **encoding: str) -> CreatorTable:
        if self.json and self.arrow:
            raise InputError("--json and --arrow: an answer is written in one form")
        number = self.version.isascii() and self.version.isdigit()
        return CreatorTable.open(
            self.table, int(self.version) if number else self.version, **encoding
        )

    def _columns(self) -> tuple[str, ...]:
        return tuple(command.split_names(self.columns))


@dataclass(frozen=True, kw_only=True)
class _Query(_Reading):
    """What every query that orders creators takes."""

    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10
    """How many."""
    where: Repeated = ()
    """Filter: "image_count>=12", "country=DE", "category in fashion,travel". All must hold."""
    where_sql: str = ""
    """Filter in Lance's SQL, never from anybody you do not trust."""
    adjectives: str = ""
    """Published adjectives whose scores to show, separated by commas."""
    encoder: str = ""
    """For texts and images: where the encoder is now; by default where the table says."""

    def _asked(self) -> dict[str, Any]:
        return {
            "k": self.k,
            "where": self.where,
            "where_sql": self.where_sql,
            "adjectives": command.split_names(self.adjectives),
            "columns": self._columns(),
        }

    def _write(self, rows: pa.Table) -> None:
        show = functools.partial(cli_output.as_text, asked=self._columns())
        cli_output.write(rows, as_json=self.json, arrow=self.arrow, as_text=show)


@dataclass(frozen=True, kw_only=True)
class Lookalikes(_Query):
    """Creators whose theme is nearest to that of some creators, or of some images."""

    creator: Repeated = ()
    """creator_id of the seed; given several times, the middle of them."""
    image: Repeated = ()
    """In its place an image (file or s3:// URI); given several times, the middle of them."""
    model: str = ""
    """For --image: the SAME checkpoint, by default the one that the table names."""
    exclude_self: bool = True
    """Leave the seed's creators out."""
    correct_hubs: bool = True
    """Order by `score`: less for creators who are near to everybody."""
    exact: bool = False
    """Compare with every creator, even where there is a vector index."""

    def run(self) -> None:
        """Query and write."""
        table = self._open(encoder=self.encoder, model=self.model)
        if self.creator and self.image:
            raise InputError("--creator and --image: a seed is one or the other")
        if not self.creator and not self.image:
            raise InputError("name the seed with --creator or --image")
        self._write(
            table.lookalikes(
                self.creator or None,
                images=self.image,
                exclude_self=self.exclude_self,
                correct_hubs=self.correct_hubs,
                exact=self.exact,
                **self._asked(),
            )
        )


@dataclass(frozen=True, kw_only=True)
class Rank(_Query):
    """Creators with the highest OAAR score for an adjective."""

    adjective: str
    """One that was published, else any that the table's text encoder knows."""

    def run(self) -> None:
        """Query and write."""
        table = self._open(encoder=self.encoder)
        self._write(table.rank(self.adjective, **self._asked()))


@dataclass(frozen=True, kw_only=True)
class Search(_Query):
    """Creators whose images are like a text, or whose theme is like that of an image."""

    text: str = ""
    """What the images show, such as "a photo of the sea at night"."""
    image: str = ""
    """In its place an image, a file or s3:// URI."""
    model: str = ""
    """For --image: the SAME checkpoint, by default the one that the table names."""
    exact: bool = False
    """Compare with every creator, even where there is a vector index."""

    def run(self) -> None:
        """Query and write."""
        table = self._open(encoder=self.encoder, model=self.model)
        self._write(
            table.search(self.text, image=self.image or None, exact=self.exact, **self._asked())
        )


@dataclass(frozen=True, kw_only=True)
class Get(_Reading):
    """All that the table holds of some creators."""

    creator: Repeated = ()
    """creator_id; may be given several times."""

    def run(self) -> None:
        """Read and write."""
        if not self.creator:
            raise InputError("name whom to get with --creator")
        rows = self._open().get(self.creator, columns=self._columns())
        cli_output.write(rows, as_json=self.json, arrow=self.arrow, as_text=cli_output.as_records)


@dataclass(frozen=True, kw_only=True)
class Recommend:
    """Creators without history whom jobs.recommend found for a brand."""

    table: str
    """DATABASE/TABLE.lance of recommendations, local or s3://."""
    brand: str
    """brand_id."""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10
    """How many, at most as many as the job wrote."""
    version: str = LIVE
    """A tag, or a version's number."""
    json: bool = False
    """Print JSON."""
    arrow: str = ""
    """Write an Arrow IPC stream to this file; `-` is standard output."""

    def run(self) -> None:
        """Read and write."""
        if self.json and self.arrow:
            raise InputError("--json and --arrow: an answer is written in one form")
        number = self.version.isascii() and self.version.isdigit()
        table = RecommendationTable.open(self.table, int(self.version) if number else self.version)
        rows = table.for_brand(self.brand, self.k)
        cli_output.write(rows, as_json=self.json, arrow=self.arrow, as_text=cli_output.as_text)


SUBCOMMANDS: dict[str, type[Command]] = {
    "lookalikes": Lookalikes,
    "rank": Rank,
    "search": Search,
    "get": Get,
    "recommend": Recommend,
    "status": cli_status.Status,
    **cli_maintenance.SUBCOMMANDS,
}


def main() -> None:
    """Parse the command line and do what it says."""
    commands = (
        Annotated[chosen, tyro.conf.subcommand(name)] for name, chosen in SUBCOMMANDS.items()
    )
    request: Command = tyro.cli(
        functools.reduce(operator.or_, commands),  # type: ignore[arg-type]
        prog="motif",
        description="Query a table, its version that is live; watch it; keep it in order.",
    )
    with command.exit_on_refusal():
        command.log_to_stderr()
        request.run()


if __name__ == "__main__":
    main()
