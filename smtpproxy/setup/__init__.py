"""A first configuration: what the machine shows, what was answered, the files made of both."""

from pathlib import Path

UNIT_CONFIG = Path("/etc/smtpproxy/smtpproxy.toml")
"""What smtpproxy.service names, and every command without --config."""
