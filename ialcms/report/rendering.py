"""The templates of the pages: everything that is put into them is escaped, unless a template made it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

import jinja2
from markupsafe import Markup

from ialcms.report.figures import clock_time, decibels, readable

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("ialcms.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {"clock_time": clock_time, "decibels": decibels, "readable": readable}


def template(name: str) -> jinja2.Template:
    return _ENVIRONMENT.get_template(name)


def with_hashes(style: Sequence[str], script: Sequence[str]) -> dict[str, str]:
    """Our style sheets and scripts by their file names, each joined to one, as the templates take them.

    The hashes let exactly these in through the page's own policy, and no others.
    """
    joined_style, joined_script = ("\n".join(map(_source_text, names)) for names in (style, script))
    return {
        "style": Markup(joined_style),
        "style_hash": _content_hash(joined_style),
        "script": Markup(joined_script),
        "script_hash": _content_hash(joined_script),
    }


def encode(text: str) -> bytes:
    """A page as it is written; names from file systems may be no UTF-8."""
    return text.encode(errors="backslashreplace")


def _source_text(name: str) -> str:
    assert _ENVIRONMENT.loader is not None
    return _ENVIRONMENT.loader.get_source(_ENVIRONMENT, name)[0]


def _content_hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
