"""Runs uploaded imports, one after the other, each in a separate process."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import structlog

from smtpproxy.config import ConfigError, load
from smtpproxy.disk import exists
from smtpproxy.settings import Settings
from smtpproxy.store.import_jobs import (
    MAPPING,
    UPLOAD,
    ImportJob,
    ImportJobs,
    JobEnd,
    private,
    shown_errors,
)

_LOOK = 0.5  # seconds between two looks at the folder
_EXPIRE = 3600.0  # seconds between two searches for old jobs
_TRIES = 3  # of a job whose process dies, and of an undo: the store may be away
_GRACE = 10.0  # seconds for a batch to end

_COMMANDS = {"contacts": "contact", "suppressions": "suppress"}

log = structlog.get_logger()


class ImportRunner:
    """Runs `smtpproxy contact import` and the like, as one would by hand.

    The next process continues where one that died stopped. The child also holds the lock of the
    folder, so that no other relay begins before it has ended.
    """

    def __init__(self, settings: Settings, ended: Callable[[str], None] = lambda _: None) -> None:
        """`ended` is told how each import ended, and of each that could not be undone."""
        self._ended = ended
        self._jobs = ImportJobs(settings.server.state_dir)
        self._tries: dict[str, int] = {}
        self._faults: tuple[str, ...] = ()

    async def run(self) -> None:
        """Run until cancelled; a job interrupted by that continues at the next start."""
        loop = asyncio.get_running_loop()
        expire_at = loop.time()
        while True:
            try:
                if self._jobs.has_work():
                    if loop.time() >= expire_at:
                        expire_at = loop.time() + _EXPIRE
                        await asyncio.to_thread(self._jobs.expire, datetime.now(UTC))
                    await self._work()
            except Exception as error:  # no disk, no process, no memory: mail goes on
                log.error("import job failed", error=str(error))
                await asyncio.sleep(60 * _LOOK)
            await asyncio.sleep(_LOOK)

    async def _work(self) -> None:
        if not self._jobs.undos() and not self._jobs.waiting():
            return
        if await self._commands_would_refuse():
            await asyncio.sleep(20 * _LOOK)
            return
        lock = self._jobs.lock()
        if lock is None:
            return
        try:  # another relay may have done some of it by now
            for id, by in self._jobs.undos():
                await self._undo(id, by, lock)
            for job in self._jobs.waiting()[:1]:
                await self._import(job, lock)
        finally:
            os.close(lock)

    async def _commands_would_refuse(self) -> bool:
        """Whether the configuration has faults, as while somebody edits it: then work waits."""
        faults = await asyncio.to_thread(_faults)
        if faults and faults != self._faults:
            log.warning("imports wait for the configuration", faults=faults)
        self._faults = faults
        return bool(faults)

    async def _undo(self, id: str, by: str, lock: int) -> None:
        arguments = ("import", "undo", id, "--json", f"--job={id} {by}")
        process = await _command(arguments, lock, asyncio.subprocess.PIPE, asyncio.subprocess.PIPE)
        try:
            _, errors = await process.communicate()
        except asyncio.CancelledError:
            await _end(process)
            raise
        if process.returncode:
            log.error("import not undone", id=id, error=errors.decode(errors="replace")[-500:])
            if self._may_try_again(f"{id}.undo"):
                return
            self._ended("not_undone")
        self._tries.pop(f"{id}.undo", None)
        self._jobs.undone(id)

    async def _import(self, job: ImportJob, lock: int) -> None:
        if self._jobs.is_cancelled(job.id):
            self._jobs.finish(job.id, JobEnd("cancelled", datetime.now(UTC)))
            self._ended("cancelled")
            return
        folder = self._jobs.begin(job.id)
        # A process that outlived the previous relay may already have finished.
        whole = _result(folder) is not None
        code = 0 if whole else await self._run_command(job, folder, lock)
        if code < 0 and not self._jobs.is_cancelled(job.id) and self._may_try_again(job.id):
            log.warning("import job died", id=job.id, code=code)
            return
        self._tries.pop(job.id, None)
        end = outcome(folder, cancelled=self._jobs.is_cancelled(job.id))
        self._jobs.finish(job.id, end)
        self._ended(end.outcome)
        log.info("import job ended", id=job.id, outcome=end.outcome)

    def _may_try_again(self, work: str) -> bool:
        tries = self._tries[work] = self._tries.get(work, 0) + 1
        return tries < _TRIES

    async def _run_command(self, job: ImportJob, folder: Path, lock: int) -> int:
        arguments = command_of(job, folder)
        with ExitStack() as files:
            result, errors = (
                files.enter_context(_created(folder / name)) for name in ("result", "errors")
            )
            process = await _command(arguments, lock, result, errors)
        try:
            ending = asyncio.create_task(process.wait())
            while not ending.done():
                await asyncio.wait((ending,), timeout=_LOOK)
                if not ending.done() and self._jobs.is_cancelled(job.id):
                    await _end(process)
            return await ending
        except asyncio.CancelledError:
            await _end(process)
            raise


def command_of(job: ImportJob, folder: Path) -> list[str]:
    """Return the command for a job, whose files are in `folder`."""
    arguments = [_COMMANDS[job.kind], "import", str(folder / UPLOAD), "--json"]
    arguments += [f"--job={job.id} {job.by}", *job.options]
    if job.dry_run:
        arguments.append("--dry-run")
    if exists(folder / MAPPING):
        arguments.append(f"--mapping={folder / MAPPING}")
    return arguments


def _faults() -> tuple[str, ...]:
    try:
        load(Path(os.environ["SMTPPROXY_CONFIG"]))
    except ConfigError as error:
        return error.faults
    except KeyError:  # not started by `serve`
        pass
    return ()


def _created(path: Path) -> BinaryIO:
    return open(path, "wb", opener=private)


async def _command(
    arguments: list[str] | tuple[str, ...], lock: int, output: object, errors: object
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "smtpproxy", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,  # type: ignore[arg-type]  # a file, or PIPE
        stderr=errors,  # type: ignore[arg-type]
        pass_fds=(lock,),
        start_new_session=True,  # Ctrl-C is for the relay, which ends it
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    """Let the process stop after its batch; each batch is all or nothing."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    try:
        await asyncio.wait_for(process.wait(), _GRACE)
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def outcome(folder: Path, *, cancelled: bool) -> JobEnd:
    """Return the outcome of a command that has ended."""
    now = datetime.now(UTC)
    result = _result(folder)
    if result is not None and result.get("lines"):
        return JobEnd("complete", now, result=result)
    if result is None and cancelled:
        return JobEnd("cancelled", now)
    # Without a line number, the fault is not in a line.
    errors = (folder / "errors").read_bytes().decode(errors="replace")
    error = shown_errors(errors, folder) or "the process ended without a message"
    return JobEnd("failed", now, error)


def _result(folder: Path) -> dict[str, Any] | None:
    """Return the result that a command printed, if it finished."""
    try:
        result = msgspec.json.decode((folder / "result").read_bytes())
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    return result if isinstance(result, dict) and "outlook" in result else None
