"""The CREATORS table as its readers see it: plain LanceDB, no Ray, no torch."""

from motif.table.creator_table import CreatorTable
from motif.table.layout import LIVE, TableUri

__all__ = ["LIVE", "CreatorTable", "TableUri"]
