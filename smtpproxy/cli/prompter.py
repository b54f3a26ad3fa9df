"""Answers to a command's questions: an option given, a person's reply, or an accepted proposal."""

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

import click

from smtpproxy.cli import fail, failing, valid_parameter
from smtpproxy.terminal import printable

T = TypeVar("T")
Read = Callable[[str], T]

NOTHING = "-"
"""The answer for "none"."""
NEEDED = "an answer is needed: there is no proposal to accept"
"""The answer to Enter alone, where there is no proposal."""


class Prompter:
    """Asks on a terminal; without one, collects which options are missing.

    `accept`: take every proposal without asking.
    """

    def __init__(self, *, on_terminal: bool, accept: bool) -> None:
        self.interactive = on_terminal and not accept
        self._accept = accept
        self._missing: list[str] = []

    def one(
        self,
        option: str,
        question: str,
        read: Read[T],
        given: str | None,
        proposal: str | None = None,
        *,
        optional: bool = False,
    ) -> T | None:
        """Return an answer as `read` gives it, None if there is none. Without a `question` nobody
        is asked.

        `read` raises ValueError that says what is wrong. A proposal it rejects is ignored.
        """
        if given is not None:
            return self._read(option, read, given, optional)
        proposal = _if_valid(read, proposal)
        if self.interactive and question:
            return self._prompt(question, read, proposal, optional)
        if proposal is not None and self._accept:
            return read(proposal)
        if not optional:
            self._missing.append(f"{option} ({proposal}?)" if proposal else option)
        return None

    def many(
        self,
        option: str,
        question: str,
        read: Read[T],
        given: Iterable[str],
        proposal: str | None = None,
        *,
        optional: bool = False,
        between: str = r"[\s,]+",
    ) -> tuple[T, ...]:
        """Return several answers, given one by one or separated by `between`."""

        def every(text: str) -> tuple[T, ...]:
            return tuple(read(word) for word in re.split(between, text.strip()) if word.strip())

        one_by_one = [self._read(option, read, each, optional) for each in given]
        if one_by_one:
            return tuple(each for each in one_by_one if each is not None)
        if question and "commas" not in question:
            question += ", separated by commas"
        found = self.one(option, question, every, None, proposal, optional=optional)
        return tuple(dict.fromkeys(found or ()))

    def check_complete(self) -> None:
        """End the command if an answer is missing and nobody can be asked."""
        if self._missing:
            take = (
                " or --yes, which accepts what is in brackets" if "(" in str(self._missing) else ""
            )
            fail(f"missing: {', '.join(self._missing)}; give these options{take}", 2)

    def _read(self, option: str, read: Read[T], given: str, optional: bool) -> T | None:
        if optional and given == NOTHING:
            return None
        with failing(ValueError, f"{option}: ", code=2):
            return read(given)

    def _prompt(
        self, question: str, read: Read[T], proposal: str | None, optional: bool
    ) -> T | None:
        def value(text: str) -> T | None:
            if optional and text.strip() in ("", NOTHING):
                return None
            if not text.strip():
                raise click.BadParameter(NEEDED)
            with valid_parameter():
                return read(text)

        if optional:
            question += f" ({NOTHING}: none)"
        default = proposal if proposal is not None else NOTHING if optional else ""
        try:
            answer: T | None = click.prompt(
                printable(question), default=default, value_proc=value, err=True,
                show_default=bool(default),
            )  # fmt: skip
        except click.Abort:
            click.echo(err=True)  # the line of the question is open
            raise
        return answer


def _if_valid(read: Read[T], proposal: str | None) -> str | None:
    try:
        if proposal:
            read(proposal)
            return proposal
    except ValueError:
        pass
    return None
