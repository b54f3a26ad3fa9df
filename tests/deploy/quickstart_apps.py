"""The three applications of docs/quickstart.md, each with a program in real use."""

import smtplib
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from tests.kit.parts import SEARCH_PATH, program
from tests.kit.processes import run

SHOP, MARKETING, ERP = "127.0.0.2", "127.0.0.3", "127.0.0.4"
"""The address each sends from, by which the report distinguishes them."""

_SHOP = """
const transport = require("nodemailer").createTransport({{
  host: "127.0.0.1", port: {port}, secure: false, pool: true, localAddress: "{source}",
}});
const all = {people}.map((to, number) => transport.sendMail({{
  from: "Fleurs <commandes@fleurs.example>", to, subject: `Votre commande ${{number}}`,
  text: "Merci pour votre commande.", headers: {{ "X-Mail-Stream": "receipts" }},
}}));
Promise.all(all).then(() => transport.close(), (error) => {{
  console.error(error);
  process.exit(1);
}});
"""
_ERP = """From: compta@fleurs.example
To: {to}
Subject: Votre facture
X-Mail-Stream: receipts

Veuillez trouver votre facture.
"""
_NEWS = """From: Fleurs <lettre@fleurs.example>
To: {to}
Subject: Les fleurs de la semaine
{header}
Des tulipes. Pour ne plus recevoir cette lettre : {link}
"""


class Apps(Struct, frozen=True):
    """All three, sending to the relay on that port."""

    port: int
    folder: Path

    def shop(self, people: Sequence[str]) -> None:
        """The shop sends with Nodemailer."""
        script = self.folder / "shop.js"
        script.write_text(_SHOP.format(port=self.port, source=SHOP, people=list(people)))
        self._run(program("node"), str(script), NODE_PATH="/usr/share/nodejs")

    def erp(self, people: Sequence[str]) -> None:
        """The ERP runs under cron, with msmtp as sendmail."""
        for to in people:
            self._run(
                *("msmtp", "--host=127.0.0.1", f"--port={self.port}", f"--source-ip={ERP}"),
                *("--from=compta@fleurs.example", "--domain=erp.fleurs.example", "--", to),
                stdin=_ERP.format(to=to).encode(),
            )

    def newsletter(self, people: Sequence[str], *, with_header: bool) -> dict[str, str]:
        """The marketing tool; return the refused recipients with their replies."""
        refused = {}
        with smtplib.SMTP("127.0.0.1", self.port, source_address=(MARKETING, 0)) as client:
            for number, to in enumerate(people):
                link = f"https://fleurs.example/stop/{number}"
                header = f"List-Unsubscribe: <{link}>\n" if with_header else ""
                header += "List-Unsubscribe-Post: List-Unsubscribe=One-Click\n" * with_header
                text = _NEWS.format(to=to, link=link, header=header)
                try:
                    client.sendmail("lettre@fleurs.example", [to], text)
                except smtplib.SMTPDataError as error:  # the stream is known only from the header
                    refused[to] = f"{error.smtp_code} {str(error.smtp_error, 'utf-8')}"
        return refused

    def _run(self, *argv: str, stdin: bytes = b"", **env: str) -> None:
        environment = {"HOME": str(self.folder), "PATH": SEARCH_PATH, "no_proxy": "*", **env}
        done = run(*argv, stdin=stdin, cwd=self.folder, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
