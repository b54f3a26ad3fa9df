"""The API's description (OpenAPI 3.1), made from its operations, and a page for people."""

from collections.abc import Sequence
from typing import Any

import msgspec

from smtpproxy.locale import REFERENCE
from smtpproxy.locale.pages import environment
from smtpproxy.web.api.operation import Operation
from smtpproxy.web.api.problems import KINDS, MEDIA_TYPE, Gone, Problem

Json = dict[str, Any]

EVERYWHERE = (
    *("gone", "header_twice", "token_missing", "token_unknown", "not_permitted"),
    *("too_many_requests", "store_unavailable", "target_too_long", "header_too_large"),
)
"""The problems of every operation."""


def _header(name: str, description: str, **schema: object) -> Json:
    return {name: {"description": description, "schema": schema or {"type": "string"}}}


_RETRY = _header("Retry-After", "Seconds to wait before the next try.", type="integer", minimum=1)
_RATE: Json = {
    **_header("RateLimit-Policy", "`q`: requests allowed to the token in `w` seconds."),
    **_header(
        "RateLimit",
        "`r`: requests allowed at once now; `t`: if none, seconds until one is.",
    ),
}
_CHALLENGE = _header("WWW-Authenticate", "Bearer (RFC 6750).")
_HEADERS: dict[int, Json] = {
    401: _CHALLENGE,
    403: _CHALLENGE,
    409: _RETRY,
    429: {**_RETRY, **_RATE},
    503: _RETRY,
}
_ETAG = _header("ETag", "The version of the answer.")
_LOCATION = _header("Location", "Where to ask for its progress.")
_FILE: Json = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_CONDITIONS = {
    "If-Match": "An ETag: change it only if this is still its version, otherwise 412.",
    "If-None-Match": "`*`: create it only if it does not exist, otherwise 412.",
}
_KEY = (
    "Up to 255 visible ASCII characters, new for each request. A repeated request with the same key"
    " within 24 hours gets the same answer, and nothing is done again."
)


def document(operations: Sequence[Operation], version: str) -> Json:
    """Return the whole description, for this version of the product."""
    records = {record for operation in operations for record in _records(operation)}
    ordered = sorted(records, key=lambda record: record.__name__)
    _, schemas = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    paths: Json = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "smtpproxy",
            "version": version,
            "description": "Who may be mailed and who may not, for other systems of the company."
            " docs/api.md describes how to use it.",
        },
        "servers": [{"url": ".."}],  # of this document: a proxy may serve it below another path
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Made by `smtpproxy token`, registered in a `[[token]]` table.",
                }
            },
            "schemas": schemas,
        },
    }


def page(document: Json) -> str:
    """Return the description for people: one page that loads nothing else."""
    template = environment(REFERENCE).get_template("api.html")
    return template.render(api=document, problems=KINDS)


def statuses(operation: Operation) -> dict[int, list[str]]:
    """Return the problems that an operation may answer with, by status."""
    found: dict[int, list[str]] = {}
    keyed = ("parameter_wrong", "in_progress", "key_reused") if operation.keyed else ()
    for word in dict.fromkeys((*EVERYWHERE, *keyed, *operation.problems)):
        found.setdefault(KINDS[word].status, []).append(word)
    return found


def _records(operation: Operation) -> list[type[msgspec.Struct]]:
    body = [] if operation.body is None else [operation.body]
    return [
        operation.answers,
        *body,
        Problem,
        *([Gone] if "changes_gone" in operation.problems else []),
    ]


def _operation(operation: Operation) -> Json:
    described: Json = {
        "summary": operation.summary,
        "description": f"Needs the right `{operation.right}`. {operation.description}",
        "operationId": operation.name,
        "security": [{"token": []}],
    }
    if parameters := _parameters(operation):
        described["parameters"] = parameters
    if operation.body is not None:
        content = _content(operation.body, "application/json")
        described["requestBody"] = {"required": True, "content": content}
    if operation.takes_file:
        described["requestBody"] = {"required": True, "content": _FILE}
    headers = {
        **_RATE,
        **(_ETAG if operation.versioned else {}),
        **(_LOCATION if operation.location else {}),
    }
    answers: Json = {
        str(operation.status): {
            "description": operation.answer,
            "headers": headers,
            "content": _content(operation.answers, "application/json"),
        }
    }
    for status, words in sorted(statuses(operation).items()):
        record = Gone if status == KINDS["changes_gone"].status else Problem
        answers[str(status)] = {
            "description": " ".join(f"{KINDS[word].title} (`{word}`)" for word in words),
            **({"headers": _HEADERS[status]} if status in _HEADERS else {}),
            "content": _content(record, MEDIA_TYPE),
        }
    described["responses"] = answers
    return described


def _parameters(operation: Operation) -> list[Json]:
    found: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1},
         "description": text}
        for name, text in operation.places.items()
    ]  # fmt: skip
    if operation.query is not None:
        kinds = msgspec.json.schema(operation.query)["$defs"]
        fields = _resolved(kinds[operation.query.__name__], kinds)
        found += [
            {
                "name": name,
                "in": "query",
                "description": schema.pop("description"),
                "schema": _without_null(schema),
                **({"required": True} if name in fields.get("required", ()) else {}),
            }
            for name, schema in fields["properties"].items()
        ]
    headers = [*(_CONDITIONS.items() if operation.conditional else ())]
    if operation.keyed:
        headers.append(("Idempotency-Key", _KEY))
    found += [
        {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
        for name, text in headers
    ]
    return found


def _without_null(schema: Json) -> Json:
    """Return the schema of a parameter of the query, which can be left out but never be null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    return kinds[0] if len(kinds) == 1 else schema


def _resolved(schema: Any, kinds: Json) -> Any:
    """Return a schema with its references to `kinds` resolved."""
    if isinstance(schema, list):
        return [_resolved(each, kinds) for each in schema]
    if not isinstance(schema, dict):
        return schema
    whole = {key: _resolved(each, kinds) for key, each in schema.items()}
    named = whole.pop("$ref", "").removeprefix("#/$defs/")
    return {**_resolved(kinds[named], kinds), **whole} if named else whole


def _content(record: type[msgspec.Struct], media_type: str) -> Json:
    return {media_type: {"schema": {"$ref": f"#/components/schemas/{record.__name__}"}}}
