"""How the service does, for Prometheus: GET /metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from serving.callers import needs
from serving.service import service_of

router = APIRouter(tags=["health"])


@router.get("/metrics", dependencies=[needs("reader")], response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Requests, latency, queue, batches, versions and fallbacks in Prometheus's text format."""
    service = service_of(request)
    library = service.library
    service.metrics.standing.set(
        oldest_s=service.host.oldest_s,
        stale_s=library.stale_s,
        versions=library.references,
        loaded=await service.host.loaded(),
    )
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)
