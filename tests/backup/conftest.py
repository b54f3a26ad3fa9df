"""A machine with a configuration and a store, its backups, and what survives a fire."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.stored import DAY_ONE, Stored
from tests.kit import messages

WHOLE = ("--journals-whole", "--by", "Ada Martin", "--reason", "moved, not copied")


class Machine(Stored):
    """A machine that runs commands; `state` is its state_dir."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        super().__init__(folder)
        self.state = folder / "state"

    def people(self, addresses: Sequence[str]) -> None:
        """Import contacts who consented to offers."""
        told = {
            "source": "direct",
            "collected_at": DAY_ONE,
            "informed_at": DAY_ONE,
            "optout_offered": True,
            "consents": [
                {
                    "purpose": "offers",
                    "method": "unticked_box",
                    "given_at": DAY_ONE,
                    "evidence": {"wording": "form v3"},
                }
            ],
        }
        lines = "\n".join(json.dumps({"address": address, **told}) for address in addresses)
        self.run("contact", "import", self.file("people.ndjson", lines + "\n"))

    def backup(self, name: str = "backup") -> Path:
        folder = self.folder / name
        self.run("backup", str(folder))
        return folder

    def burn(self) -> Path:
        """Move all of state_dir away and return its new place."""
        left = self.folder / "burnt"
        self.state.rename(left)
        return left

    def journals(self, left: Path) -> Path:
        """Copy the journals to another machine, as operators do."""
        return shutil.copytree(left / "audit", self.folder / "shipped")

    def verdict(self, address: str) -> str:
        """The verdict on an offer to somebody now: `allow`, or the reason of a refusal."""
        message = self.file("offer.eml", messages.marketing())
        asked = (message, "--mail-from", "news@shop.example", "--rcpt", address)
        told = self.run("explain", *asked, "--json", code=None)
        assert told.stdout, told.stderr
        (one,) = json.loads(told.stdout)["recipients"]
        return str(one["verdict"] if one["reason"] == "none" else one["reason"])


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "one")
