"""The API's description (OpenAPI 3.1): /v1/openapi.json, and what /v1/docs shows."""

from typing import Any

from smtpproxy.policy.model import Origin
from smtpproxy.web import api_changes, api_check

Json = dict[str, Any]

_TIME: Json = {"type": "string", "format": "date-time"}
_SCOPE: Json = {
    "type": "string",
    "pattern": "^(all|marketing|purpose:.+)$",
    "description": "What is not to be sent: all, marketing, or purpose:NAME.",
}
_ORIGIN: Json = {"type": "string", "enum": [str(origin) for origin in Origin]}
_DOMAIN: Json = {
    "type": "string",
    "description": "Where it holds for everybody there: @example.com, or *.example.com.",
}
_READ_AS: Json = {
    "type": "string",
    "description": "The address that it is of, where a mail server may take the one asked for it.",
}
_ERRORS = {
    "400": "The request is not as described here; `message` says what is wrong.",
    "401": "There is no token, or no known one.",
    "403": "The token lacks the right.",
    "429": "The token asks too often; `Retry-After` says when to ask again.",
    "503": "The store does not answer now; ask again.",
}


def document(version: str) -> Json:
    """Return the whole description, for this version of the product."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "smtpproxy",
            "version": version,
            "description": "Who must not be mailed any more, for other senders of the same"
            " company. docs/propagation.md tells how to use it.",
        },
        "paths": {
            "/v1/suppressions/changes": {"get": _changes()},
            "/v1/suppressions/check": {"post": _check()},
        },
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Made by `smtpproxy token`, named in a `[[token]]` table.",
                }
            },
            "schemas": {
                "Change": _object(
                    seq={"type": "integer", "description": "Grows; gaps mean nothing."},
                    at={**_TIME, "description": "When it was written to the log."},
                    action={
                        "type": "string",
                        "enum": ["added", "moved", "lifted"],
                        "description": "`moved`: asked for again, later.",
                    },
                    key={
                        "type": "string",
                        "description": "The key text of exports: who shares the key file makes"
                        " the same of an address with `smtpproxy suppress key`.",
                    },
                    scope=_SCOPE,
                    origin=_ORIGIN,
                    since=_TIME,
                ),
                "Changes": _object(
                    changes={"type": "array", "items": _ref("Change")},
                    next={"type": "integer", "description": "What to ask `since` next."},
                    more={"type": "boolean", "description": "Whether there is more already."},
                ),
                "Result": _object(
                    address={"type": "string", "description": "As it was given."},
                    suppressed={
                        "type": ["boolean", "null"],
                        "description": "null: it is not a mail address (`error`).",
                    },
                    since={"type": ["string", "null"], "format": "date-time"},
                    suppressions={
                        "type": "array",
                        "items": _object(
                            {"domain": _DOMAIN, "read_as": _READ_AS},
                            scope=_SCOPE,
                            origin=_ORIGIN,
                            since=_TIME,
                        ),
                    },
                ),
                "Error": _object(
                    error={"type": "string", "description": "A word for programs."},
                    message={"type": "string", "description": "A sentence for people."},
                ),
            },
        },
    }


def _changes() -> Json:
    limit = {
        "type": "integer",
        "minimum": 1,
        "maximum": api_changes.MOST,
        "default": api_changes.DEFAULT_LIMIT,
    }
    since = {"type": "integer", "minimum": 0, "default": 0}
    wait = {"type": "integer", "minimum": 0, "maximum": api_changes.LONGEST_WAIT, "default": 0}
    return {
        "summary": "What changed since, in order",
        "description": "Asks for the right `changes`. Begin with an export and with the `next`"
        " of an answer from before it; then always ask since the last `next`.",
        "operationId": "changes",
        "security": [{"token": []}],
        "parameters": [
            _parameter("since", since, "A `seq` or `next`."),
            _parameter("limit", limit, "How many at most."),
            _parameter("wait", wait, "Seconds to wait for a change when there is none."),
        ],
        "responses": {
            "200": _answer("Changes, perhaps none.", "Changes"),
            "410": _answer(
                "The log does not reach back so far, or it is another one. Begin anew: keep"
                " `next`, load an export made after this answer, ask since `next`.",
                "Error",
            ),
            **{status: _answer(text, "Error") for status, text in _ERRORS.items()},
        },
    }


def _check() -> Json:
    addresses = {"type": "array", "items": {"type": "string"}, "maxItems": api_check.MOST}
    request = _object(
        addresses=addresses,
        scope={**_SCOPE, "description": "That of the mailing. Without it, every suppression."},
    )
    request["required"] = ["addresses"]
    request["additionalProperties"] = False
    results = _object(results={"type": "array", "items": _ref("Result")})
    return {
        "summary": "Which addresses are suppressed, and since when",
        "description": "Asks for the right `check`. Nothing of the request is kept.",
        "operationId": "check",
        "security": [{"token": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {
            "200": {
                "description": "A result for each address, in the order of the request.",
                "content": {"application/json": {"schema": results}},
            },
            "413": _answer("The request is too large.", "Error"),
            **{status: _answer(text, "Error") for status, text in _ERRORS.items()},
        },
    }


def _object(optional: Json | None = None, /, **properties: Json) -> Json:
    every = properties | (optional or {})
    return {"type": "object", "properties": every, "required": list(properties)}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _parameter(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _answer(description: str, schema: str) -> Json:
    return {
        "description": description,
        "content": {"application/json": {"schema": _ref(schema)}},
    }
