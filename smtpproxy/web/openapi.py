"""The API's description, made from its operations: /v1/openapi.json, and what /v1/docs shows."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from smtpproxy.locale.pages import environment
from smtpproxy.locale.texts import REFERENCE
from smtpproxy.web.api_operations import Operation
from smtpproxy.web.tokens import Error

Json = dict[str, Any]

_ERRORS: Mapping[int, tuple[type[Error], str]] = {
    400: (Error, "The request is not as described here; `message` says what is wrong."),
    401: (Error, "There is no token, or no known one."),
    403: (Error, "The token lacks the right."),
    429: (Error, "The token asks too often; `Retry-After` says when to ask again."),
    503: (Error, "The store does not answer now; ask again."),
}


def document(operations: Sequence[Operation], version: str) -> Json:
    """Return the whole description (OpenAPI 3.1), for this version of the product."""
    records = {record for operation in operations for record in _records(operation)}
    ordered = sorted(records, key=lambda record: record.__name__)
    _, schemas = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "smtpproxy",
            "version": version,
            "description": "Who must not be mailed any more, for other senders of the same"
            " company. docs/propagation.md tells how to use it.",
        },
        "paths": {each.path: {each.method.lower(): _operation(each)} for each in operations},
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Made by `smtpproxy token`, named in a `[[token]]` table.",
                }
            },
            "schemas": schemas,
        },
    }


def page(document: Json) -> str:
    """Return the description for people: one page that loads nothing from elsewhere."""
    template = environment(REFERENCE).get_template("api.html")
    return template.render(api=document)


def _records(operation: Operation) -> list[type[msgspec.Struct]]:
    body = [] if operation.body is None else [operation.body]
    return [operation.answers, *body, *(record for record, _ in _errors(operation).values())]


def _errors(operation: Operation) -> Mapping[int, tuple[type[Error], str]]:
    return {**_ERRORS, **operation.errors}


def _operation(operation: Operation) -> Json:
    described: Json = {
        "summary": operation.summary,
        "description": operation.description,
        "operationId": operation.name,
        "security": [{"token": []}],
    }
    if operation.query is not None:
        described["parameters"] = _parameters(operation.query)
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _content(operation.body)}
    answers = {200: (operation.answers, operation.answer), **_errors(operation)}
    described["responses"] = {
        str(status): {"description": text, "content": _content(record)}
        for status, (record, text) in sorted(answers.items())
    }
    return described


def _parameters(query: type[msgspec.Struct]) -> list[Json]:
    fields = msgspec.json.schema(query)["$defs"][query.__name__]["properties"]
    return [
        {"name": name, "in": "query", "description": schema.pop("description"), "schema": schema}
        for name, schema in fields.items()
    ]


def _content(record: type[msgspec.Struct]) -> Json:
    schema = {"$ref": f"#/components/schemas/{record.__name__}"}
    return {"application/json": {"schema": schema}}
