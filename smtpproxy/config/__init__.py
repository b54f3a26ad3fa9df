"""TOML to checked models to frozen settings (docs/settings.md)."""

from smtpproxy.config.faults import ConfigError
from smtpproxy.config.load import load, parse

__all__ = ["ConfigError", "load", "parse"]
