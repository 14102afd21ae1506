"""``python -m outrider_cli`` is ``outrider``."""

import sys

from outrider_cli import main

if __name__ == "__main__":
    sys.exit(main.main())
