"""The unsubscribe link: reachable over https, without redirects, and accepting a POST.

GET asks for a link made with the relay's keys, which changes nothing; POST sends a token that
nobody made, so it unsubscribes nobody (RFC 8058 section 3.1: a POST, no redirect, no login)."""

import asyncio
import contextlib
import ipaddress
import secrets
import ssl
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from msgspec import Struct

from smtpproxy.doctor.finding import Check, Finding, Lookup, Status
from smtpproxy.doctor.machine import days_left, judge_days
from smtpproxy.mail.unsubscribe_token import Unsubscription
from smtpproxy.resolver import DnsFailure
from smtpproxy.store.link_keys import link_ring
from smtpproxy.store.records import StoreInaccessible, StoreMisconfigured
from smtpproxy.tls import trusting

_FORM = {"content-type": "application/x-www-form-urlencoded"}
_ONE_CLICK = b"List-Unsubscribe=One-Click"
_READ = 65_536
_SERVE = "have the proxy in front of [web] pass on GET and POST of /u/, without a login before"
_NOBODYS = 404
_SHOWN = frozenset({200, _NOBODYS})
_NO_ID = "0" * 26


class Probed(Struct, frozen=True):
    """The answers to GET and POST, or the `failure`. `own`: GET asked for a link made with the
    relay's keys."""

    get: int = 0
    post: int = 0
    location: str = ""  # of a redirect
    expires: datetime | None = None
    failure: str = ""
    own: bool = False


def own_token(state_dir: Path) -> str | None:
    """Return the token of a link for nobody; None without keys to make one."""
    try:
        nobody = Unsubscription("nobody@example.invalid", "marketing", _NO_ID)
        return link_ring(state_dir).seal(nobody)
    except (StoreMisconfigured, StoreInaccessible):
        return None


async def unsubscribe(
    lookup: Lookup, public_url: str | None, token: str | None, now: datetime
) -> Finding:
    """Probe the link as a mailbox provider would; `token` is made with the relay's keys.

    Bounded by the caller's timeout.
    """
    if public_url is None:
        text = "the relay has no public address for its links"
        return _finding("public_url", Status.UNKNOWN, text, "set public_url in [web]")
    if not public_url.startswith("https:"):
        text = "the address is not https, which RFC 8058 requires"
        return _finding(public_url, Status.FAIL, text, "set public_url in [web] to an https URL")
    return judge_probe(public_url, await probe(lookup, public_url, token), now)


async def probe(lookup: Lookup, public_url: str, token: str | None) -> Probed:
    """Request the link; never raises for what the other end does."""
    url = urlsplit(public_url)
    host = url.hostname or ""
    try:
        address = await _address(lookup, host)
    except DnsFailure as error:
        return Probed(failure=f"no answer: {error}")
    if address is None:
        return Probed(failure=f"{host} has no address")
    shown = f"[{address}]" if ":" in address else address
    port = f":{url.port}" if url.port else ""
    links = f"https://{shown}{port}{url.path}/u/"
    unknown = secrets.token_urlsafe(40)
    headers = {"host": f"{host}{port}"}
    try:
        async with httpx.AsyncClient(
            verify=trusting(), trust_env=False, follow_redirects=False
        ) as client:
            # The certificate has to be valid for the name, whatever address that resolved to.
            extensions = {"sni_hostname": host}
            got = await _ask(client, "GET", links + (token or unknown), headers, extensions)
            put = await _ask(client, "POST", links + unknown, headers | _FORM, extensions)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return Probed(failure=" ".join(str(error).split()) or type(error).__name__)
    location = put.location or got.location
    return Probed(got.get, put.get, location, got.expires, own=token is not None)


def judge_probe(public_url: str, seen: Probed, now: datetime) -> Finding:
    if seen.failure:
        fix = "fix the name, the certificate or the server: links already sent lead there"
        return _finding(public_url, Status.FAIL, f"it cannot be reached: {seen.failure}", fix)
    for method, code in (("GET", seen.get), ("POST", seen.post)):
        if 300 <= code < 400:
            text = f"{method} is answered {code}, redirecting to {seen.location or 'another place'}"
            fix = "answer at this address: RFC 8058 forbids redirects"
            return _finding(public_url, Status.FAIL, text, fix)
    if seen.get not in _SHOWN:
        return _finding(public_url, Status.FAIL, f"GET is answered {seen.get}", _SERVE)
    if seen.own and seen.get != 200:
        text = "a link made with the relay's keys is not known there: it is another relay, or none"
        return _finding(public_url, Status.FAIL, text, _SERVE)
    if 200 <= seen.post < 300:
        text = f"POST of a token that nobody made is answered {seen.post}: it is not this relay"
        return _finding(public_url, Status.FAIL, text, _SERVE)
    if seen.post != _NOBODYS:
        return _finding(public_url, Status.FAIL, f"POST is answered {seen.post}", _SERVE)
    status, validity, fix = judge_days(days_left(seen.expires, now))
    shown = "a link made with the relay's keys is shown" if seen.own else "GET is answered"
    text = f"{shown}, and POST of an unknown token is answered {seen.post}; {validity}"
    return _finding(public_url, status, text, fix)


async def _ask(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    headers: dict[str, str],
    extensions: dict[str, str],
) -> Probed:
    body = _ONE_CLICK if method == "POST" else None
    request = client.stream(method, url, headers=headers, content=body, extensions=extensions)
    async with request as response:
        expires = _expires(response)
        read = 0
        async for chunk in response.aiter_raw():
            read += len(chunk)
            if read > _READ:
                break
    return Probed(response.status_code, 0, response.headers.get("location", "")[:200], expires)


def _expires(response: httpx.Response) -> datetime | None:
    stream = response.extensions.get("network_stream")
    tls = None if stream is None else stream.get_extra_info("ssl_object")
    certificate = None if tls is None else tls.getpeercert()
    if not certificate:
        return None
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)


async def _address(lookup: Lookup, host: str) -> str | None:
    """Return an address of the name from the DNS, not from this machine's own files."""
    if host == "localhost":
        return "127.0.0.1"
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host))
    four, six = await asyncio.gather(lookup(host, "A"), lookup(host, "AAAA"))
    return next(iter((*four.values, *six.values)), None)


_finding = partial(Finding, Check.UNSUBSCRIBE)
