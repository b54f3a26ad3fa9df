"""Where rulebooks come from: those that are built in, or a file of one's own."""

from pathlib import Path

from smtpproxy.config.values import shown
from smtpproxy.policy.model import Rulebook
from smtpproxy.policy.rulebooks import RulebookError, builtin, builtin_names, parse_rulebook


def read(reference: str) -> Rulebook:
    """Return the rulebook of a built-in name or of `/abs/path.toml`.

    Raises RulebookError with everything that is wrong, and what would be right.
    """
    if reference.startswith("/"):
        return _read_file(Path(reference))
    if reference not in builtin_names():
        raise RulebookError(
            [
                f"{shown(reference)} is not a rulebook: {', '.join(builtin_names())}, or the"
                " absolute path of a rulebook file"
            ]
        )
    return builtin(reference)


def _read_file(path: Path) -> Rulebook:
    try:
        rulebook = parse_rulebook(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise RulebookError([f"{path} cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise RulebookError([f"{path} is not UTF-8 text"]) from error
    except RulebookError as error:
        raise RulebookError([f"{path}: {fault}" for fault in error.faults]) from error
    if rulebook.name in builtin_names():
        raise RulebookError(
            [f'{path}: name: "{rulebook.name}" is taken by a built-in rulebook: choose another']
        )
    return rulebook
