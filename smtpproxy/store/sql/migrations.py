"""The migrations of a store: files of SQL, numbered from 1."""

import re
from functools import cache
from importlib.resources import files

from smtpproxy.store.records import StoreMisconfigured

_NAME = re.compile(r"(\d{4})_\w+\.sql")


@cache
def numbered(package: str) -> tuple[str, ...]:
    """Return the SQL of every file in the folder `migrations` of a package, in order.

    They are read once, before a relay forks. Raises StoreMisconfigured if one is missing, or two
    have the same number.
    """
    found = [
        (int(match[1]), file.read_text("utf-8"))
        for file in files(package).joinpath("migrations").iterdir()
        if (match := _NAME.fullmatch(file.name))
    ]
    found.sort()
    if [number for number, _ in found] != list(range(1, len(found) + 1)):
        raise StoreMisconfigured("the program lacks migrations: install it again")
    return tuple([text for _, text in found])
