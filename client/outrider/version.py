"""The version of every part: they are built, tested and shipped together."""

from typing import Final

__version__: Final = "0.1.0"
