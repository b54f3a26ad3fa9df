"""How places on the network and on the disk are written: addresses, host names, URLs, files.

Each function takes a TOML value and returns its canonical form, or raises ValueError with what is
wrong and what is expected. The types below apply them.
"""

import contextlib
import ipaddress
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, parse_qsl, urlsplit

import idna
from msgspec import Struct

from smtpproxy.toml import shown
from smtpproxy.toml_tables import Written

_UNIX_PATH_LIMIT = 107  # octets of sun_path, without its NUL
_LONGEST_HELP = 128  # a reply line has 511 octets, with an address and names (mail/reply.py)
_DATABASE_HOST = re.compile(r"/.*|(?:\[[^\[\]]+\]|[^\[\]:]+)(?::(?P<port>.*))?")
_WRONG_HOST = (
    "must have hosts with ports from 1 to 65535, or none, and NAME=VALUE after the ?, as in"
    ' "postgresql://smtpproxy@db.example:5432/smtpproxy?sslmode=verify-full"; in a password'
    " : / ? # [ ] @ % are written %3A %2F %3F %23 %5B %5D %40 %25"
)
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")


class TcpAddress(Struct, frozen=True):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class UnixAddress(Struct, frozen=True):
    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


def address(value: object) -> TcpAddress | UnixAddress:
    """Return where to listen or connect: `host:port`, `[v6]:port` or `unix:/path`."""
    right = '"host:port", "[v6]:port" or "unix:/path"'
    if not isinstance(value, str):
        raise ValueError(f"must be {right}, not {shown(value)}")
    if value.startswith("unix:"):
        return _unix_address(value)
    host, colon, port = value.rpartition(":")
    if not colon or not host or value.endswith("]"):
        raise ValueError(f"{shown(value)} is not {right}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not _is_ip(host, 6):
            raise ValueError(f"{shown(value)}: the text in brackets is not an IPv6 address")
    elif ":" in host:
        raise ValueError(f'{shown(value)}: an IPv6 address goes in brackets, "[::1]:2525"')
    elif not _is_ip(host, 4):
        host = hostname(host)
    if not _is_port(port):
        raise ValueError(f"{shown(value)}: the port must be a number from 1 to 65535")
    return TcpAddress(host, int(port))


def _unix_address(value: str) -> UnixAddress:
    path = value.removeprefix("unix:")
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError(f'{shown(value)}: write an absolute path, "unix:/run/smtpproxy/smtp"')
    if len(path.encode()) > _UNIX_PATH_LIMIT:
        raise ValueError(f"the path of a Unix socket is at most {_UNIX_PATH_LIMIT} octets")
    return UnixAddress(Path("/" + path.lstrip("/")))


def _is_ip(host: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(host).version == version
    except ValueError:
        return False


def is_loopback(address: TcpAddress | UnixAddress) -> bool:
    """Whether only this machine can reach it, as far as is known without asking the DNS."""
    if isinstance(address, UnixAddress) or address.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return False


def ip_address(value: object) -> str:
    """Return an IPv4 or IPv6 address in its usual form."""
    try:
        if isinstance(value, str):
            return str(ipaddress.ip_address(value))
    except ValueError:
        pass
    raise ValueError(f'{shown(value)} is not an IP address such as "192.0.2.25" or "2001:db8::25"')


def hostname(value: object) -> str:
    """Return a host or domain name as lower-case A-labels, without a final dot."""
    if not isinstance(value, str):
        raise ValueError(f'must be a host name such as "relay.example.com", not {shown(value)}')
    wrong = f'{shown(value)} is not a host name such as "relay.example.com"'
    try:
        encoded = idna.encode(value.removesuffix("."), uts46=True).decode("ascii").lower()
    except (idna.IDNAError, UnicodeError):
        raise ValueError(wrong) from None
    if len(encoded) > 253 or encoded.rpartition(".")[2].isdigit():
        raise ValueError(wrong)
    return encoded


def domain(value: object) -> str:
    """Return a domain of From addresses as lower-case A-labels."""
    if isinstance(value, str) and value.startswith(("@", "*", ".")):
        bare = value.lstrip("@*.")
        raise ValueError(f"{shown(value)}: write only the domain, {shown(bare)}")
    return hostname(value)


def network(value: object) -> str:
    """Return a network of hosts, `10.0.0.0/8`, a single host, or `unix` for UNIX sockets."""
    if value == "unix":
        return "unix"
    text = value if isinstance(value, str) else ""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_network(text))
    try:
        meant = shown(str(ipaddress.ip_network(text, strict=False)))
    except ValueError:
        meant = '"10.0.0.0/8", "2001:db8::/32", "192.0.2.7" or "unix"'
    raise ValueError(f"{shown(value)} is not a network such as {meant}")


def nameserver(value: object) -> TcpAddress:
    """Return the address of a name server: an IP address, with a port if that is not 53."""
    wrong = ValueError(
        f'{shown(value)} is not the address of a name server such as "127.0.0.1:5353",'
        ' "192.0.2.53" or "[2001:db8::53]:53"'
    )
    if not isinstance(value, str):
        raise wrong
    try:
        return TcpAddress(str(ipaddress.ip_address(value)), 53)
    except ValueError:
        pass
    try:
        found = address(value)
        if isinstance(found, TcpAddress):
            return TcpAddress(str(ipaddress.ip_address(found.host)), found.port)
    except ValueError:
        pass
    raise wrong


def public_url(value: object) -> str:
    """Return the base of the links that recipients get, without a final slash."""
    wrong = f'{shown(value)} is not an https URL such as "https://unsubscribe.example.com"'
    url = _http_url(value, wrong)
    if url.scheme != "https" and not _is_plain_and_near(url):
        raise ValueError(f"{wrong} (RFC 8058 3.1 requires https)")
    if url.query or url.fragment or url.username is not None:
        raise ValueError(f"{shown(value)} must be scheme, host and optionally a path, nothing more")
    return url.geturl().rstrip("/")


def help_url(value: object) -> str:
    """Return the base of the pages about reasons, without a final slash."""
    wrong = f'{shown(value)} is not a URL such as "https://consent.example.com/why"'
    url = _http_url(value, wrong)
    if url.scheme not in ("https", "http"):
        raise ValueError(wrong)
    if set(" @?#") & set(str(value)):  # the record recognises addresses by their @
        raise ValueError(f"{shown(value)} must be scheme, host and path, nothing more")
    if len(str(value)) > _LONGEST_HELP:
        raise ValueError(f"must have at most {_LONGEST_HELP} characters, to fit into replies")
    return url.geturl().rstrip("/")


def webhook_url(value: object) -> str:
    """Return the URL to which changes are delivered: https, or http on this machine."""
    wrong = 'must be an https URL such as "https://crm.example.com/hooks/suppressions"'
    url = _http_url(value, wrong)
    if " " in str(value) or url.fragment:
        raise ValueError(wrong)
    if url.username is not None:
        raise ValueError(
            "must contain no user name or password: the signature identifies the relay"
        )
    if url.scheme != "https" and not _is_plain_and_near(url):
        raise ValueError(f"{wrong}; http:// is for receivers on this machine alone")
    return str(value)


def _http_url(value: object, wrong: str) -> SplitResult:
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise ValueError(wrong)
    try:
        url = urlsplit(value)
        host, _ = url.hostname, url.port  # a wrong port is found only when it is read
    except ValueError:
        raise ValueError(wrong) from None
    if not host:
        raise ValueError(wrong)
    return url


def _is_plain_and_near(url: SplitResult) -> bool:
    return url.scheme == "http" and url.hostname in LOOPBACK_HOSTS


def store_url(value: object) -> str:
    """Return the URL of the store. It may contain a password, so it is never shown."""
    scheme, _, rest = value.partition("://") if isinstance(value, str) else ("", "", "")
    if scheme == "postgresql" and isinstance(value, str):
        return _postgresql_url(value)
    if scheme != "sqlite" or not rest.strip("/"):
        raise ValueError(
            'must be a URL such as "sqlite:///var/lib/smtpproxy/smtpproxy.db" or'
            ' "postgresql://smtpproxy@db.example/smtpproxy"'
        )
    if not rest.startswith("/"):
        raise ValueError(
            "the path must be absolute, after three slashes:"
            f' "sqlite:///var/lib/smtpproxy/{rest.rpartition("/")[2]}"'
        )
    return "sqlite:///" + rest.lstrip("/")


def _postgresql_url(value: str) -> str:
    """Return the URL unchanged if it has a database and valid hosts; libpq checks the rest. It is
    never shown, because the faulty part may be part of the password."""
    try:
        url = urlsplit(value)
        parameters = dict(parse_qsl(url.query, strict_parsing=True)) if url.query else {}
    except ValueError:
        raise ValueError(_WRONG_HOST) from None
    database = url.path.strip("/")
    if not value.isascii() or not value.isprintable() or not database or "/" in database:
        raise ValueError('must name a database: "postgresql://smtpproxy@db.example/smtpproxy"')
    login, _, hosts = url.netloc.rpartition("@")
    ports = parameters.get("port", "")
    places = [
        place for text in (hosts, parameters.get("host")) if text for place in text.split(",")
    ]
    if "@" in login or not all(map(_is_database_host, places)):
        raise ValueError(_WRONG_HOST)
    if ports and not all(map(_is_port, ports.split(","))):
        raise ValueError(_WRONG_HOST)
    return value


def _is_database_host(text: str) -> bool:
    """Whether it is a host or a folder of sockets, with a valid port."""
    host = _DATABASE_HOST.fullmatch(text)
    return host is not None and (not host["port"] or _is_port(host["port"]))


def _is_port(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", text) is not None and 1 <= int(text) <= 65535


def replica_url(value: object) -> str:
    """Return the URL of a PostgreSQL standby."""
    if not isinstance(value, str) or not value.startswith("postgresql://"):
        raise ValueError(
            'must be a standby of PostgreSQL: "postgresql://smtpproxy@db2.example/smtpproxy"'
        )
    return _postgresql_url(value)


_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile")


def files_named(url: str) -> list[Path]:
    """Return the certificates, keys and passwords that the URL of a PostgreSQL database names."""
    given = parse_qsl(urlsplit(url).query)
    return [Path(value) for name, value in given if name in _FILES and value.startswith("/")]


def file(value: object) -> Path:
    """Return an absolute path."""
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError(f"{shown(value)} is not an absolute path; it must begin with /")
    return Path(value)


Address = Annotated[TcpAddress | UnixAddress, Written(address)]
IpAddress = Annotated[str, Written(ip_address)]
Hostname = Annotated[str, Written(hostname)]
Domain = Annotated[str, Written(domain)]
Network = Annotated[str, Written(network)]
Nameserver = Annotated[TcpAddress, Written(nameserver)]
PublicUrl = Annotated[str, Written(public_url)]
HelpUrl = Annotated[str, Written(help_url)]
WebhookUrl = Annotated[str, Written(webhook_url)]
StoreUrl = Annotated[str, Written(store_url)]
ReplicaUrl = Annotated[str, Written(replica_url)]
File = Annotated[Path, Written(file)]
