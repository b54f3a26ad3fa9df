"""The signing processes of a worker: order of signatures, and what happens when one ends."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from smtpproxy.process import signing as module
from smtpproxy.process.signing import SigningProcesses
from smtpproxy.relay.dkim_signing import Keyring, SigningKey, read_key
from smtpproxy.settings import DkimSettings
from tests.kit.dkim import KeyFile, verdicts
from tests.kit.messages import message
from tests.kit.ports import wait_for
from tests.kit.processes import descendants, name, wait_exit
from tests.kit.relay import RelayProcess
from tests.kit.upstream import FakeUpstream

DIGESTS = [sha256(b"%d" % number).digest() for number in range(300)]


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    files = [KeyFile(tmp_path, kind, kind=kind) for kind in ("rsa", "ed25519")]  # type: ignore[arg-type]
    files.append(KeyFile(tmp_path, "other", bits=1024))
    return Keyring({DkimSettings(f.domain, f.selector, f.path): read_key(f.path) for f in files})


@pytest.fixture
def processes(keyring: Keyring) -> Iterator[SigningProcesses]:
    yield SigningProcesses(keyring, 7, processors=8)
    assert not signing()


def signing() -> list[int]:
    return [pid for pid in descendants(os.getpid()) if name(pid) == "signing-7"]


def run(processes: SigningProcesses, work: Callable[[], Awaitable[None]]) -> None:
    async def running() -> None:
        processes.open()
        try:
            await work()
        finally:
            processes.close()

    asyncio.run(running())


def verify(key: SigningKey, signature: bytes, digest: bytes) -> None:
    public = load_der_public_key(key.record.public)
    assert isinstance(public, RSAPublicKey)
    public.verify(signature, digest, PKCS1v15(), Prehashed(SHA256()))


def test_each_request_gets_its_own_signature(keyring: Keyring, processes: SigningProcesses) -> None:
    """More requests at once than a process is given, with two keys."""
    rsa, _, other = keyring.keys

    async def work() -> None:
        asked = [(key, digest) for digest in DIGESTS for key in (rsa, other)]
        signatures = await asyncio.gather(*(processes.sign(*each) for each in asked))
        for (key, digest), signature in zip(asked, signatures, strict=True):
            verify(key, signature, digest)

    wait_for(lambda: len(signing()) == 1, "the process to have its name")
    run(processes, work)


def test_cancelled_requests_do_not_confuse_the_others(
    keyring: Keyring, processes: SigningProcesses
) -> None:
    rsa, *_ = keyring.keys

    faults: list[object] = []

    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
        tasks = [asyncio.create_task(processes.sign(rsa, digest)) for digest in DIGESTS]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        for task, digest in zip(tasks[1::2], DIGESTS[1::2], strict=True):
            verify(rsa, await task, digest)

    run(processes, work)
    assert faults == []


def test_a_failing_key_fails_only_its_message(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    key = read_key(file.path)

    def sign(digest: bytes) -> bytes:
        if digest == DIGESTS[0]:
            raise ValueError("key gone")
        return key.sign(digest)

    breaking = SigningKey(key.record, key.bits, sign)
    settings = DkimSettings(file.domain, file.selector, file.path)
    processes = SigningProcesses(Keyring({settings: breaking}), 7, processors=1)

    async def work() -> None:
        first, second = await asyncio.gather(
            *(processes.sign(breaking, digest) for digest in DIGESTS[:2]), return_exceptions=True
        )
        assert isinstance(first, OSError)
        assert str(first) == "ValueError: key gone"
        assert isinstance(second, bytes)
        verify(key, second, DIGESTS[1])

    run(processes, work)


def test_threads_sign_when_the_process_has_ended(
    keyring: Keyring, processes: SigningProcesses, capfd: pytest.CaptureFixture[str]
) -> None:
    rsa, *_ = keyring.keys

    async def work() -> None:
        (pid,) = wait_for(signing, "the process to have its name")
        os.kill(pid, signal.SIGSTOP)
        asking = [asyncio.create_task(processes.sign(rsa, digest)) for digest in DIGESTS]
        await asyncio.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        failed = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(each, OSError) for each in failed)
        verify(rsa, await processes.sign(rsa, DIGESTS[0]), DIGESTS[0])

    run(processes, work)


def test_an_unresponsive_process_times_out(
    keyring: Keyring, processes: SigningProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LATE", 0.05)
    rsa, *_ = keyring.keys

    async def work() -> None:
        (pid,) = wait_for(signing, "the process to have its name")
        for digest in DIGESTS:  # longer than that
            verify(rsa, await processes.sign(rsa, digest), digest)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(OSError, match="does not answer"):
            await asyncio.wait_for(processes.sign(rsa, DIGESTS[0]), 30)
        assert not signing()
        verify(rsa, await processes.sign(rsa, DIGESTS[0]), DIGESTS[0])

    run(processes, work)


def test_no_process_is_started_without_an_rsa_key(tmp_path: Path) -> None:
    file = KeyFile(tmp_path, kind="ed25519")
    settings = DkimSettings(file.domain, file.selector, file.path)
    SigningProcesses(Keyring({settings: read_key(file.path)}), 7, processors=8)
    assert not signing()


@pytest.mark.parametrize(("bits", "count"), [(2048, 1), (4096, 3)])
def test_large_keys_get_several_processes(tmp_path: Path, bits: int, count: int) -> None:
    file = KeyFile(tmp_path, bits=bits)
    key = read_key(file.path)
    settings = DkimSettings(file.domain, file.selector, file.path)
    processes = SigningProcesses(Keyring({settings: key}), 7, processors=3)
    wait_for(lambda: len(signing()) == count, "the processes to have their name")

    async def work() -> None:
        signatures = await asyncio.gather(*(processes.sign(key, each) for each in DIGESTS[:9]))
        for signature, digest in zip(signatures, DIGESTS, strict=False):
            verify(key, signature, digest)

    run(processes, work)


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path)


@pytest.fixture
def relay(tmp_path: Path, upstream: FakeUpstream, file: KeyFile) -> Iterator[RelayProcess]:
    config = {"dkim": [file.table()], "server": {"workers": 1}}
    with RelayProcess(tmp_path, upstream.address, config) as relay:
        yield relay


def test_the_process_inherits_only_its_socket_and_ends_with_its_worker(relay: RelayProcess) -> None:
    (pid,) = relay.children("signing")
    open_files = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
    assert len([each for each in open_files if "socket" in each]) == 1
    assert not [each for each in open_files if str(relay.config["server"]["state_dir"]) in each]
    os.kill(relay.workers[0], signal.SIGKILL)
    wait_exit(pid)
    wait_for(lambda: relay.children("signing"), "that of the next worker")


def test_the_process_of_a_killed_worker_does_not_become_a_zombie(relay: RelayProcess) -> None:
    """If the relay is process 1 of a container, it alone can reap orphans."""
    (pid,) = relay.children("signing")
    os.kill(pid, signal.SIGSTOP)
    os.kill(relay.workers[0], signal.SIGKILL)
    wait_for(lambda: len(relay.children("signing")) == 2, "that of the next worker")
    assert pid in descendants(relay.pid)
    os.kill(pid, signal.SIGCONT)
    wait_exit(pid)
    os.kill(relay.workers[0], signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the first one to be gone")


def test_mail_is_signed_after_the_process_was_killed(
    relay: RelayProcess, upstream: FakeUpstream, file: KeyFile
) -> None:
    def sends() -> None:
        assert relay.send(message(stream="receipts"), "jeanne@people.example")[0] == 250
        assert verdicts(upstream.messages[-1].data, file) == [True]

    sends()
    os.kill(relay.children("signing")[0], signal.SIGKILL)
    wait_for(lambda: "child ended" in relay.output, "its end to be told")
    sends()
    relay.must("reload")
    assert len(relay.children("signing")) == 1
    sends()


def test_why_a_worker_cannot_start_again_is_in_the_log(relay: RelayProcess, file: KeyFile) -> None:
    """As a line like all others: an address in it would be redacted."""
    file.path.rename(file.path.with_name("away.pem"))
    os.kill(relay.workers[0], signal.SIGKILL)
    wait_for(lambda: "exit code 1" in relay.output, "the next one to fail")
    assert all(line.startswith("{") for line in relay.output.splitlines())
    (why, *_) = [line["exception"] for line in relay.log if "exception" in line]
    assert why.endswith(f"KeyFault: {file.path} cannot be read: No such file or directory")
