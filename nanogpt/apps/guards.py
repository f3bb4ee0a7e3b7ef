"""What a local page owes the browser beside it: its own names alone, no frames, short questions, errors as JSON."""

from __future__ import annotations

import socket
from typing import Any

from flask import Flask, Request, Response, jsonify
from werkzeug.exceptions import BadRequest, HTTPException

from nanogpt.errors import require

MOST_BYTES = 200_000
"""Of a question."""
HOSTS = ["127.0.0.1", "localhost"]
"""What the page may be called by: under another name that leads here a stranger's page could ask in a user's place."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline'; img-src data:; frame-ancestors 'none'; "
                               "base-uri 'none'; form-action 'none'; object-src 'none'",
    "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store"}


def guard(app: Flask) -> None:
    """Have an app answer to HOSTS alone, take no long questions, forbid frames, and tell every error as JSON."""
    app.config.update(TRUSTED_HOSTS=HOSTS, MAX_CONTENT_LENGTH=MOST_BYTES)
    app.after_request(with_headers)
    app.register_error_handler(HTTPException, as_json)


def with_headers(response: Response) -> Response:
    response.headers.update(HEADERS)
    return response


def as_json(error: HTTPException) -> tuple[Response, int]:
    return jsonify(error=error.description), error.code or 500


def question_of(request: Request) -> dict[str, Any]:
    """Read a question. BadRequest where it is no JSON, UserError where it is no object."""
    try:
        question = request.get_json()
    except RecursionError:
        raise BadRequest("question must be JSON that is not nested so deeply") from None
    require(isinstance(question, dict), "question must be a JSON object", question)
    return dict(question)


def client_waits(connection: socket.socket | None) -> bool:
    """Tell whether the client behind a connection is still there; where there is no connection, somebody waits."""
    try:
        return connection is None or connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:     # it is there, and silent
        return True
    except OSError:
        return False
