"""`python -m pipelines.job RUN ATTEMPT`: what a submission starts, in a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial

from pipelines.home import Home, configure
from tsformer.errors import TsformerError
from tsformer.memory import keep_freed_memory

GIVEN_UP = 3


def main(arguments: Sequence[str]) -> int:
    """Works on the run; 0 if all is well, as a cluster shows it."""
    configure(os.environ, role="training")  # before anything imports MLflow
    keep_freed_memory()
    from pipelines.attempt import attempt
    from pipelines.ledger import Ledger
    from pipelines.retrain import retrain
    from pipelines.store import Store

    run_id, number = arguments
    home = Home.of(os.environ)
    try:
        ledger = Ledger(Store.of(home))
        job = partial(retrain, home=home)
        ending = attempt(ledger, run_id, int(number), job, lost=_leave)
    except TsformerError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(f"Run {run_id}, attempt {number}: {ending}.")
    return int(ending == "failed")


def _leave() -> None:
    """Another attempt has the run: whatever this one would write is not wanted."""
    print("This run was given to another attempt.", file=sys.stderr, flush=True)
    os._exit(GIVEN_UP)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
