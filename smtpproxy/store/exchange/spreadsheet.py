"""openpyxl within limits: it reads whole parts of a spreadsheet, wherever the file says they are.

Loaded with the first spreadsheet: nothing else in the program needs openpyxl.
"""

from collections.abc import Callable
from typing import Any, BinaryIO
from zipfile import ZipFile, ZipInfo

from openpyxl.reader.excel import ExcelReader
from openpyxl.worksheet import _read_only
from openpyxl.worksheet._reader import FORMULA_TAG, WorkSheetParser
from openpyxl.xml.constants import SHARED_STRINGS

_NOT_CALCULATED = "#FORMULA!"
"""The value of a formula whose result is not in the file, because the program that wrote it cannot
calculate. If it were read as empty, a refusal found by a formula would be lost."""


class _Archive(ZipFile):
    """An archive that reads a whole part only after `check` has let it pass."""

    def __init__(self, file: BinaryIO, check: Callable[[ZipInfo], None]) -> None:
        super().__init__(file)
        self._check = check

    def read(self, name: Any, pwd: bytes | None = None) -> bytes:
        self._check(name if isinstance(name, ZipInfo) else self.getinfo(name))
        return super().read(name, pwd)


class _Parser(WorkSheetParser):  # type: ignore[misc]  # openpyxl has no types
    def parse_cell(self, element: Any) -> Any:
        cell = super().parse_cell(element)
        is_formula = element.find(FORMULA_TAG) is not None
        if is_formula and cell["value"] is None and element.get("t") != "str":  # an empty text
            cell["value"] = _NOT_CALCULATED
        return cell


_read_only.WorkSheetParser = _Parser


class _Reader(ExcelReader):  # type: ignore[misc]  # openpyxl has no types
    def __init__(
        self,
        file: BinaryIO,
        check_parsed: Callable[[ZipInfo], None],
        check_texts: Callable[[ZipInfo], None],
    ) -> None:
        super().__init__(file, read_only=True, data_only=True, keep_links=False)
        self.archive = _Archive(file, check_parsed)
        self._check_texts = check_texts

    def read_strings(self) -> None:
        texts = self.package.find(SHARED_STRINGS)
        if texts is not None:
            self._check_texts(self.archive.getinfo(texts.PartName[1:]))
        super().read_strings()

    def read_chartsheet(self, sheet: Any, rel: Any) -> None:
        """It has no rows."""


def open_book(
    file: BinaryIO,
    *,
    check_parsed: Callable[[ZipInfo], None],
    check_texts: Callable[[ZipInfo], None],
) -> Any:
    """Return the workbook; its sheets are read row by row.

    The checks raise what this raises then: `check_parsed` of every part that becomes objects as a
    whole, `check_texts` of the texts of cells, which are kept in memory.
    """
    reader = _Reader(file, check_parsed, check_texts)
    reader.read()
    return reader.wb
