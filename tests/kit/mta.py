"""The MTA's side of the milter protocol: sends what it is told to, and reads the answers.

Written from Sendmail's mfdef.h, not from smtpproxy's codec, so that each exposes the other's
mistakes.
"""

import contextlib
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.kit.ports import LOOPBACK

POSTFIX_ACTIONS = 0x1FF
POSTFIX_STEPS = 0x1FFFFF
FINAL = "acdrty"
"""Replies that end a command; edits and progress come before them."""

Packet = tuple[str, bytes]


def encode(letter: str, data: bytes = b"") -> bytes:
    return struct.pack("!I", len(data) + 1) + letter.encode() + data


def strings(*values: str | bytes) -> bytes:
    return b"".join((v.encode() if isinstance(v, str) else v) + b"\0" for v in values)


def split_packets(data: bytes) -> list[Packet]:
    """All packets of a stream of complete packets."""
    packets = []
    while data:
        (length,) = struct.unpack_from("!I", data)
        packets.append((chr(data[4]), data[5 : 4 + length]))
        assert len(data) >= 4 + length, "the last packet is not complete"
        data = data[4 + length :]
    return packets


def negotiation(
    version: int = 6, actions: int = POSTFIX_ACTIONS, steps: int = POSTFIX_STEPS
) -> bytes:
    return encode("O", struct.pack("!III", version, actions, steps))


def connection(host: str = "client.example", address: str = "192.0.2.9", port: int = 4321) -> bytes:
    family = b"6" if ":" in address else b"4"
    return encode("C", strings(host) + family + struct.pack("!H", port) + strings(address))


def macros(letter: str, values: Mapping[str, str]) -> bytes:
    return encode("D", letter.encode() + strings(*[s for pair in values.items() for s in pair]))


@dataclass
class Outcome:
    """A milter's answer at the end of a message: edits in order, then the final reply."""

    final: str  # its letter
    reply: str = ""  # of REPLYCODE, %% as %
    edits: list[Packet] = field(default_factory=list)
    progress: int = 0

    @property
    def deleted(self) -> list[str]:
        return [data[:-1].decode() for letter, data in self.edits if letter == "-"]


class Mta:
    """One milter connection. Steps to which the milter sends no reply are not waited for."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.version = self.actions = self.steps = 0
        self.wanted_macros: dict[int, list[str]] = {}
        self._buffer = b""

    def send(self, *packets: bytes) -> None:
        self.socket.sendall(b"".join(packets))

    def read(self) -> Packet:
        """The next packet; raises EOFError at the end of the connection."""
        while len(self._buffer) < 4 or len(self._buffer) < 4 + self._length():
            try:
                data = self.socket.recv(65_536)
            except ConnectionError:
                data = b""
            if not data:
                raise EOFError
            self._buffer += data
        end = 4 + self._length()
        packet = chr(self._buffer[4]), self._buffer[5:end]
        self._buffer = self._buffer[end:]
        return packet

    def _length(self) -> int:
        return int(struct.unpack_from("!I", self._buffer)[0])

    def negotiate(
        self, version: int = 6, actions: int = POSTFIX_ACTIONS, steps: int = POSTFIX_STEPS
    ) -> None:
        self.send(negotiation(version, actions, steps))
        letter, data = self.read()
        assert letter == "O"
        self.version, self.actions, self.steps = struct.unpack_from("!III", data)
        rest = data[12:]
        while rest:
            stage = int(struct.unpack_from("!I", rest)[0])
            names, _, rest = rest[4:].partition(b"\0")
            self.wanted_macros[stage] = names.decode().split()

    def connect(
        self,
        version: str = "Postfix 3.7.11",
        *,
        address: str = "192.0.2.9",
        helo: str = "client.example",
    ) -> None:
        self.send(macros("C", {"v": version, "{client_addr}": address}))
        self._say("C", connection(address=address)[5:], 0x1000)
        self._say("H", strings(helo), 0x2000)

    def mail(self, sender: str, *parameters: str, **told: str) -> None:
        if told:
            self.send(macros("M", told))
        self._say("M", strings(f"<{sender}>", *parameters), 0x4000)

    def rcpt(self, path: str, **told: str) -> Outcome:
        if told:
            self.send(macros("R", told))
        self.send(encode("R", strings(f"<{path}>")))
        return self.outcome()

    def message(self, message: bytes, queue_id: str = "4QID", chunk: int = 65_535) -> Outcome:
        """Send the header fields, body and end of a message with CRLF line ends."""
        if not self.steps & 0x200 and self.version >= 4:
            self._say("T", b"", 0x10000)
        head, _, body = message.partition(b"\r\n\r\n")
        for name, value in fields(head):
            if not self.steps & 0x100000:
                value = value.removeprefix(b" ")
            self._say("L", strings(name, value), 0x80)
        if not self.steps & 0x40:
            self._say("N", b"", 0x40000)
        for start in range(0, len(body), chunk):
            self._say("B", body[start : start + chunk], 0x80000)
        self.send(macros("E", {"i": queue_id}), encode("E"))
        return self.outcome()

    def outcome(self) -> Outcome:
        """Read to the final reply."""
        outcome = Outcome("")
        while not outcome.final:
            letter, data = self.read()
            if letter == "p":
                outcome.progress += 1
            elif letter in FINAL:
                outcome.final = letter
                if letter == "y":
                    outcome.reply = data[:-1].decode().replace("%%", "%")
            else:
                outcome.edits.append((letter, data))
        return outcome

    def _say(self, letter: str, data: bytes, unanswered: int) -> None:
        self.send(encode(letter, data))
        if not self.steps & unanswered:
            assert self.read() == ("c", b"")


def fields(head: bytes) -> Sequence[tuple[bytes, bytes]]:
    """Names and values of header fields, folded values with LF."""
    found: list[tuple[bytes, bytes]] = []
    for line in head.split(b"\r\n") if head else []:
        if line[:1] in (b" ", b"\t") and found:
            found[-1] = found[-1][0], found[-1][1] + b"\n" + line
        else:
            name, _, value = line.partition(b":")
            found.append((name, value))
    return found


@contextlib.contextmanager
def mta(port: int, timeout: float = 10.0) -> Iterator[Mta]:
    """A connection to a milter's TCP port."""
    with socket.create_connection((LOOPBACK, port), timeout=timeout) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield Mta(connection)
