"""Moved to tests.support.pictures; this name is for branches that are not merged yet."""

from tests.support.pictures import *  # noqa: F403
