"""A TLS-terminating proxy in front of the unsubscribe links, as in docs/unsubscribe.md."""

from collections.abc import Callable
from pathlib import Path

from tests.e2e.test_ways_out import bare, config, tokens
from tests.kit.certificates import Authority
from tests.kit.haproxy import Haproxy
from tests.kit.nginx import Nginx
from tests.kit.pages import blocks
from tests.kit.parts import needs, program
from tests.kit.ports import LOOPBACK, free_port
from tests.kit.processes import run
from tests.kit.relay import RelayProcess
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

pytestmark = needs("curl")


class Site:
    """A relay whose links use the address of a proxy that listens on `port`."""

    def __init__(
        self, filled: Callable[..., RelayProcess], mta: FakeUpstream, folder: Path
    ) -> None:
        self.port = free_port()
        self.mta = mta
        self.public = f"https://{LOOPBACK}:{self.port}"
        settings = config()
        settings["web"] |= {"public_url": self.public, "trusted": [LOOPBACK]}
        settings["policy"] = {"help_url": f"{self.public}/why"}
        self.relay = filled(mta.address, settings)
        self.web = self.relay.config["web"]["address"]
        self.authority = Authority(folder)
        self.pair = self.authority.issue("unsubscribe.shop.example")

    def curl(self, path: str, *arguments: str) -> tuple[int, str]:
        done = run(
            program("curl"), "-sS", "--max-time", "20", "-w", "\n%{http_code}",
            "--cacert", str(self.authority.path), *arguments, self.public + path,
        )  # fmt: skip
        body, _, code = done.stdout.rpartition("\n")
        return int(code), body

    def serves_only_the_links(self, refused: int) -> None:
        """Check what the proxy passes on; `refused` is the status for other methods."""
        assert self.relay.send(bare(), address("consent"))[0] == 250
        path = f"/u/{tokens(self.mta.messages[-1], self.public)}"
        assert self.curl(path)[0] == 200
        assert self.curl("/metrics")[0] == 404
        assert self.curl("/v1/docs")[0] == 404
        assert self.curl(path, "-X", "DELETE")[0] == refused
        assert self.relay.send(bare(), address("consent"))[0] == 250
        for version in ("--http1.1", "--http2"):
            assert self.curl(path, version, "-F", "List-Unsubscribe=One-Click")[0] == 200
        code, text = self.relay.send(bare(), address("consent"))
        assert code == 550
        help_url = text.partition(" see ")[2]
        assert help_url.removesuffix("/suppressed_unsubscribe") == f"{self.public}/why"
        code, page = self.curl(help_url.removeprefix(self.public))
        assert (code, "suppressed_unsubscribe" in page) == (200, True)


@needs("haproxy")
def test_haproxy_passes_on_only_the_links(
    filled: Callable[..., RelayProcess], mta: FakeUpstream, tmp_path: Path
) -> None:
    site = Site(filled, mta, tmp_path)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(site.pair.certificate.read_bytes() + site.pair.key.read_bytes())
    lines = blocks(
        "unsubscribe.md",
        {
            "bind 0.0.0.0:443": f"bind {LOOPBACK}:{site.port}",
            "/etc/haproxy/unsubscribe.pem": str(chain),
            "server web 127.0.0.1:8025": f"server web {site.web}",
        },
    )[2]
    with Haproxy(lines, site.port):
        site.serves_only_the_links(405)


@needs("nginx")
def test_nginx_passes_on_only_the_links(
    filled: Callable[..., RelayProcess], mta: FakeUpstream, tmp_path: Path
) -> None:
    site = Site(filled, mta, tmp_path)
    lines = blocks(
        "unsubscribe.md",
        {
            "listen 0.0.0.0:443": f"listen {LOOPBACK}:{site.port}",
            "/etc/nginx/unsubscribe.pem": str(site.pair.certificate),
            "/etc/nginx/unsubscribe.key": str(site.pair.key),
            "server 127.0.0.1:8025;": f"server {site.web};",
        },
    )[3]
    with Nginx(lines, site.port, tmp_path):
        site.serves_only_the_links(403)
