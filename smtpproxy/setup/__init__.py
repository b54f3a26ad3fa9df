"""A first configuration: what the machine shows, the answers, and the files made from both."""

from pathlib import Path

UNIT_CONFIG = Path("/etc/smtpproxy/smtpproxy.toml")
"""The configuration of smtpproxy.service, and of every command without --config."""
