"""/v1/docs: the API's description for people, one page that loads nothing from elsewhere."""

from collections.abc import Iterator
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c1c1c; background: #fff }
h2 { border-top: 1px solid #bbb; padding-top: 1rem }
code { background: #f0f0f0; padding: 0 .2em; overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0;
         border-bottom: 1px solid #ddd }
@media (prefers-color-scheme: dark) {
  body { color: #e6e6e6; background: #161616 } code { background: #2b2b2b }
}
"""


def page(document: dict[str, Any]) -> str:
    """Return the page of an OpenAPI description."""
    info = document["info"]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(info['title'])} API</h1>",
        f"<p>{_text(info['description'])} Version {escape(info['version'])}."
        ' For programs: <a href="/v1/openapi.json">openapi.json</a>.</p>',
        "<p>Every request needs <code>Authorization: Bearer TOKEN</code>. Errors are JSON with"
        " <code>error</code>, a word for programs, and <code>message</code>.</p>",
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts += _operation(path, method, operation)
    parts.append("<h2>Objects</h2>")
    for name, schema in document["components"]["schemas"].items():
        parts.append(f'<h3 id="{escape(name)}">{escape(name)}</h3>')
        parts += _table("field", schema["properties"])
    parts.append("</body></html>")
    return "\n".join(parts) + "\n"


def _operation(path: str, method: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
    yield f"<p>{_text(operation['summary'])}. {_text(operation['description'])}</p>"
    if operation.get("parameters"):
        rows = {p["name"]: {**p["schema"], **p} for p in operation["parameters"]}
        yield from _table("parameter", rows)
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        yield from _table("in the body", schema["properties"])
    yield "<table><tr><th>status</th><th>meaning</th></tr>"
    for status, answer in sorted(operation["responses"].items()):
        meaning = f"{_text(answer['description'])} {_kind(_schema(answer))}"
        yield f"<tr><td><code>{status}</code></td><td>{meaning}</td></tr>"
    yield "</table>"


def _table(head: str, properties: dict[str, Any]) -> Iterator[str]:
    yield f"<table><tr><th>{head}</th><th>is</th><th>meaning</th></tr>"
    for name, schema in properties.items():
        meaning = _text(schema.get("description", ""))
        yield (
            f"<tr><td><code>{escape(name)}</code></td>"
            f"<td>{_kind(schema)}</td><td>{meaning}</td></tr>"
        )
    yield "</table>"


def _schema(answer: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = answer["content"]["application/json"]["schema"]
    return schema


def _kind(schema: dict[str, Any]) -> str:
    """Say what a value is, in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{escape(name)}">{escape(name)}</a>'
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    if "enum" in schema:
        return ", ".join(f"<code>{escape(value)}</code>" for value in schema["enum"])
    if schema.get("type") == "object":
        fields = schema["properties"].items()
        return "; ".join(f"<code>{escape(name)}</code>: {_kind(value)}" for name, value in fields)
    if schema.get("format") == "date-time":
        return "time"
    kinds = schema.get("type", "")
    kind = " or ".join(kinds) if isinstance(kinds, list) else str(kinds)
    if "maximum" in schema:
        kind += f", {schema['minimum']} to {schema['maximum']}"
    if "default" in schema:
        kind += f", else {schema['default']}"
    return escape(kind)


def _text(text: str) -> str:
    """Escape a sentence; what stands in backquotes is code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))
