"""The checked models' complaints, in the words of somebody who edits the file."""

from datetime import date, time
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from smtpproxy.config.faults import Fault, Location
from smtpproxy.config.values import shown

_REPLACED = {
    "trusted": "is three keys now: proxy_trusted (hosts that may send a PROXY header),"
    " xclient_trusted (hosts that may send XCLIENT and XFORWARD) and login_trusted (hosts among"
    " these whose LOGIN counts as AUTH)",
}
"""Keys of earlier versions, by what has to be written instead."""

_WANTED = {
    "string_type": "text in double quotes",
    "int_type": "a whole number, without quotes",
    "bool_type": "true or false, without quotes",
    "list_type": "a list in brackets",
    "dict_type": "a table",
    "model_type": "a table",
}


def faults(error: ValidationError, root: type[BaseModel]) -> list[Fault]:
    """Return what `root` found wrong, as faults."""
    return [Fault(e["loc"], _text(e, root)) for e in error.errors(include_url=False)]


def _text(error: ErrorDetails, root: type[BaseModel]) -> str:
    kind, value, location = error["type"], error["input"], error["loc"]
    context = error.get("ctx", {})
    match kind:
        case "extra_forbidden":
            return _unknown(location, root)
        case "missing":
            return "missing; " + _example(location, root)
        case "too_short":
            return "needs at least one; " + _example(location, root)
        case "value_error":
            return str(context["error"])
        case "literal_error":
            return f"{shown(value)} is not one of {_choices(location, root)}"
        case "greater_than_equal":
            return f"{shown(value)} is too small: at least {context['ge']}"
        case "less_than_equal":
            return f"{shown(value)} is too large: at most {context['le']}"
        case "list_type" if _is_table_list(location, root) and isinstance(value, dict):
            return f"must be a list of tables: write [[{location[-1]}]], not [{location[-1]}]"
        case "model_type" if isinstance(value, list):
            return f"there is one only: write [{location[-1]}], not [[{location[-1]}]]"
        case _ if kind in _WANTED:
            return f"must be {_WANTED[kind]}, not {_toml_type(value)}"
    return error["msg"]


def _unknown(location: Location, root: type[BaseModel]) -> str:
    table, key = _model(location[:-1], root), str(location[-1])
    known = [field.alias or name for name, field in table.model_fields.items()]
    if key in _REPLACED and "listener" in location:
        return _REPLACED[key]
    near = get_close_matches(key, known, n=1) or get_close_matches(key.rstrip("s"), known, n=1)
    if near:
        return f"unknown key; did you mean {near[0]}?"
    return f"unknown key; what can stand here: {', '.join(known)}"


def _example(location: Location, root: type[BaseModel]) -> str:
    """What to write for a key that must be there."""
    table, key = _model(location[:-1], root), str(location[-1])
    for name, field in table.model_fields.items():
        if (field.alias or name) == key and field.examples:
            return f"for example {key} = {shown(field.examples[0])}"
    child = _model(location, root)
    header = f"[[{key}]]" if _is_table_list(location, root) else f"[{key}]"
    keys = (
        f"{field.alias or name} = {shown(field.examples[0])}"
        for name, field in child.model_fields.items()
        if field.examples
    )
    return f"for example {header} with {', '.join(keys)}"


def _choices(location: Location, root: type[BaseModel]) -> str:
    annotation = _field(location, root)
    options = get_args(annotation)
    while options and not all(isinstance(option, str) for option in options):
        options = get_args(options[0])  # Literal[…] | None
    return ", ".join(shown(option) for option in options)


def _model(location: Location, root: type[BaseModel]) -> type[BaseModel]:
    """The model of the table at `location`."""
    found: Any = _field(location, root)
    return found if isinstance(found, type) and issubclass(found, BaseModel) else root


def _field(location: Location, root: type[BaseModel]) -> Any:
    """The annotation at `location`, through lists and `| None`."""
    found: Any = root
    for step in location:
        if isinstance(step, int):
            continue
        for name, field in found.model_fields.items():
            if step in (name, field.alias):
                found = field.annotation
                break
        while get_origin(found) is list or type(None) in get_args(found):
            found = get_args(found)[0]
    return found


def _is_table_list(location: Location, root: type[BaseModel]) -> bool:
    field = root.model_fields.get(str(location[0]))
    return len(location) == 1 and field is not None and get_origin(field.annotation) is list


def _toml_type(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {shown(value)}"
        case list():
            return "a list"
        case dict():
            return "a table"
        case date() | time():
            return "a date or time"
    return type(value).__name__
