"""What several files of these tests look at."""

import pytest
from toy_runs import train
from toy_training import leaves


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A run nobody disturbed: its work directory, and the leaves of its last state."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, leaves(train(workdir))
