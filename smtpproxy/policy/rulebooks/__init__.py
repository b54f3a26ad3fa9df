"""Rulebooks: the parameters of one jurisdiction, as data with their sources.

A rulebook is a TOML text. Only `name` is required; the other keys are those of `PARAMETERS`.
`extends` names a built-in rulebook whose values apply where this one has none, `[add]` and
`[remove]` change its lists, and `[sources]` may say where each parameter's value comes from. A
parameter in neither has the default of `Rulebook`; lists of mailboxes are then empty, so that
nothing counts as a generic address.

docs/rulebooks.md explains the parameters and shows the values of the built-in rulebooks; a test
keeps the two in step.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from msgspec.structs import replace

from smtpproxy import toml
from smtpproxy.policy.model import (
    Basis,
    Condition,
    Dealing,
    Evidence,
    Origin,
    Reason,
    Rulebook,
    Sign,
    Source,
)
from smtpproxy.policy.periods import Unit
from smtpproxy.policy.rulebooks.kinds import (
    CountKind,
    DayKind,
    FlagKind,
    Kind,
    MembersKind,
    OrderKind,
    PeriodKind,
    TextsKind,
    WordsKind,
    domain,
    local_part,
)
from smtpproxy.policy.rules import tables
from smtpproxy.toml import named, shown, suggestion

_CLOCK = PeriodKind((Unit.YEARS, Unit.MONTHS, Unit.DAYS))
_SOURCES = MembersKind(tuple(Source), Source)
_IN_FORCE = tuple(b for b in Basis if b not in (Basis.TRANSACTIONAL, Basis.PERMISSION))
_NOT_SIMILAR = tuple(each for each in Condition if each is not Condition.SIMILAR_PRODUCT)
# Consent does not fix a mailbox that bounces, and a suppression entered by somebody else is not
# only the person's.
_LIFTABLE = (Origin.UNSUBSCRIBE, Origin.COMPLAINT, Origin.OBJECTION, Origin.ERASURE)
_RULES = tuple(
    rule.name
    for rules in (
        tables.recipient_rules(_IN_FORCE),
        tables.PERMISSION_RULES[-2:-1],  # the others are among those above
        tables.DELIVERY_RULES,
        tables.MESSAGE_RULES,
        tables.PERMISSION_MESSAGE_RULES[-1:],
        tables.TRANSACTIONAL_MESSAGE_RULES[-1:],
    )
    for rule in rules
)

PARAMETERS: dict[str, Kind] = {
    "bases": OrderKind(_IN_FORCE, Basis),
    "role_local_parts": WordsKind(local_part),
    "consumer_domains": WordsKind(domain),
    "record_required": FlagKind(),
    "restricted_tags": WordsKind(),
    "accepted_sources": _SOURCES,
    "disclosed_sources": _SOURCES,
    "forbidden_sources": _SOURCES,
    "longest_chain": CountKind(),
    "valid_methods": WordsKind(),
    "preticked_methods": WordsKind(),
    "required_evidence": MembersKind(Evidence.__struct_fields__),
    "conditional_allowed": FlagKind(),
    "consent_period": _CLOCK,
    "dealings": MembersKind(tuple(Dealing), Dealing),
    "customer_period": _CLOCK,
    "inquiry_period": _CLOCK,
    "customer_requires": OrderKind(tuple(Condition), Condition),
    "charity_requires": OrderKind(_NOT_SIMILAR, Condition),
    "charity_dealings": MembersKind(tuple(Dealing), Dealing),
    "charity_since": DayKind(),
    "professional_requires": OrderKind(_NOT_SIMILAR, Condition),
    "activity_period": _CLOCK,
    "permission_window": PeriodKind((Unit.MONTHS, Unit.DAYS), without="none"),
    "signs_of_life": MembersKind(tuple(Sign), Sign),
    "lifted_by_consent": MembersKind(_LIFTABLE, Origin),
    "lifting_methods": WordsKind(),
    "honour_within": PeriodKind((Unit.HOURS, Unit.DAYS, Unit.BUSINESS_DAYS), without=None),
    "objection_period": _CLOCK,
    "imprint_required": FlagKind(),
    "notice_each_use": FlagKind(),
    "unsubscribe_valid": PeriodKind((Unit.DAYS,)),
    "law": TextsKind((*_RULES, *Reason)),
}

SHORTHANDS: dict[str, tuple[str, Unit]] = {
    name.replace("_period", f"_{unit}"): (name, unit)
    for name, kind in PARAMETERS.items()
    if kind is _CLOCK
    for unit in _CLOCK.units
}
"""A period may have its unit in the key: `customer_years = 3` is `customer_period = "3 years"`."""


BUILTIN_NAMES: tuple[str, ...] = ("fr", "uk", "de", "us", "ca", "eu-strict")
"""The rulebooks in this package, each a `NAME.toml`."""

_KEYS = ("name", "extends", *PARAMETERS, "add", "remove", "sources")
_PARAMETER_KEYS = (*PARAMETERS, *SHORTHANDS)
_SETS = tuple(
    name for name, kind in PARAMETERS.items() if isinstance(kind, MembersKind | WordsKind)
)


class RulebookError(ValueError):
    """The rulebook cannot be used. `faults`: `key: what is wrong and what is expected`."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


@cache
def builtin(name: str) -> Rulebook:
    """Return a built-in rulebook. Raises KeyError for any other name."""
    if name not in BUILTIN_NAMES:
        raise KeyError(name)
    return parse_rulebook(resources.files(__name__).joinpath(f"{name}.toml").read_text("utf-8"))


def parse_rulebook(text: str) -> Rulebook:
    """Return the rulebook written in `text`. Raises RulebookError with every fault."""
    try:
        document = toml.loads(text)
    except toml.TomlError as error:
        raise RulebookError([str(error)]) from None
    reading = _Reading(document)
    rulebook = reading.rulebook()
    if reading.faults:
        raise RulebookError(reading.faults)
    return rulebook


class _Reading:
    """One text being read; its faults are collected in `faults`."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.faults: list[str] = []
        self._document = document

    def rulebook(self) -> Rulebook:
        name = self._name()
        base = self._extended() or Rulebook(name)
        changes: dict[str, Any] = {"name": name}
        for key, value in self._document.items():
            if key in SHORTHANDS:
                parameter, unit = SHORTHANDS[key]
                kind = PARAMETERS[parameter]
                assert isinstance(kind, PeriodKind)
                self._set(changes, parameter, key, kind.counted(value, unit, self._at(key)))
            elif key in PARAMETERS:
                self._set(changes, key, key, PARAMETERS[key].read(value, self._at(key)))
            elif key in ("add", "remove"):
                self._adjust(base, changes, key, value)
            elif key == "sources":
                self._sources(value)
            elif key not in _KEYS:
                known = (*_KEYS, *SHORTHANDS) if "_" in key else _KEYS
                self._fault(f"{named(key)}: not a key of a rulebook{suggestion(key, known)}")
        rulebook = replace(base, **changes)
        self.faults += conflicts(rulebook)
        return rulebook

    def _fault(self, text: str) -> None:
        if text not in self.faults:
            self.faults.append(text)

    def _at(self, key: str) -> Callable[[str], None]:
        return lambda text: self._fault(f"{key}: {text}")

    def _set(self, changes: dict[str, Any], parameter: str, key: str, value: object) -> None:
        if parameter in changes:
            self._fault(f"{key}: {parameter} is set already: write it once")
        changes[parameter] = value

    def _name(self) -> str:
        name = self._document.get("name")
        if (
            not isinstance(name, str)
            or not name.isascii()
            or not name.replace("-", "_").isidentifier()
        ):
            self._fault('name: must be a word such as "fr"')
            return "?"
        return name

    def _extended(self) -> Rulebook | None:
        extended = self._document.get("extends")
        if extended is None:
            return None
        if extended not in BUILTIN_NAMES:
            word = extended if isinstance(extended, str) else ""
            self._fault(
                f"extends: {shown(extended)} is not a built-in rulebook"
                f"{suggestion(word, BUILTIN_NAMES)}"
            )
            return None
        return builtin(extended)

    def _adjust(self, base: Rulebook, changes: dict[str, Any], key: str, value: object) -> None:
        """Add to a list of the extended rulebook, or remove from it."""
        if not isinstance(value, dict):
            self._fault(f"{key}: must be a table: [{key}] with lists, such as consumer_domains")
            return
        for name, items in value.items():
            if name not in _SETS:
                self._fault(
                    f"{key}.{named(name)}: not a list of a rulebook{suggestion(name, _SETS)}"
                )
                continue
            read = PARAMETERS[name].read(items, self._at(f"{key}.{name}"))
            now = changes.get(name, getattr(base, name))
            for missing in sorted(read - now) if key == "remove" else ():
                self._fault(f"remove.{name}: {shown(missing)} is not in it")
            changes[name] = now | read if key == "add" else now - read

    def _sources(self, value: object) -> None:
        if not isinstance(value, dict):
            self._fault("sources: must be a table: key = where its value comes from")
            return
        for key, text in value.items():
            if key not in _PARAMETER_KEYS:
                self._fault(
                    f"sources.{named(key)}: not a parameter{suggestion(key, _PARAMETER_KEYS)}"
                )
            elif not isinstance(text, str):
                self._fault(f"sources.{key}: must be text")


def conflicts(rulebook: Rulebook) -> Iterator[str]:
    """Yield contradictions, each as `key: what and why`."""
    for method in sorted(rulebook.valid_methods & rulebook.preticked_methods):
        yield f'preticked_methods: "{method}" is in valid_methods too'
    lists = ("accepted_sources", "disclosed_sources", "forbidden_sources")
    for index, later in enumerate(lists):
        for earlier in lists[:index]:
            for source in sorted(getattr(rulebook, later) & getattr(rulebook, earlier)):
                yield f'{later}: "{source}" is in {earlier} too: it can be in one only'
    bases = rulebook.bases
    if Basis.CONSENT not in bases:
        yield 'bases: "consent" is missing, and there is no law under which it does not count'
    if Basis.GENERIC_ADDRESS in bases[1:]:
        yield 'bases: "generic_address" must come first: it needs no record, all others do'
    if Basis.OPT_OUT in bases[:-1]:
        yield 'bases: "opt_out" must come last: what comes after it would never be asked'
