"""Ends that are told in one line, beside the ValueErrors of bad input."""

from __future__ import annotations


class SharedRefusal(ValueError):
    """Raised on all ranks for the same reason: the first one tells it, the others end without a word."""


class LostProcess(RuntimeError):
    """A process that this one had started is gone: most likely the machine has run out of memory."""
