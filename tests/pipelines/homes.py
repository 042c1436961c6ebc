"""Homes for tests, with an MLflow database that is ready: making one runs a hundred migrations."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from pipelines.home import Home, configure
from pipelines.tracking import connect


def new_home(folder: Path) -> Home:
    """A home of its own in `folder`, as after a first use."""
    home = Home.of({"TSFORMER_HOME": str(folder)})
    home.prepare()
    assert home.database is not None
    shutil.copyfile(_template(), home.database)
    return home


@cache
def _template() -> Path:
    """The database of a home, made once for all tests of a process."""
    configure(os.environ, role="training")
    folder = Path(tempfile.mkdtemp(prefix="tsformer-home-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    home = Home.of({"TSFORMER_HOME": str(folder)})
    connect(home).search_experiments()
    assert home.database is not None
    return home.database
