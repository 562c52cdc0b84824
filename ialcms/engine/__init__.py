"""What differs between one rank and many; the only home of torch.distributed.

`Ranks` is the communication, a `Learner` is a network with its optimizer and its gradient reduction; `build_learner`
makes the one of the configured engine.
"""

from ialcms.engine.agreement import check_agreement, check_same_fields
from ialcms.engine.choice import build_learner, check_engine
from ialcms.engine.exchange import Arriving, all_to_all, start_exchange_rows, start_reduce_scatter
from ialcms.engine.late_flags import LateFlags
from ialcms.engine.learner import Learner
from ialcms.engine.nonfinite import Health, SkippedSteps, Watched
from ialcms.engine.ranks import Ranks
from ialcms.engine.readback import Readback, to_device
from ialcms.engine.shared_state import state_from_first
from ialcms.engine.traffic import Traffic
from ialcms.engine.waiting import waited_s
from ialcms.engine.watchdog import Watchdog

__all__ = [
    "Arriving",
    "Health",
    "LateFlags",
    "Learner",
    "Ranks",
    "Readback",
    "SkippedSteps",
    "Traffic",
    "Watchdog",
    "Watched",
    "all_to_all",
    "build_learner",
    "check_agreement",
    "check_engine",
    "check_same_fields",
    "start_exchange_rows",
    "start_reduce_scatter",
    "state_from_first",
    "to_device",
    "waited_s",
]
