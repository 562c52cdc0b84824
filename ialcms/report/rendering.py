"""The templates of the pages: everything that is put into them is escaped, unless a template made it."""

from __future__ import annotations

import base64
import hashlib

import jinja2

from ialcms.report.figures import decibels, readable

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("ialcms.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {"decibels": decibels, "readable": readable}
_ENVIRONMENT.globals["differences"] = frozenset({"SDRi", "SIRi"})  # scores that have a sign always


def template(name: str) -> jinja2.Template:
    return _ENVIRONMENT.get_template(name)


def source_text(name: str) -> str:
    """A style sheet or script of ours as it stands."""
    assert _ENVIRONMENT.loader is not None
    return _ENVIRONMENT.loader.get_source(_ENVIRONMENT, name)[0]


def content_hash(text: str) -> str:
    """The digest by which the page's own policy lets exactly this style or script in, and no other."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
