"""`python -m ialcms`, `torchrun -m ialcms` and the command `ialcms`."""

from ialcms.cli import main
from ialcms.launched import end_process


def run() -> None:
    end_process(main())


if __name__ == "__main__":
    run()
