"""From text to a TOML document, or to the words of somebody who edits the file."""

import re
import tomllib
from typing import Any

from smtpproxy.config.faults import ConfigError

_TOKENS = re.compile(
    r'#[^\n]*|"""(?:\\.|[^\\])*?"""|"(?!"")(?:\\[^\n]|[^"\\\n])*"'
    r"|'''.*?'''|'(?!'')[^'\n]*'|(?P<open>\"\"\"|'''|[\"'])",
    re.DOTALL,
)
"""What may hold a quotation mark: comments, text of each kind, and a text that does not end."""

_PLAINER = {
    "Cannot overwrite a value": "this is set already, further up",
    "Unclosed array": "the list before this has no closing bracket ]",
    "Expected '=' after a key in a key/value pair": "expected = between key and value",
}


def read_toml(text: str, filename: str) -> dict[str, Any]:
    """Read TOML. Raises ConfigError with the one fault that it stops at."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError([f"{filename}: not TOML that can be read: nested too deeply"]) from None
    except tomllib.TOMLDecodeError as error:
        message = str(error)
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
        what = f"the text that begins here has no closing {mark}"
    what = _PLAINER.get(what, what) + _hint(what, lines[line - 1 : line], column)
    what = re.sub(r"\('(.*?)',?\)", lambda m: m[1].replace("', '", "."), what)  # Python's tuples
    what = what[:1].lower() + what[1:]
    raise ConfigError([f"{filename}: line {line}, column {column}: not TOML: {what}"])


def _unclosed_quote(text: str) -> tuple[int, int, str] | None:
    """Return line and column of the first quotation mark that nothing closes, and which it is."""
    for token in _TOKENS.finditer(text):
        if token["open"]:
            before = text[: token.start()]
            column = len(before) - (before.rfind("\n") + 1) + 1
            return before.count("\n") + 1, column, token["open"]
    return None


def _hint(what: str, line: list[str], column: int) -> str:
    if what != "Invalid value":
        return ""
    word = re.match(r"true|false|on\b|off\b|yes|no\b", "".join(line)[column - 1 :], re.IGNORECASE)
    return "; write true or false" if word else "; text goes in double quotes"
