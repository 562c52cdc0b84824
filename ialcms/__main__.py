"""`python -m ialcms` and `torchrun -m ialcms`."""

import sys

from ialcms.cli import main

if __name__ == "__main__":
    sys.exit(main())
