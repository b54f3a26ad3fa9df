"""Reads TOML as people write it, or says where it is wrong, and formats its values for messages.

All TOML is read here: settings, rulebooks, mappings of CSV files, layouts of providers, languages.
"""

import re
import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from smtpproxy.terminal import printable

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_TOKENS = re.compile(
    r'#[^\n]*|"""(?:\\.|[^\\])*?"""|"(?!"")(?:\\[^\n]|[^"\\\n])*"'
    r"|'''.*?'''|'(?!'')[^'\n]*'|(?P<open>\"\"\"|'''|[\"'])",
    re.DOTALL,
)
"""Whatever may contain a quotation mark: comments, each kind of text, and unclosed text."""

_HEADER = re.compile(r"\s*\[{1,2}\s*([A-Za-z0-9_.-]+)\s*\]")
_PLAINER = {
    "Cannot overwrite a value": "this is already set, further up",
    "Unclosed array": "the list before this has no closing bracket ]",
    "Expected '=' after a key in a key/value pair": "expected = between key and value",
}


class TomlError(ValueError):
    """A file cannot be read as TOML; the text says where and why."""


def read_text(path: Path) -> str:
    """Return the text of a file. Raises TomlError if it cannot be read or is not UTF-8."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TomlError(f"cannot be read: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TomlError(f"line {line}: is not UTF-8; save it as UTF-8") from error


def read(path: Path) -> dict[str, Any]:
    """Return the document in a file. Raises TomlError."""
    return loads(read_text(path))


def loads(text: str) -> dict[str, Any]:
    """Return the document in a text. Raises TomlError with the first fault."""
    try:
        return _with_numbers_of_toml(tomllib.loads(text))
    except RecursionError:
        raise TomlError("TOML that is nested too deeply") from None
    except TomlError:
        raise
    except tomllib.TOMLDecodeError as error:
        message = str(error)
    except ValueError:  # of int(), which reads no more than this
        line = re.split(r"[0-9_]{4301}", text, maxsplit=1)[0].count("\n") + 1
        raise TomlError(f"line {line}: a whole number of more than 64 bits") from None
    found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", message, re.DOTALL)
    lines = text.splitlines() or [""]
    if found:
        what, line, column = found[1], int(found[2]), int(found[3])
    else:
        what = message.removesuffix(" (at end of document)")
        line, column = len(lines), len(lines[-1]) + 1
    quote = _unclosed_quote(text)
    if quote is not None and quote[:2] <= (line, column):
        line, column, mark = quote
        what = f"the text that starts here has no closing {mark}"
    here = "".join(lines[line - 1 : line])
    what = _PLAINER.get(what, what) + _hint(what, here, column)
    what = re.sub(r"\('(.*?)',?\)", lambda m: m[1].replace("', '", "."), what)  # Python's tuples
    what = what[:1].lower() + what[1:]
    raise TomlError(printable(f"line {line}, column {column}: not TOML: {what}"))


def _with_numbers_of_toml(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document. Raises TomlError for a whole number that is none of TOML's."""
    values = [*document.items()]
    while values:
        section, value = values.pop()
        if isinstance(value, dict | list):
            inside = value.values() if isinstance(value, dict) else value
            values += [(section, each) for each in inside]
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise TomlError(f"{printable(section)}: a whole number in it has more than 64 bits")
    return document


def _unclosed_quote(text: str) -> tuple[int, int, str] | None:
    """Return line, column and kind of the first unclosed quotation mark."""
    for token in _TOKENS.finditer(text):
        if token["open"]:
            before = text[: token.start()]
            column = len(before) - (before.rfind("\n") + 1) + 1
            return before.count("\n") + 1, column, token["open"]
    return None


def _hint(what: str, line: str, column: int) -> str:
    name = _HEADER.match(line)
    if name and what.startswith(("Cannot declare", "Cannot overwrite")):
        return f"; join the two, or write [[{name[1]}]] above each if there may be several"
    if what != "Invalid value":
        return ""
    word = re.match(r"true|false|on\b|off\b|yes|no\b", line[column - 1 :], re.IGNORECASE)
    return "; write true or false" if word else "; text goes in double quotes"


def shown(value: object) -> str:
    """Return a TOML value as it would be written in the file, cut to a readable length."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, str):
        text = f'"{printable(value, exact=True)}"'
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(map(shown, value)) + "]"
    else:
        text = str(value)
    return text if len(text) <= 80 else text[:79] + "…"


def named(key: str) -> str:
    """Return a key as written in a file: in quotes if TOML requires them."""
    return key if _BARE_KEY.fullmatch(key) else shown(key)


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return the end of a fault's text: the word probably meant, or all possible ones."""
    names = list(known)
    near = get_close_matches(word, names, n=1)
    return f"; did you mean {near[0]}?" if near else f": one of {', '.join(names)}"
