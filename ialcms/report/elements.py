"""HTML elements that escape what they are given: text can only become markup by way of `element`."""

from __future__ import annotations

import html
from collections.abc import Iterable

_VOID = frozenset({"img", "input"})  # elements that have no end tag


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def element(name: str, *children: str | None, **attributes: str | float | bool | None) -> Html:
    """`element("td", "a < b", class_="text", data_value=1)` -> <td class="text" data-value="1">a &lt; b</td>.

    Plain strings are escaped, `Html` is not. A True attribute stands without a value; None and False are left out,
    children that are None too.
    """
    start = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        assert not children, f"<{name}> has no content"
        return Html(f"<{name}{start}>")
    return Html(f"<{name}{start}>{join(children)}</{name}>")


def join(parts: Iterable[str | None]) -> Html:
    """Markup of several parts in a row, escaped where they are plain strings."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in parts if part is not None))
