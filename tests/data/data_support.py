"""Moved to tests.support.data; this name is for branches that are not merged yet."""

from tests.support.data import *  # noqa: F403
