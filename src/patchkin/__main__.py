"""`python -m patchkin`."""

import sys

from patchkin.cli import main

if __name__ == "__main__":
    sys.exit(main())
