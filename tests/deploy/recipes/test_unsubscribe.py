"""A proxy that ends TLS in front of the unsubscribe links, as docs/unsubscribe.md has it."""

from collections.abc import Callable
from pathlib import Path

from tests.e2e.test_ways_out import bare, config, tokens
from tests.kit.certificates import Authority
from tests.kit.haproxy import Haproxy
from tests.kit.pages import blocks
from tests.kit.parts import needs, program
from tests.kit.ports import LOOPBACK, free_port
from tests.kit.processes import run
from tests.kit.relay import RelayProcess
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

pytestmark = needs("haproxy", "curl")


def test_only_the_links_are_there(
    filled: Callable[..., RelayProcess], mta: FakeUpstream, tmp_path: Path
) -> None:
    front = free_port()
    settings = config()
    public = f"https://{LOOPBACK}:{front}"
    settings["web"]["public_url"] = public
    settings["policy"] = {"help_url": f"{public}/why"}
    relay = filled(mta.address, settings)
    authority = Authority(tmp_path)
    pair = authority.issue("unsubscribe.shop.example")
    chain = tmp_path / "chain.pem"
    chain.write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
    web = relay.config["web"]["address"]
    lines = blocks(
        "unsubscribe.md",
        {
            "0.0.0.0:443": f"{LOOPBACK}:{front}",
            "/etc/haproxy/unsubscribe.pem": str(chain),
            "server web 127.0.0.1:8025": f"server web {web}",
        },
    )[2]

    def curl(path: str, *arguments: str) -> tuple[int, str]:
        done = run(
            program("curl"), "-sS", "--max-time", "20", "-w", "\n%{http_code}",
            "--cacert", str(authority.path), *arguments, f"https://{LOOPBACK}:{front}{path}",
        )  # fmt: skip
        body, _, code = done.stdout.rpartition("\n")
        return int(code), body

    with Haproxy(lines, front):
        assert relay.send(bare(), address("consent"))[0] == 250
        path = f"/u/{tokens(mta.messages[-1], public)}"
        assert curl(path)[0] == 200
        assert curl("/metrics")[0] == 404
        assert curl("/v1/docs")[0] == 404
        assert curl(path, "-X", "DELETE")[0] == 405
        assert relay.send(bare(), address("consent"))[0] == 250
        for version in ("--http1.1", "--http2"):
            assert curl(path, version, "-F", "List-Unsubscribe=One-Click")[0] == 200
        code, text = relay.send(bare(), address("consent"))
        assert code == 550
        help_url = text.partition(" see ")[2]
        assert help_url.removesuffix("/suppressed_unsubscribe") == f"{public}/why"
        code, page = curl(help_url.removeprefix(public))
        assert (code, "suppressed_unsubscribe" in page) == (200, True)
