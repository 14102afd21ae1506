"""Made-up answers of a controller, and a world of real processes."""

from tests.dashboards.answers import answers
from tests.dashboards.pages import page
from tests.end_to_end.world import world

__all__ = ["answers", "page", "world"]
