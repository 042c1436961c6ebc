"""The way to a home's MLflow and to its store, each taken on first use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from pipelines import entries
from pipelines.home import Home, address, reach
from pipelines.store import Store
from pipelines.tracking import connect
from tsformer.errors import UnavailableError


class Link:
    """MLflow and the store of one home. Safe to share between threads."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._client: MlflowClient | None = None
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        """The project's own database, made on first use."""
        if self._store is None:
            self._store = Store.of(self.home)
        return self._store

    @contextmanager
    def writing(self) -> Iterator[MlflowClient]:
        """MLflow, for writing; the first use of an own database makes it."""
        with self._asking(self._writer) as client:
            yield client

    @contextmanager
    def reading(self) -> Iterator[MlflowClient]:
        """MLflow that is there already: reading makes nothing."""
        with self._asking(self._reader) as client:
            yield client

    @contextmanager
    def _asking(self, client: Callable[[], MlflowClient]) -> Iterator[MlflowClient]:
        """Whatever goes wrong on the way to MLflow or in it becomes UnavailableError."""
        try:
            yield client()
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise UnavailableError(
                f"{address(self.home)} cannot be used: {entries.sentence(error)}"
            ) from error

    def _writer(self) -> MlflowClient:
        if self._client is None:
            if self.home.database is None:
                reach(self.home)
            self._client = connect(self.home)
        return self._client

    def _reader(self) -> MlflowClient:
        if self._client is None:
            reach(self.home)
        return self._writer()
