"""POST /v1/suppressions/check: which of some addresses are suppressed, and since when."""

from collections.abc import Mapping, Sequence

import msgspec
from starlette.requests import Request

from smtpproxy.mail.address import AddressError
from smtpproxy.mail.entry import entered
from smtpproxy.mail.path import recipient
from smtpproxy.policy.model import Facts, Lookups, Suppression
from smtpproxy.store.exchange.suppression_record import read_scope
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.protocols import FactReader
from smtpproxy.web.tokens import Refused

MOST = 1_000  # addresses
LARGEST = 1024 * 1024  # octets of a request


class CheckRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What is asked. `scope` is that of the mailing; without it every suppression counts."""

    addresses: list[str]
    scope: str | None = None


_decode = msgspec.json.Decoder(CheckRequest).decode


async def check(request: Request, store: FactReader) -> Mapping[str, object]:
    """Answer for each address, in order; nothing of it is kept."""
    asked = _read(await _body(request))
    counting = _counting(asked.scope)
    names = [_canonical(address) for address in asked.addresses]
    known = dict.fromkeys(name for name in names if name is not None)
    facts = await store.facts(Lookups(tuple(known), contacts=False))
    return {
        "results": [
            _result(address, name, facts, counting)
            for address, name in zip(asked.addresses, names, strict=True)
        ]
    }


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise Refused(
                413, "too_large", f"at most {LARGEST} octets and {MOST} addresses in a request"
            )
    return bytes(body)


def _read(body: bytes) -> CheckRequest:
    try:
        asked = _decode(body)
    except msgspec.ValidationError as error:
        raise Refused(400, "body_wrong", f'{error}; send {{"addresses": ["…"]}}') from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(400, "body_wrong", 'not JSON; send {"addresses": ["…"]}') from error
    if len(asked.addresses) > MOST:
        raise Refused(413, "too_large", f"at most {MOST} addresses in a request")
    return asked


def _counting(scope: str | None) -> frozenset[str] | None:
    """Return the scopes that bear on mail of a scope; None: all of them."""
    if scope is None:
        return None
    try:
        read = read_scope(scope)
    except ValueError as error:
        right = "scope must be all, marketing or purpose:NAME"
        raise Refused(400, "scope_wrong", right) from error
    return frozenset({"all", read} if read == "all" else {"all", "marketing", read})


def _canonical(address: str) -> str | None:
    try:
        return recipient(entered(address))
    except AddressError:
        return None


def _result(
    address: str, name: str | None, facts: Facts, counting: frozenset[str] | None
) -> Mapping[str, object]:
    if name is None:
        return {"address": address, "suppressed": None, "error": "not a mail address"}
    found: Sequence[Suppression] = facts[name].suppressions if name in facts else ()
    bearing = [one for one in found if counting is None or one.scope in counting]
    return {
        "address": address,
        "suppressed": bool(bearing),
        "since": written_time(min(one.since for one in bearing)) if bearing else None,
        "suppressions": [
            {
                "scope": one.scope,
                "origin": str(one.origin),
                "since": written_time(one.since),
            }
            | ({"domain": one.domain} if one.domain else {})
            | ({"read_as": one.read_as} if one.read_as else {})
            for one in bearing
        ],
    }
