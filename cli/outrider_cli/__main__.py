"""``python -m outrider_cli`` is ``outrider``."""

import sys

from outrider_cli import main as entry

if __name__ == "__main__":
    sys.exit(entry.main())
