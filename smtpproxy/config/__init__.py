"""TOML to checked models to frozen settings (docs/settings.md)."""

from smtpproxy.config.load import ConfigError, load, parse

__all__ = ["ConfigError", "load", "parse"]
