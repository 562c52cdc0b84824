"""A real browser for tests of pages: Debian's Chromium, headless, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser; skips the test where it is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is missing; install the dev extras")
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if executable is None:
        pytest.skip("Chromium is missing; tests/install_chromium.sh installs it")
    with sync_api.sync_playwright() as playwright:
        # The sandbox cannot start as root, which is what containers run as; the page is our own.
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


def collect_problems(page: Any) -> list[str]:
    """What goes wrong on a page from now on: errors, what its policy blocks, dialogs of injected scripts."""
    problems: list[str] = []
    page.on("console", lambda message: problems.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    return problems


# Contrast of every text with what is behind it, as WCAG computes it: [[ratio, class, text], ...]
CONTRASTS = """() => {
    const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const ground = (e) => { const c = parse(getComputedStyle(e).backgroundColor);
                            return c.length === 3 || c[3] === 1 ? c : ground(e.parentElement); };
    const seen = document.querySelectorAll("body *:not(.unseen, .skip, script, noscript, noscript *)");
    const shown = [...seen].filter((e) =>
        e.matches(".play") || [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
    return shown.map((e) => {
        const style = getComputedStyle(e);
        const [a, b] = [parse(e.matches("text") ? style.fill : style.color), ground(e)].map(luminance);
        return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.className.baseVal ?? e.className, e.textContent];
    });
}"""
