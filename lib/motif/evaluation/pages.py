"""Templates of reports: whatever users wrote is escaped, and a page holds all that it shows."""

from importlib.resources import files

import jinja2


def environment() -> jinja2.Environment:
    """Return what knows the templates of this package."""
    return jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_read),
    )


def _read(name: str) -> str:
    return files("motif.evaluation").joinpath(name).read_text("utf-8")
