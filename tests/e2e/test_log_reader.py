"""The reader of the log may stop or disappear: mail and commands are not affected."""

import json
import os
from pathlib import Path

from tests.kit.messages import marketing
from tests.kit.relay import RelayProcess
from tests.kit.upstream import FakeUpstream

MANY = 2 * 65_536 // 200
"""More log lines about refusals than a pipe holds."""


def test_mail_does_not_wait_for_the_reader_of_the_log(tmp_path: Path, mta: FakeUpstream) -> None:
    relay = RelayProcess(tmp_path, mta.address, {"web": {}})
    pipe = tmp_path / "relay.log"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with relay:
        for _ in range(MANY):
            code, text = relay.send(marketing(), "stranger@people.example")
            assert (code, "no_record" in text) == (550, True)
        assert json.loads(relay.must("status", "--json"))["alive"] == 1
        os.read(reader, 65_536)
        relay.send(marketing(), "stranger@people.example")
        said = json.loads(os.read(reader, 65_536))
        assert (said["event"], said["lines_lost"] > 10) == ("refused", True)
        os.close(reader)
        for _ in range(2):
            assert relay.send(marketing(), "stranger@people.example")[0] == 550
            relay.must("reload")
        assert relay.terminate() == 0
