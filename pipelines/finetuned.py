"""Models that clients have fine-tuned: jobs `train` whose spec says how, and what came of them."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass

import sqlalchemy as sa

from pipelines.digests import all_vouched
from pipelines.store import Store
from pipelines.store_tables import JOB, MODEL_VERSION, RUN

MARK = "finetuned"  # the member of a spec that says how


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was asked for: `base` is the version that the weights began with."""

    steps: int
    depth: int
    loss: str
    model: str
    freq: str
    base: str


@dataclass(frozen=True, slots=True)
class Finetuned:
    """A model that is there: its newest version, how it was made, when and by which key."""

    name: str
    version: str
    how: Tuned
    created_ms: int
    created_by: str


def all_finetuned(store: Store, tenant: str, *, removed: bool = False) -> dict[str, Finetuned]:
    """The fine-tuned models of a tenant by name, the newest first; on demand with `removed` ones."""
    named = MODEL_VERSION.c.model + "/" + MODEL_VERSION.c.version
    query = (
        sa.select(JOB.c.spec, JOB.c.owner, RUN.c.result_version, RUN.c.finished_ms)
        .select_from(
            JOB.join(RUN, RUN.c.id == JOB.c.run_id).join(
                MODEL_VERSION, RUN.c.result_version == named
            )
        )
        .where(JOB.c.tenant == tenant, RUN.c.kind == "train", RUN.c.state == "succeeded")
        .where(sa.true() if removed else MODEL_VERSION.c.removed_ms.is_(None))
        .order_by(RUN.c.finished_ms.desc(), RUN.c.id.desc())
    )
    with store.read() as connection:
        rows = connection.execute(query).all()
    found: dict[str, Finetuned] = {}
    for row in rows:
        how = json.loads(zlib.decompress(row.spec)).get(MARK)
        name, _, version = row.result_version.partition("/")
        if how is not None and name not in found:
            found[name] = Finetuned(name, version, Tuned(**how), row.finished_ms, row.owner)
    return found


def is_free(store: Store, name: str) -> bool:
    """Whether no version of a model called `name` is there."""
    with store.read() as connection:
        known = all_vouched(connection, name).values()
    return all(version.removed_ms is not None for version in known)
