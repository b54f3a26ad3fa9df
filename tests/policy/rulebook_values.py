"""The table of values that docs/rulebooks.md must have.

`python -m tests.policy.rulebook_values` prints it.
"""

from smtpproxy.policy.model import Basis, Condition, Dealing, Rulebook
from smtpproxy.policy.rulebooks import BUILTIN_NAMES, PARAMETERS, builtin

_CUSTOMER, _CHARITY, _PROFESSIONAL = Basis.EXISTING_CUSTOMER, Basis.CHARITY, Basis.PROFESSIONAL
_OF_BASES = {
    "role_local_parts": Basis.GENERIC_ADDRESS,
    "consumer_domains": Basis.GENERIC_ADDRESS,
    "dealings": _CUSTOMER,
    "customer_period": _CUSTOMER,
    "customer_requires": _CUSTOMER,
    "charity_requires": _CHARITY,
    "charity_dealings": _CHARITY,
    "charity_since": _CHARITY,
    "professional_requires": _PROFESSIONAL,
}
_LONG = 15  # characters; a longer value is not repeated where it is the same

LISTS = ("role_local_parts", "consumer_domains")


def matters(parameter: str, book: Rulebook) -> bool:
    """Whether the parameter can make a difference under this rulebook."""
    match parameter:
        case "inquiry_period":
            return _CUSTOMER in book.bases and Dealing.INQUIRY in book.dealings
        case "activity_period":
            return _asks_for_activity(book)
        case "signs_of_life":
            return book.consent_period is not None or _asks_for_activity(book)
        case "lifting_methods":
            return bool(book.lifted_by_consent)
        case "longest_chain":
            return bool(book.disclosed_sources)
    return parameter not in _OF_BASES or _OF_BASES[parameter] in book.bases


def _asks_for_activity(book: Rulebook) -> bool:
    asked = {
        _CUSTOMER: book.customer_requires,
        _CHARITY: book.charity_requires,
        _PROFESSIONAL: book.professional_requires,
    }
    return any(Condition.ACTIVE in asked.get(basis, ()) for basis in book.bases)


def written(parameter: str, book: Rulebook) -> str:
    if not matters(parameter, book):
        return "–"
    value = getattr(book, parameter)
    if parameter in LISTS:
        return f"{len(value)} entries"
    return PARAMETERS[parameter].written(value)


def table() -> str:
    books = [builtin(name) for name in BUILTIN_NAMES]
    rows = [["", *(book.name for book in books)], ["-"] * (len(books) + 1)]
    for parameter in PARAMETERS:
        if parameter == "law":
            continue
        first, *others = (written(parameter, book) for book in books)
        short = ["as fr" if cell == first and len(cell) > _LONG else cell for cell in others]
        rows.append([f"`{parameter}`", first, *short])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    print(table(), end="")
