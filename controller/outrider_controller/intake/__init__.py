"""The only door in: agents by WebSocket, people and programs by REST, one application.

In: a ``House`` (what the doors may ask of the controller). Out: an ASGI application whose every answer is JSON, whose
every error is ``{"error", "remedy"}``, and whose ``/openapi.json`` tells the truth about both.
"""

from __future__ import annotations

from typing import Final

import fastapi

from outrider import wire
from outrider_controller.intake import agents, bounds, doors, failures, people

TITLE: Final = "Outrider controller"
DESCRIPTION: Final = (
    f"Jobs, nodes, incidents and the ledger. Agents connect to /v1/agents/connect (protocol {wire.PROTOCOL})."
)
BODY_BYTES_MAX: Final = 1024 * 1024


def application(house: doors.House) -> fastapi.FastAPI:
    """The application that serves ``house``."""
    app = fastapi.FastAPI(
        title=TITLE,
        version=house.version(),
        description=DESCRIPTION,
        docs_url=None,  # the pages behind these would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.house = house
    app.include_router(people.open_router)
    app.include_router(people.router)
    app.add_api_websocket_route("/v1/agents/connect", agents.connect)
    failures.install(app)
    app.add_middleware(bounds.BodyBound, bytes_max=BODY_BYTES_MAX)
    return app
