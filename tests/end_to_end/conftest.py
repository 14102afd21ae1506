"""The world in which a test's real processes live."""

from tests.end_to_end.world import world

__all__ = ["world"]
