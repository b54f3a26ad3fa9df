"""The version of the program. The package takes its own from here."""

VERSION = "0.1.0"
