"""The API's operations, and reading their requests within bounds."""

import base64
import inspect
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request

from smtpproxy.access import Access
from smtpproxy.mail.address import AddressError, recipient
from smtpproxy.mail.mailboxes import entered, recorded
from smtpproxy.settings import Settings
from smtpproxy.settings.mail import Right
from smtpproxy.store.exchange import lines
from smtpproxy.store.exchange.lines import check_escapes
from smtpproxy.store.exchange.times import read_time
from smtpproxy.store.sql.store import Store
from smtpproxy.web.api.problems import Refused

MOST_ADDRESSES = 1_000  # in a request
LARGEST = 1024 * 1024  # octets of a request


def about(description: str, **bounds: Any) -> Meta:
    """Describe a field of a record, and bound its values."""
    return Meta(description=description, **bounds)


Time: TypeAlias = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
When: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        description="A time with its zone, such as 2026-03-01T10:00:00Z, or a date in UTC.",
    ),
]
Mailbox: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=1_000,
        description="A mail address.",
        extra_json_schema={"format": "email"},
    ),
]
Scope: TypeAlias = Annotated[
    str,
    about(
        "What must not be sent: all, marketing, brand:NAME or purpose:NAME.",
        extra_json_schema={"pattern": "^(all|marketing|(brand|purpose):.+)$"},
    ),
]


class Operation(Struct, frozen=True, kw_only=True):
    """One operation of the API. A token needs the `right`.

    `answers` is the record of the answer, which `answer` describes, with `status`; `problems` come
    in addition to those of every operation. A `versioned` answer has an ETag.
    """

    name: str
    right: Right
    method: str
    path: str
    summary: str
    description: str
    answers: type[Struct]
    answer: str
    status: Literal[200, 202] = 200
    location: str = ""  # where to ask for progress, relative to `path`, with {id} from the answer
    query: type[Struct] | None = None
    body: type[Struct] | None = None
    problems: tuple[str, ...] = ()
    places: Mapping[str, str] = {}  # parameters in the path, with their descriptions
    writes: bool = False
    keyed: bool = False  # Idempotency-Key is obeyed
    versioned: bool = False
    conditional: bool = False  # If-Match and If-None-Match are obeyed
    takes_file: bool = False  # the body is a file of any size


class Call(Struct, frozen=True):
    """One request, and who makes it."""

    request: Request
    access: Access
    body: bytes = b""
    received: str = ""  # id of the received file


@dataclass(eq=False)
class Operations:
    """What operations of one subject work with. `writer` returns the store to write to."""

    settings: Settings
    store: Store
    writer: Callable[[], Store]
    now: Callable[[], datetime]


class Versioned(Struct, frozen=True):
    """An answer with its version, for the ETag."""

    record: Struct
    version: str


Answer = Callable[[Call], Awaitable[Struct]]

T = TypeVar("T", bound=Struct)
M = TypeVar("M", bound=Callable[..., Awaitable[Struct]])


def operation(
    right: Right, route: str, *, like: str = "", more: str = "", **others: Any
) -> Callable[[M], M]:
    """Make a method an operation, with its name.

    `route` is its method and path. The docstring is its description, to which `more` is added, and
    the type of `asked` the record of the body, or of the query if there is no body to read; `like`
    is an example of that body. `others` are further fields of `Operation`.
    """

    def decorate(method: M) -> M:
        summary, _, text = (inspect.getdoc(method) or "").partition("\n\n")
        verb, path = route.split()
        types = inspect.get_annotations(method)
        fields: dict[str, Any] = {"answers": types["return"], **others}
        if "asked" in types:
            fields["body" if like else "query"] = types["asked"]
        problems = ["body_wrong", "too_large"] if "body" in fields else []
        problems += ["parameter_wrong", "parameter_unknown"] if "query" in fields else []
        fields["problems"] = (*problems, *fields.get("problems", ()))
        description = " ".join([*text.split(), *more.split()])
        described = Operation(
            name=method.__name__, right=right, method=verb, path=path,
            summary=summary.removesuffix("."), description=description, **fields,
        )  # fmt: skip
        vars(method)["operation"] = described, like
        return method

    return decorate


def operation_of(method: Callable[..., Awaitable[Struct]]) -> Operation:
    """Return the operation that a method is."""
    described: Operation = vars(method)["operation"][0]
    return described


def operations_of(part: object) -> Iterator[tuple[Operation, Answer]]:
    """Yield the operations among an object's methods, each with what answers a call."""
    for name, method in vars(type(part)).items():
        if "operation" in getattr(method, "__dict__", ()):
            described, like = vars(method)["operation"]
            yield described, partial(_answered, getattr(part, name), described, like)


async def _answered(
    method: Callable[..., Awaitable[Struct]], described: Operation, like: str, call: Call
) -> Struct:
    if described.query is not None:
        return await method(call, read_query(call.request, described.query))
    if described.body is not None and like:
        return await method(call, read_body(call, described.body, like))
    return await method(call)


@contextmanager
def refusing(error: str, field: str = "") -> Iterator[None]:
    """Refuse the request for a ValueError, with its text, before which the field is named."""
    try:
        yield
    except ValueError as fault:
        raise Refused(error, f"{field}: {fault}" if field else str(fault)) from fault


def read_body(call: Call, record: type[T], like: str) -> T:
    """Read the JSON of a request; `like` is an example for the error text. Raises Refused."""
    try:
        check_escapes(call.body)
        return msgspec.json.decode(call.body, type=record)
    except msgspec.ValidationError as error:
        raise Refused("body_wrong", f"{_fault(error, record)}; send {like}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused("body_wrong", f"not JSON; send {like}") from error
    except ValueError as error:
        raise Refused("body_wrong", str(error)) from error


def check_names_once(body: bytes) -> None:
    """Raises Refused when an object in a request has a name twice.

    A proxy in front might read it differently.
    """
    with refusing("body_wrong"):
        lines.check_names_once(body)


def header_once(request: Request, name: str) -> str | None:
    """Return a header field that is not a list. Raises Refused when it is given twice."""
    values = request.headers.getlist(name)
    if len(values) > 1:
        raise Refused("header_twice", f"send {name.title()} once")
    return values[0] if values else None


async def read_octets(request: Request) -> bytes:
    """Read a request of at most LARGEST octets. Raises Refused, ClientDisconnect."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise Refused("too_large", f"at most {LARGEST} octets in a request")
    return bytes(body)


def read_query(request: Request, record: type[T]) -> T:
    """Read the parameters of a request: whole numbers within bounds, and short texts.

    Raises Refused.
    """
    known = msgspec.json.schema(record)["$defs"][record.__name__]["properties"]
    found: dict[str, object] = {}
    for name, text in request.query_params.multi_items():
        if name not in known:
            names = ", ".join(known)
            raise Refused("parameter_unknown", f"there is no parameter {name!r}; known: {names}")
        if known[name].get("type") == "array":
            values = found.setdefault(name, [])
            assert isinstance(values, list)
            values.append(text)
            continue
        if name in found:
            raise Refused("parameter_wrong", f"{name} is given twice")
        found[name] = _number(name, text, known[name]) if "minimum" in known[name] else text
    try:
        return msgspec.convert(found, record)
    except msgspec.ValidationError as error:
        raise Refused("parameter_wrong", _fault(error, record)) from error


def _fault(error: msgspec.ValidationError, record: type) -> str:
    """Return msgspec's error, for an unknown word with the known ones."""
    match = re.fullmatch(r"Invalid enum value '(.*)' - at `\$.*?(\w+)`", str(error), re.S)
    if match is None:
        return str(error)
    right = ", ".join(map(str, _words(record, match[2])))
    return f"{match[2]}: {match[1][:80]!r} is unknown; expected one of {right}"


def _words(record: type, name: str) -> Sequence[object]:
    """Return the words that a field of a record, or of a nested one, may have."""
    defined: Mapping[str, Any] = msgspec.json.schema(record)["$defs"]
    fields = [one.get("properties", {}).get(name, {}) for one in defined.values()]
    kinds = [kind for field in fields for kind in (field, *field.get("anyOf", ()))]
    words = [defined[one["$ref"].rpartition("/")[2]] if "$ref" in one else one for one in kinds]
    return next((one["enum"] for one in words if "enum" in one), ())


def _number(name: str, text: str, schema: Mapping[str, int]) -> int:
    least, most = schema["minimum"], schema["maximum"]
    # More digits than any number here needs; int() of a million digits is slow.
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if not least <= number <= most:
        raise Refused("parameter_wrong", f"{name} must be a whole number from {least} to {most}")
    return number


def canonical_names(addresses: Sequence[str]) -> dict[str, str | None]:
    """Return the canonical form of each, None if it is not an address. Raises Refused if there are
    too many."""
    if len(addresses) > MOST_ADDRESSES:
        raise Refused("too_large", f"at most {MOST_ADDRESSES} addresses in a request")
    names: dict[str, str | None] = {}
    for address in addresses:
        try:
            names[address] = recipient(entered(address))
        except AddressError:
            names[address] = None
    return names


def canonical_address(address: str) -> str:
    """Return an address in canonical form. Raises Refused."""
    with refusing("body_wrong", "address"):
        return recipient(entered(address))


def read_moment(field: str, text: str | None, *, last_moment: bool = False) -> datetime | None:
    """Return the time that a field of the body names, if any. Raises Refused."""
    with refusing("body_wrong", field):
        return None if text is None else read_time(text, last_moment=last_moment)


def written_place(place: object) -> str:
    """Return where the next page begins, as text that clients just send back."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(place)).decode().rstrip("=")


def read_place(error: str, text: str, kind: Any) -> Any:
    """Return what `written_place` wrote. Raises Refused."""
    try:
        octets = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return msgspec.msgpack.decode(octets, type=kind)
    except (ValueError, msgspec.MsgspecError) as fault:
        raise Refused(error, "after: not the `next` of a page") from fault


def recorded_address(address: str) -> str:
    """Return the canonical form of an address that may be on record. Raises Refused."""
    with refusing("body_wrong", "address"):
        return recipient(recorded(address, entered))
