from pathlib import Path

import pytest

from tests.store.exchange.importing import Importing


@pytest.fixture
def importing(tmp_path: Path) -> Importing:
    return Importing(tmp_path)
