"""The command ``probedistill``; ``python -m probedistill``, and through it ``torchrun -m probedistill``."""

import sys


def main() -> int:
    """Run the command line; return its exit code. Its imports take a moment, during which Ctrl-C may come."""
    try:
        from .cli import main as run
    except KeyboardInterrupt:
        print("probedistill: stopped", file=sys.stderr)
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
