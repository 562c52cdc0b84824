"""`ialcms`, but rank 1 falls asleep before its third batch."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from ialcms.cli import main
from ialcms.training import trainer

train_batches = trainer.train_batches


def fall_asleep(*args: Any, **kwargs: Any) -> Iterator[Any]:
    for number, batch in enumerate(train_batches(*args, **kwargs)):
        if number == 2 and os.environ["RANK"] == "1":
            time.sleep(600)
        yield batch


if __name__ == "__main__":
    trainer.train_batches = fall_asleep  # type: ignore[assignment]
    sys.exit(main())
