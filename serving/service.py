"""What the routes work with."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from starlette.requests import Request

from serving.bodies import Bodies
from serving.failures import Failures
from serving.fits import Fits
from serving.host import Host
from serving.keys import KeyRing
from serving.library import Library
from serving.metrics import Metrics
from serving.rate import Rate
from serving.settings import Settings
from serving.traces import Traces


@dataclass(frozen=True, slots=True)
class Service:
    """The models by name, the place where they run, the settings, who may ask and how often.

    `woken` is set by whoever enters a job (`serving.runner`).
    """

    library: Library
    host: Host
    settings: Settings
    keys: KeyRing
    rate: Rate
    metrics: Metrics
    bodies: Bodies
    fits: Fits
    traces: Traces = field(default_factory=Traces)
    failures: Failures = field(default_factory=Failures)
    woken: threading.Event = field(default_factory=threading.Event)


def service_of(request: Request) -> Service:
    """The service that the application of `request` was created with."""
    service: Service = request.app.state.service
    return service
