"""`python -m patchkin`, and the command `patchkin`."""

import sys


def main() -> int:
    """The command line of this process; Ctrl-C ends it from here on, whatever is imported."""
    try:
        from patchkin._interrupts import leave_at_once

        leave_at_once()
        from patchkin import cli
    except KeyboardInterrupt:  # before it was heard
        return 130
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
