"""Libraries that send several messages over one transport, with the code in
docs/deploy/clients.md: each shows why a message was refused, and sends the next.

A program reads jobs, one JSON object per line, and writes the error: "" if the message was sent.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit.pages import section
from tests.kit.parts import SEARCH_PATH, needs
from tests.kit.relay import RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import At, FakeUpstream, Reply

FIELDS = {
    "List-Unsubscribe": "<https://unsubscribe.shop.example/u/4aP1>",
    "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
}

NODEMAILER = """const nodemailer = require("nodemailer");
SETTINGS
require("readline").createInterface({ input: process.stdin }).on("line", async (line) => {
  const { to, fields: headers } = JSON.parse(line);
  const mail = { from: "news@shop.example", to, subject: "New shoes", text: "In.", headers };
  const said = await transport.sendMail(mail).then(() => "", (error) => error.response);
  console.log(JSON.stringify(said));
}).on("close", () => process.exit());
"""
PHP = """<?php
while (($line = fgets(STDIN)) !== false) {
    $job = json_decode($line, true);
    $said = '';
    try {
        SEND
    } catch (Exception $error) {
        CAUGHT
    }
    echo json_encode($said), "\\n";
}
"""
PHPMAILER = """<?php
require '/usr/share/php/libphp-phpmailer/autoload.php';
$mail = new PHPMailer\\PHPMailer\\PHPMailer(true);
SETTINGS
$mail->setFrom('news@shop.example');
$mail->Subject = 'New shoes';
$mail->Body = 'In.';
?>""" + PHP.replace("CAUGHT", "$said = $mail->ErrorInfo;").replace(
    "SEND",
    """$mail->clearAddresses();
        $mail->clearCustomHeaders();
        $mail->addAddress($job['to']);
        foreach ($job['fields'] as $name => $value) $mail->addCustomHeader($name, $value);
        $mail->send();""",
)
SYMFONY = """<?php
require '/usr/share/php/Symfony/Component/Mailer/autoload.php';
require '/usr/share/php/Symfony/Component/Mime/autoload.php';
SETTINGS
?>""" + PHP.replace("CAUGHT", "$said = $error->getMessage();").replace(
    "SEND",
    """$mail = (new Symfony\\Component\\Mime\\Email())->from('news@shop.example')
            ->to($job['to'])->subject('New shoes')->text('In.');
        foreach ($job['fields'] as $name => $value)
            $mail->getHeaders()->addTextHeader($name, $value);
        $transport->send($mail);""",
)
SWIFT = """<?php
require '/usr/share/php/Swift/autoload.php';
function mailer() {
    SETTINGS
    return new Swift_Mailer($transport);
}
$mailer = mailer();
?>""" + PHP.replace(
    "CAUGHT",
    """$said = $error->getMessage();
        if ($error->getCode() == 421) $mailer = mailer();""",
).replace(
    "SEND",
    """$mail = (new Swift_Message('New shoes'))->setFrom('news@shop.example')
            ->setTo($job['to'])->setBody('In.');
        foreach ($job['fields'] as $name => $value)
            $mail->getHeaders()->addTextHeader($name, $value);
        $mailer->send($mail);""",
)
RUBY = """require "json"
require "mail"
SETTINGS
while (line = $stdin.gets)
  job = JSON.parse(line)
  mail = Mail.new(from: "news@shop.example", to: job["to"], subject: "New shoes", body: "In.")
  job["fields"].each { |name, value| mail.header[name] = value }
  begin
    mail.deliver!
    said = ""
  rescue Net::SMTPError => error
    said = error.message
  end
  $stdout.puts(said.to_json)
  $stdout.flush
end
"""
PERL = """use strict;
use JSON::PP;
use Net::SMTP;
my $smtp;
sub connection {
SETTINGS
  return $smtp;
}
$smtp = connection();
my $json = JSON::PP->new->allow_nonref;
$| = 1;
while (<STDIN>) {
  my $job = decode_json($_);
  my $head = join "", map { "$_: $job->{fields}{$_}\\n" } keys %{$job->{fields}};
  my $text = "From: news\\@shop.example\\nTo: $job->{to}\\nSubject: New shoes\\n$head\\nIn.\\n";
  my $sent = $smtp->mail("news\\@shop.example") && $smtp->to($job->{to}) && $smtp->data($text);
  my $said = $sent ? "" : $smtp->code . " " . $smtp->message;
  $smtp = connection() if $said =~ /^421/;
  print $json->encode($said), "\\n";
}
"""

LIBRARIES = [
    pytest.param("Nodemailer", "node", NODEMAILER, marks=needs("nodemailer")),
    pytest.param("PHPMailer", "php", PHPMAILER, marks=needs("phpmailer")),
    pytest.param("Symfony Mailer", "php", SYMFONY, marks=needs("symfony-mailer")),
    pytest.param("Swift Mailer", "php", SWIFT, marks=needs("swiftmailer")),
    pytest.param("Ruby: Mail", "ruby", RUBY, marks=needs("ruby-mail")),
    pytest.param("Perl: Net::SMTP", "perl", PERL, marks=needs("perl")),
]


class Program:
    """One running library; counts the messages sent."""

    def __init__(self, argv: list[str], folder: Path) -> None:
        self.sent = 0
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={"PATH": SEARCH_PATH, "NODE_PATH": "/usr/share/nodejs", "LC_ALL": "C.UTF-8"},
        )

    def send(self, name: str, fields: dict[str, str] = FIELDS) -> str:
        """The library's error message, without line ends."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"to": address(name), "fields": fields}) + "\n")
        self._process.stdin.flush()
        said = str(json.loads(self._process.stdout.readline()))
        self.sent += not said
        return " ".join(said.split())

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def relay(mta: FakeUpstream, filled: Callable[..., RelayProcess]) -> RelayProcess:
    return filled(mta.address, {"listener": [listener("apps", "offers", default="offers")]})


@pytest.fixture
def program(
    request: pytest.FixtureRequest, relay: RelayProcess, tmp_path: Path
) -> Iterator[Program]:
    heading, interpreter, text = request.param
    settings = section("deploy/clients.md", heading)[0].replace("2525", str(relay.port()))
    (tmp_path / "program").write_text(text.replace("SETTINGS", settings))
    program = Program([interpreter, "program"], tmp_path)
    yield program
    program.stop()


@pytest.mark.parametrize(
    "program",
    [pytest.param(one.values, id=str(one.values[0]), marks=one.marks) for one in LIBRARIES],
    indirect=True,
)
def test_each_refusal_is_shown_and_the_next_message_goes(
    program: Program, relay: RelayProcess, mta: FakeUpstream
) -> None:
    mta.begin(At("rcpt", Reply("451 4.3.2 the disk is full"), nth=3))
    refused = program.send("withdrawn")
    assert "<withdrawn@people.example> refused: consent_withdrawn (stream offers) id=" in refused
    assert program.send("consent") == ""
    assert "refused: unsubscribe_missing (stream offers) id=" in program.send("consent", {})
    assert "the disk is full" in program.send("consent")
    assert program.send("consent") == ""
    relay.must("reload")
    assert "421" in (said := program.send("consent")) or said == ""
    assert program.send("consent") == ""
    assert len(mta.messages) == program.sent
