"""Networks that fall silent: no errors, everything waits."""

import contextlib
import socket
import threading
from collections.abc import Iterator

from tests.kit.ports import LOOPBACK


@contextlib.contextmanager
def dead_machine() -> Iterator[int]:
    """The port of an address that does not even accept connections: its queue is full."""
    with contextlib.ExitStack() as held:
        server = held.enter_context(socket.socket())
        server.bind((LOOPBACK, 0))
        server.listen(0)
        for _ in range(3):
            filling = held.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(server.getsockname())
        yield int(server.getsockname()[1])


class SilentNetwork:
    """A network between a client and a server that can fall silent.

    It forwards connections to `port`. While it is `silent`, octets wait, as if packets were lost
    and resent; `cut` ends every connection and refuses new ones until `mend`."""

    def __init__(self, server: int) -> None:
        self._server = server
        self._flows = threading.Event()
        self._flows.set()
        self._is_cut = False
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server((LOOPBACK, 0), backlog=1024)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def fall_silent(self) -> None:
        self._flows.clear()

    def cut(self) -> None:
        self._is_cut = True
        self._flows.set()
        for each in list(self._open):
            _end(each)

    def mend(self) -> None:
        self._is_cut = False
        self._flows.set()

    def close(self) -> None:
        self.cut()
        _end(self._listener)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        self._flows.wait()
        server = socket.socket()
        try:
            if self._is_cut:
                raise ConnectionRefusedError
            server.connect((LOOPBACK, self._server))
        except OSError:
            client.close()
            server.close()
            return
        self._open |= {client, server}
        for one, other in ((client, server), (server, client)):
            threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while octets := source.recv(65_536):
                self._flows.wait()
                sink.sendall(octets)
        self._flows.wait()  # nor is the end of a connection passed on
        for each in (source, sink):
            _end(each)
            self._open.discard(each)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
