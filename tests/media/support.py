"""Moved to tests.support.media; this name is for branches that are not merged yet."""

from tests.support.media import *  # noqa: F403
