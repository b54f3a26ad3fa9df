"""How a demo fails: in one line."""


class DemoError(Exception):
    """The demo cannot go on; its text is the line that the user reads."""
