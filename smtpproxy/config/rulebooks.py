"""Where rulebooks come from: package data (`fr`), or a file of one's own."""

from importlib import resources
from pathlib import Path

from smtpproxy.config.values import shown
from smtpproxy.policy import rulebooks as package
from smtpproxy.policy.model import Rulebook
from smtpproxy.policy.rulebooks import RulebookError, builtin_names, parse_rulebook


def read(reference: str) -> Rulebook:
    """Return the rulebook of a built-in name or of `/abs/path.toml`.

    Raises ValueError with what is wrong and what would be right.
    """
    if reference.startswith("/"):
        return _read_file(Path(reference))
    if reference not in builtin_names():
        raise ValueError(
            f"{shown(reference)} is not a rulebook: {', '.join(builtin_names())}, or the absolute"
            " path of a rulebook file"
        )
    return parse_rulebook(resources.files(package).joinpath(f"{reference}.toml").read_text("utf-8"))


def _read_file(path: Path) -> Rulebook:
    try:
        rulebook = parse_rulebook(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text") from error
    except RulebookError as error:
        raise ValueError(f"{path}: {error}") from error
    if rulebook.name in builtin_names():
        raise ValueError(f'{path}: name = "{rulebook.name}" is taken by a built-in rulebook')
    return rulebook
