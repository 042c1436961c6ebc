"""Which replica of the shared deployment a model is asked of.

Every model has its own order of the replicas (rendezvous hashing: Thaler and Ravishankar, 1998), the
same in each ingress and without anybody telling anybody. It is asked of the first that has room, so a
model that is asked little is in the memory of one replica, and one that is asked much of as many as it
takes; where a replica comes or goes, only its share of the models moves.
"""

from __future__ import annotations

from hashlib import blake2b

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


class Placing(RequestRouter):
    """Ray Serve's router for handles with a `multiplexed_model_id`."""

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """See `RequestRouter`: what follows is asked where what stands before it has no room."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # where none of them has room
        name = pending_request.metadata.multiplexed_model_id
        order = sorted(candidate_replicas, key=lambda each: weight(name, each.replica_id.unique_id))
        return [[replica] for replica in order]


def weight(name: str, replica: str) -> bytes:
    """Where a replica stands in the order of the model `name`: the least weight comes first."""
    return blake2b(f"{name} {replica}".encode(), digest_size=8).digest()
