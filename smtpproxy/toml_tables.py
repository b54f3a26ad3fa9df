"""Turns a TOML table into a frozen record, or finds everything wrong with it.

A record is a Struct. Its fields are the keys of the table; their types say which values are
valid, and their defaults are those of the file:

    class Store(Struct, frozen=True):
        url: Annotated[str, Written(store_url), Key(example="sqlite:///relay.db")]
        timeout: Annotated[float, Written(duration)] = 2.0
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, time
from difflib import get_close_matches
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from msgspec import NODEFAULT, Struct, structs

from smtpproxy.terminal import printable
from smtpproxy.toml import named, shown

T = TypeVar("T")

Location = tuple[str | int, ...]
"""The path to a value: ("listener", 0, "address")."""


class Fault(Struct, frozen=True):
    location: Location
    text: str


class Written(Struct, frozen=True):
    """How a value is written: `read` converts the TOML value, or raises ValueError."""

    read: Callable[[object], Any]


class Bounds(Struct, frozen=True):
    """The bounds of a whole number."""

    least: int
    most: int | None = None


class Key(Struct, frozen=True):
    """The name of a key, if it cannot be a field's, and an example for when it is missing."""

    name: str = ""
    example: object = None


AT_LEAST_ONE = object()
"""Marks a list that must not be empty."""
DERIVED = object()
"""Marks a field that no key of the file sets."""


class KnownKey(Struct, frozen=True):
    field: str
    type: Any  # with its marks
    default: object  # NODEFAULT: the key is required
    example: object

    def is_default(self, value: object) -> bool:
        """Whether the value is the default."""
        reading = _Reading({})
        found = reading.value(self.type, value, ())
        return not reading.faults and bool(found == self.default)


@cache
def keys_of(record: type) -> Mapping[str, KnownKey]:
    """Return the keys of a record, in order."""
    found: dict[str, KnownKey] = {}
    for each in structs.fields(record):
        marks = getattr(each.type, "__metadata__", ())
        if DERIVED in marks:
            continue
        keys = [mark for mark in marks if isinstance(mark, Key)]
        name = next((key.name for key in keys if key.name), each.name)
        example = next((key.example for key in keys if key.example is not None), None)
        default = each.default
        if each.default_factory is not NODEFAULT:
            default = each.default_factory()
        found[name] = KnownKey(each.name, each.type, default, example)
    return found


def read_table(
    record: type[T], document: Mapping[str, Any], replaced: Mapping[Location, str] | None = None
) -> tuple[T | None, list[Fault]]:
    """Return the record of a document, or None and its faults.

    `replaced`: what to say about keys of other versions, by location without indexes.
    """
    reading = _Reading(replaced or {})
    found = reading.table(record, document, ())
    return (None if reading.faults else found), reading.faults


def read_key(record: type, name: str, value: object) -> Any:
    """Return the value of one key of a record. Raises ValueError with what is wrong."""
    reading = _Reading({})
    found = reading.value(keys_of(record)[name].type, value, (name,))
    if reading.faults:
        raise ValueError(reading.faults[0].text)
    return found


class _Reading:
    """One document being read."""

    def __init__(self, replaced: Mapping[Location, str]) -> None:
        self.faults: list[Fault] = []
        self._replaced = replaced

    def table(self, record: Any, value: object, at: Location) -> Any:
        if not isinstance(value, dict):
            if isinstance(value, list) and isinstance(at[-1], str):
                return self._fault(at, f"there is only one: write [{at[-1]}], not [[{at[-1]}]]")
            return self._wrong(at, "a table", value)
        keys, before = keys_of(record), len(self.faults)
        for name in value:
            if name not in keys:
                self._unknown((*at, name), list(keys))
        fields = {}
        for name, key in keys.items():
            if name in value:
                fields[key.field] = self.value(key.type, value[name], (*at, name))
            elif key.default is NODEFAULT:
                self._fault((*at, name), f"missing{_example(name, key)}")
        return record(**fields) if len(self.faults) == before else None

    def value(self, annotation: Any, value: object, at: Location) -> Any:
        kind, marks = unwrapped(annotation)
        for mark in marks:
            if isinstance(mark, Written):
                try:
                    return mark.read(value)
                except ValueError as error:
                    return self._fault(at, str(error))
        if _is_record(kind):
            return self.table(kind, value, at)
        origin = get_origin(kind)
        if origin in (tuple, frozenset):
            return self._list(origin, get_args(kind)[0], marks, value, at)
        if origin is Mapping:
            return self._words(get_args(kind)[1], value, at)
        if origin is Literal or issubclass(kind, Enum):
            return self._choice(kind, value, at)
        if kind is int:
            return self._number(marks, value, at)
        if not isinstance(value, kind):
            return self._wrong(at, _WANTED[kind], value)
        return value

    def _list(self, kind: Any, item: Any, marks: Iterable[Any], value: object, at: Location) -> Any:
        if not isinstance(value, list):
            if isinstance(value, dict) and _is_record(item):
                text = f"must be a list of tables: write [[{at[-1]}]], not [{at[-1]}]"
                return self._fault(at, text)
            return self._wrong(at, "a list in brackets", value)
        if not value and AT_LEAST_ONE in marks:
            key = KnownKey("", kind[item, ...] if kind is tuple else kind[item], None, None)
            example = next((m.example for m in marks if isinstance(m, Key) and m.example), None)
            key = structs.replace(key, example=example)
            return self._fault(at, f"needs at least one{_example(str(at[-1]), key)}")
        return kind([self.value(item, each, (*at, place)) for place, each in enumerate(value)])

    def _words(self, kind: Any, value: object, at: Location) -> Any:
        """Read a table with arbitrary keys."""
        if not isinstance(value, dict):
            return self._wrong(at, "a table", value)
        return {name: self.value(kind, each, (*at, name)) for name, each in value.items()}

    def _choice(self, kind: Any, value: object, at: Location) -> Any:
        by_word = (
            {word: word for word in get_args(kind)}
            if get_origin(kind) is Literal
            else {member.value: member for member in kind}
        )
        if isinstance(value, str) and value in by_word:
            return by_word[value]
        return self._fault(at, f"{shown(value)} is not one of {', '.join(map(shown, by_word))}")

    def _number(self, marks: Iterable[Any], value: object, at: Location) -> Any:
        if type(value) is not int:  # True is an int too
            return self._wrong(at, "a whole number, without quotes", value)
        for mark in marks:
            if isinstance(mark, Bounds) and value < mark.least:
                return self._fault(at, f"{value} is too small: at least {mark.least}")
            if isinstance(mark, Bounds) and mark.most is not None and value > mark.most:
                return self._fault(at, f"{value} is too large: at most {mark.most}")
        return value

    def _unknown(self, at: Location, known: list[str]) -> None:
        path, key = tuple(step for step in at if isinstance(step, str)), str(at[-1])
        near = get_close_matches(key, known, n=1) or get_close_matches(key.rstrip("s"), known, n=1)
        if path in self._replaced:
            self._fault(at, self._replaced[path])
        elif near:
            self._fault(at, f"unknown key; did you mean {near[0]}?")
        else:
            self._fault(at, f"unknown key; known keys: {', '.join(known)}")

    def _wrong(self, at: Location, wanted: str, value: object) -> None:
        self._fault(at, f"must be {wanted}, not {_toml_type(value)}")

    def _fault(self, at: Location, text: str) -> None:
        self.faults.append(Fault(at, text))


_WANTED: dict[Any, str] = {
    str: "text in double quotes",
    bool: "true or false, without quotes",
    dict: "a table",
}


def unwrapped(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a type without `| None`, and its marks."""
    marks: tuple[Any, ...] = ()
    while True:
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            marks += annotation.__metadata__
            annotation = arguments[0]
        elif origin in (Union, UnionType) and NoneType in arguments:
            annotation = arguments[0]
        else:
            return annotation, marks


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def is_table_list(annotation: Any) -> bool:
    """Whether a key is written `[[key]]`."""
    kind, _ = unwrapped(annotation)
    return get_origin(kind) is tuple and _is_record(unwrapped(get_args(kind)[0])[0])


def _example(name: str, key: KnownKey) -> str:
    """Return what to write for a required key."""
    if key.example is not None:
        return f"; for example {name} = {shown(key.example)}"
    kind, _ = unwrapped(key.type)
    header = f"[{name}]"
    if not _is_record(kind) and not is_table_list(key.type):
        return ""
    if is_table_list(key.type):
        kind, header = unwrapped(get_args(kind)[0])[0], f"[[{name}]]"
    needed = (
        f"{each} = {shown(known.example)}"
        for each, known in keys_of(kind).items()
        if known.example is not None
    )
    return f"; for example {header} with {', '.join(needed)}"


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


def as_meant(document: Mapping[str, Any], record: type) -> dict[str, Any]:
    """Return the document with `[stream]` read as `[[stream]]`, and `[[server]]` as `[server]`.

    These are separate faults, which must not cause misleading ones about streams.
    """
    meant = dict(document)
    for name, key in keys_of(record).items():
        value, is_list = document.get(name), is_table_list(key.type)
        if is_list and isinstance(value, dict):
            meant[name] = [value]
        elif not is_list and isinstance(value, list) and len(value) == 1:
            meant[name] = value[0]
    return meant


def table(document: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    """Return `[section]`; an empty table if there is none, or something else has that name."""
    found = document.get(section)
    return found if isinstance(found, dict) else {}


def tables(document: Mapping[str, Any], section: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the entries of `[[section]]` that are tables, with their indexes."""
    entries = document.get(section)
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        if isinstance(entry, dict):
            yield index, entry


def report(filename: str, document: Mapping[str, Any], faults: Iterable[Fault]) -> list[str]:
    """Return the faults as text, in the order of the file, each once."""
    ordered = sorted(faults, key=lambda fault: _position(document, fault.location))
    paths = key_paths(document, [fault.location for fault in ordered])
    lines = (f"{filename}: {path}: {f.text}" for path, f in zip(paths, ordered, strict=True))
    return list(dict.fromkeys(map(printable, lines)))


def key_path(document: Mapping[str, Any], location: Location) -> str:
    """Return `listener "apps".address`, or `listener[0].address` if no name identifies it."""
    return key_paths(document, [location])[0]


def key_paths(document: Mapping[str, Any], locations: Iterable[Location]) -> list[str]:
    """Return the `key_path` of each location, having read each list of tables once."""
    names: dict[Location, list[str | None]] = {}
    paths = []
    for location in locations:
        path = ""
        for depth, step in enumerate(location):
            if isinstance(step, str):
                key = named(step)
                path += f".{key}" if path else key
                continue
            at = location[:depth]
            if at not in names:
                names[at] = _names(value_at(document, at))
            name = names[at][step] if names[at] else None
            path += f"[{step}]" if name is None else f' "{name}"'
        paths.append(path)
    return paths


def _names(tables: object) -> list[str | None]:
    """The names of the entries in a list of tables; None for those that identify none."""
    if not isinstance(tables, list):
        return []
    names = [
        t.get("name", t.get("address", t.get("user"))) if isinstance(t, dict) else None
        for t in tables
    ]
    times = Counter(name for name in names if isinstance(name, str))
    return [
        name
        if isinstance(name, str)
        and times[name] == 1
        and name
        and name.isprintable()
        and '"' not in name
        else None
        for name in names
    ]


def _position(document: Mapping[str, Any], location: Location) -> tuple[int, ...]:
    """The position in the file; missing keys come last."""
    position: list[int] = []
    value: object = document
    for step in location:
        if isinstance(value, dict):
            keys = list(value)
            position.append(keys.index(step) if step in value else len(keys))
        elif isinstance(step, int):
            position.append(step)
        value = _child(value, step)
    return tuple(position)


def value_at(value: object, location: Location) -> object:
    """Return what is at a place in a document; None if there is nothing."""
    for step in location:
        value = _child(value, step)
    return value


def _child(value: object, step: str | int) -> object:
    if isinstance(value, dict):
        return value.get(step)
    if isinstance(value, list) and isinstance(step, int) and step < len(value):
        return value[step]
    return None
