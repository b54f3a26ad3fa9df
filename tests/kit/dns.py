"""A name server on loopback, UDP and TCP, that answers as a test says.

    with NameServer("shop.example. MX 10 mail.shop.example.") as dns:
        dns.add('shop.example. TXT "v=spf1 -all"')
        dns.fail("slow.example", "silence")

A name exists if it has records of any kind or names below it.
"""

import socket
import socketserver
import struct
import threading
from typing import Literal, Self

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.kit.ports import LOOPBACK, free_port

Fault = Literal["servfail", "refused", "silence", "garbage", "truncated", "no tcp"]
"""What to do instead of answering; `truncated` makes the client repeat the query over TCP, and `no
tcp` does the same, but then there is no answer."""

_TTL = 60


class NameServer:
    """Runs in threads until closed. `asked` has the questions so far, as `(name, kind)`; `ttls` are
    those of single names, and a name's absence carries the SOA of a zone above it, if it has one.
    """

    def __init__(self, *records: str) -> None:
        self.asked: list[tuple[str, str]] = []
        self.ttl = _TTL
        self.ttls: dict[str, int] = {}
        self._records: dict[tuple[dns.name.Name, str], list[str]] = {}
        self._faults: dict[dns.name.Name, Fault] = {}
        self.port = free_port()
        self._udp = _Udp((LOOPBACK, self.port), _UdpHandler)
        self._tcp = _Tcp((LOOPBACK, self.port), _TcpHandler)
        self._udp.owner = self._tcp.owner = self
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.02,))
            for server in (self._udp, self._tcp)
        ]
        for record in records:
            self.add(record)

    @property
    def address(self) -> str:
        """Its address for `dns.nameservers`."""
        return f"{LOOPBACK}:{self.port}"

    def add(self, record: str) -> None:
        """Add one record, written `NAME TYPE DATA`."""
        name, kind, data = record.split(None, 2)
        self._records.setdefault((_name(name), kind.upper()), []).append(data)

    def remove(self, name: str, kind: str) -> None:
        self._records.pop((_name(name), kind), None)

    def fail(self, name: str, fault: Fault) -> None:
        """Answer every question about `name` with this fault from now on."""
        self._faults[_name(name)] = fault

    def mend(self, name: str) -> None:
        self._faults.pop(_name(name), None)

    def count(self, name: str, kind: str) -> int:
        return self.asked.count((name.rstrip("."), kind))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        for server in (self._udp, self._tcp):
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join(10)

    def answer(self, wire: bytes, *, tcp: bool) -> bytes | None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((question.name.to_text(omit_final_dot=True).lower(), kind))
        fault = self._faults.get(question.name)
        if fault == "silence" or (fault == "no tcp" and tcp):
            return None
        if fault == "garbage":
            return wire[:2] + b"\xff" * 30
        response = dns.message.make_response(query, recursion_available=True)
        if fault in ("servfail", "refused"):
            response.set_rcode(dns.rcode.from_text(fault))
        elif fault in ("truncated", "no tcp") and not tcp:
            response.flags |= dns.flags.TC
        else:
            self._fill(response, question.name, kind)
        try:
            return response.to_wire(max_size=65_535 if tcp else 1_232)
        except dns.exception.TooBig:
            response.answer.clear()
            response.flags |= dns.flags.TC
            return response.to_wire()

    def _fill(self, response: dns.message.Message, name: dns.name.Name, kind: str) -> None:
        for _ in range(16):
            texts = self._records.get((name, kind))
            alias = self._records.get((name, "CNAME"))
            if texts:
                response.answer.append(self._rrset(name, kind, texts))
                return
            if not alias:
                break
            response.answer.append(self._rrset(name, "CNAME", alias))
            name = _name(alias[0])
        if not any(known.is_subdomain(name) for known, _ in self._records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        for (zone, of_kind), texts in self._records.items():
            if of_kind == "SOA" and name.is_subdomain(zone):
                response.authority.append(self._rrset(zone, "SOA", texts))

    def _rrset(self, name: dns.name.Name, kind: str, texts: list[str]) -> dns.rrset.RRset:
        ttl = self.ttls.get(name.to_text(omit_final_dot=True), self.ttl)
        return dns.rrset.from_text_list(name, ttl, "IN", kind, texts)


def _name(text: str) -> dns.name.Name:
    return dns.name.from_text(text)


class _Udp(socketserver.ThreadingUDPServer):
    owner: NameServer
    daemon_threads = True
    max_packet_size = 65_535


class _Tcp(socketserver.ThreadingTCPServer):
    owner: NameServer
    daemon_threads = True
    allow_reuse_address = True


class _UdpHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Udp)
        data, sock = self.request
        reply = self.server.owner.answer(data, tcp=False)
        if reply is not None:
            sock.sendto(reply, self.client_address)


class _TcpHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Tcp)
        sock: socket.socket = self.request
        sock.settimeout(5)
        stream = sock.makefile("rb")
        head = stream.read(2)
        if len(head) == 2:
            reply = self.server.owner.answer(stream.read(struct.unpack("!H", head)[0]), tcp=True)
            if reply is not None:
                sock.sendall(struct.pack("!H", len(reply)) + reply)
