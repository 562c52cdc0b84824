"""Errors that end a command with one line, beside the ValueErrors of bad input."""

from __future__ import annotations


class SharedRefusal(ValueError):
    """Raised on all ranks for the same reason: rank 0 reports it, the others end silently."""


class LostProcess(RuntimeError):
    """A process that this one had started is gone: most likely the machine has run out of memory."""
