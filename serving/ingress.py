"""The ingress deployment: the application in the process that listens.

Whoever starts the service imports this, so what the application is made of is imported in its process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ray.serve.handle import DeploymentHandle

from pipelines.home import Home, configure
from serving import doors
from serving.heap import collect_rarely
from serving.logs import keep_log
from serving.replica import log_name
from serving.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

KNOWN = 256  # versions of which an ingress knows all but the weights


class Ingress:
    """An HTTP door of the Ray Serve application."""

    def __init__(
        self,
        home: Home,
        settings: Settings,
        shared: DeploymentHandle,
        own: Mapping[str, DeploymentHandle],
    ) -> None:
        self._home, self._settings, self._shared, self._own = home, settings, shared, own

    def __serve_build_asgi_app__(self) -> FastAPI:
        configure(os.environ, role="serving")
        from pipelines.registry import Registry  # imports MLflow, which reads the environment
        from serving.app import create
        from serving.library import Shelf
        from serving.remote import lane

        keep_log(self._home, log_name("ingress"))
        models = self._settings.models
        shelf = Shelf(Registry(self._home), capacity=KNOWN, device="cpu", weights=False)
        ingresses, slates = self._settings.server.replicas, self._home.at_work
        own = {
            name: lane(handle, models.own[name], slates=slates, doors=ingresses, placed=False)
            for name, handle in self._own.items()
        }
        shared = lane(
            self._shared,
            models.shared,
            slates=slates,
            doors=ingresses,
            placed=models.shared.most > 1,
        )
        app = create(shelf, shared, self._settings, own=own)
        self._library = app.state.service.library
        collect_rarely()
        return app

    async def leave(self) -> None:
        """Takes no more requests, and answers those that came: the service ends."""
        doors.leave()

    async def settled(self) -> None:
        """Waits until the default model is loaded, or it is known why not."""
        await self._library.settled()
