"""What several tests share.

configuration.py    a small configuration, batches of noise
processes.py        programs in processes of their own, torchrun
data.py             small shards for the data path
states.py           states of networks, tensor by tensor
evaluation.py       shards, network and run for evaluation and inference
media.py            sound and video files as people have them
pictures.py         picture files as people have them
"""

from tests.support.configuration import SMALL, make_batch, small_config, write_small_config
from tests.support.processes import ENVIRONMENT, ON_CPU, ROOT, ialcms, python, torchrun, wait_for

__all__ = [
    "ENVIRONMENT",
    "ON_CPU",
    "ROOT",
    "SMALL",
    "ialcms",
    "make_batch",
    "python",
    "small_config",
    "torchrun",
    "wait_for",
    "write_small_config",
]
