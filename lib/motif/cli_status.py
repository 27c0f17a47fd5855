"""`motif status`: how an archive, an artefact or a table is doing."""

import json
from dataclasses import dataclass
from typing import Any

from motif import cli_output, command, status
from motif.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Status:
    """What ran, what is running, how fast, and what failed."""

    output: str
    """Archive of jobs.refresh, output of a job, or DATABASE/TABLE.lance; local or s3://."""
    json: bool = False
    """Print JSON."""
    prometheus: bool = False
    """Print metrics for node_exporter's textfile collector."""

    def perform(self) -> dict[str, Any]:
        """Look, and return what is there."""
        if self.json and self.prometheus:
            raise InputError("--json and --prometheus: an answer is written in one form")
        return status.status_of(self.output)

    def run(self) -> None:
        """Look and write."""
        found = self.perform()
        if self.json:
            cli_output.write_text(json.dumps(found, indent=2) + "\n")
        elif self.prometheus:
            cli_output.write_text(status.as_prometheus(found))
        else:
            lines = status.as_text(found).splitlines()
            cli_output.write_text("".join(f"{command.printable(line)}\n" for line in lines))
