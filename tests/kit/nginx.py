"""A private nginx with given servers."""

from pathlib import Path

from tests.kit.parts import program
from tests.kit.ports import listens, wait_for
from tests.kit.processes import Running

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Nginx:
    """Started by `with`; `lines` go into the http context, `folder` is for its files."""

    def __init__(self, lines: str, port: int, folder: Path) -> None:
        self.port = port
        self._root = folder / "nginx"
        self._root.mkdir()
        places = "\n".join(f"{each}_temp_path {self._root}/{each};" for each in _TEMPORARY)
        self._config = self._root / "nginx.conf"
        self._config.write_text(
            f"daemon off; master_process off; pid {self._root}/pid;"
            f" error_log {self._root}/error.log;\nevents {{}}\nhttp {{\n{places}\n{lines}}}\n"
        )

    def __enter__(self) -> "Nginx":
        running = self._running = Running(
            [program("nginx"), "-e", f"{self._root}/error.log", "-c", str(self._config)],
            output=self._root / "output",
        )

        def up() -> bool:
            assert running.alive, f"nginx ended:\n{running.output}"
            return listens(self.port)

        wait_for(up, "nginx to listen")
        return self

    def __exit__(self, *exc: object) -> None:
        self._running.kill()
