"""Every error that leaves the door, in one shape: what is wrong, and what would help.

ApiError   an answer that is an error: status, error and remedy
"""

from __future__ import annotations

import logging
from typing import Any, Final

import fastapi
from fastapi import exceptions, responses
from starlette import exceptions as starlette_exceptions

from outrider_controller import documents, ledger, tokens, turns

SHOWN_CHARS_MAX: Final = 200
PROBLEMS_SHOWN_MAX: Final = 5
SEE: Final = "GET /openapi.json lists every path with its parameters"

log = logging.getLogger(__name__)


class ApiError(Exception):
    """An answer that is an error. Further ``keys`` are added to its body."""

    def __init__(self, status: int, error: str, remedy: str, **keys: Any) -> None:
        super().__init__(error)
        self.status = status
        self.remedy = remedy
        self.keys = keys


def answer(status: int, error: str, remedy: str, **keys: Any) -> responses.JSONResponse:
    """The error as a response."""
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return responses.JSONResponse({"error": error, "remedy": remedy, **keys}, status, headers)


def install(app: fastapi.FastAPI) -> None:
    """Have ``app`` answer every failure in this shape."""
    app.add_exception_handler(ApiError, _api)
    app.add_exception_handler(documents.UnknownError, _unknown)
    app.add_exception_handler(tokens.TokenError, _token)
    app.add_exception_handler(ledger.LedgerError, _unwritten)
    app.add_exception_handler(turns.StoppedError, _unwritten)
    app.add_exception_handler(exceptions.RequestValidationError, _invalid)
    app.add_exception_handler(starlette_exceptions.HTTPException, _http)
    app.add_exception_handler(Exception, _unforeseen)


def _api(_: fastapi.Request, error: Exception) -> fastapi.Response:
    assert isinstance(error, ApiError)
    return answer(error.status, str(error), error.remedy, **error.keys)


def _unknown(_: fastapi.Request, error: Exception) -> fastapi.Response:
    return answer(404, str(error.args[0]), "GET /v1/jobs and GET /v1/nodes name what there is")


def _token(_: fastapi.Request, error: Exception) -> fastapi.Response:
    return answer(422, str(error), "give a node's name as its agent gives it with --node")


def _unwritten(_: fastapi.Request, error: Exception) -> fastapi.Response:
    remedy = "nothing of the request was done; once the controller can record again, send it again"
    return answer(503, str(error), remedy)


def _invalid(_: fastapi.Request, error: Exception) -> fastapi.Response:
    assert isinstance(error, exceptions.RequestValidationError)
    return answer(422, "; ".join(_problem(item) for item in error.errors()[:PROBLEMS_SHOWN_MAX]), SEE)


def _problem(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"][1:])
    return f"{where}: {item['msg']} (given: {str(item.get('input'))[:SHOWN_CHARS_MAX]})"


def _http(request: fastapi.Request, error: Exception) -> fastapi.Response:
    assert isinstance(error, starlette_exceptions.HTTPException)
    path = request.url.path[:SHOWN_CHARS_MAX]
    words = {404: f"there is nothing at {path}", 405: f"{request.method} is not possible at {path}"}
    told = answer(error.status_code, words.get(error.status_code, str(error.detail)), SEE)
    told.headers.update(error.headers or {})  # which methods are possible, where one is not
    return told


def _unforeseen(request: fastapi.Request, error: Exception) -> fastapi.Response:
    log.error("a request failed", extra={"path": request.url.path[:SHOWN_CHARS_MAX]}, exc_info=error)
    return answer(500, f"the controller failed at this: {type(error).__name__}", "its log has the traceback")
