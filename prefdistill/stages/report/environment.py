"""How a page's template is rendered: everything escaped, what a browser would hide or obey spelled out."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from prefdistill.stages.report import formats
from prefdistill.stages.report.examples import visible
from prefdistill.stages.report.marks import render_marker, render_swatch


def page_environment() -> Environment:
    """Return the environment of the templates of this package, with its filters for numbers."""
    environment = Environment(
        loader=PackageLoader("prefdistill.stages.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("percent", "percent_interval", "number", "signed", "seconds", "count", "measured", "usd", "whole")
    environment.filters |= {name: getattr(formats, name) for name in names}
    environment.filters |= {"swatch": render_swatch, "sign": render_marker}
    return environment


def _finalize(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
