"""What differs between one worker and many; the only home of torch.distributed.

`Workers` is the communication, a `Learner` is a network with its optimizer and its gradient reduction.
"""

from ialcms.engine.learner import Learner
from ialcms.engine.workers import Workers

__all__ = ["Learner", "Workers"]
