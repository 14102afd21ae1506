"""One warm parent for all tests of the example job."""

import collections.abc
import sys

import pytest

from tests.examples import job

sys.path.insert(0, str(job.FOLDER))  # the job's modules import each other by bare name


@pytest.fixture(scope="session")
def start() -> collections.abc.Iterator[job.Starter]:
    starter = job.Starter()
    yield starter
    starter.close()
