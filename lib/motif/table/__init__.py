"""The CREATORS table as its readers see it: plain LanceDB; no Ray, and torch only where encoded."""

from motif.table.creator_table import CreatorTable
from motif.table.layout import LIVE, TableUri

__all__ = ["LIVE", "CreatorTable", "TableUri"]
