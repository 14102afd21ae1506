import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from tests.keeper.nest import Nest


@pytest.fixture
def nest() -> Iterator[Nest]:
    path = pathlib.Path(tempfile.mkdtemp(prefix="or-"))
    made = Nest(path)
    yield made
    made.sweep()
    shutil.rmtree(path, ignore_errors=True)
