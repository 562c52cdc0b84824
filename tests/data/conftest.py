from __future__ import annotations

import pytest

from ialcms.data.manifest import Manifest
from tests.support.data import write_shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """60 training clips of 5 instruments in 3 uneven shards."""
    return write_shards(tmp_path_factory.mktemp("shards"), [25, 5, 30])
