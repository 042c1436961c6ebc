"""`python -m pipelines.job RUN ATTEMPT`: what a submission starts, in a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module

from pipelines.home import Home, configure
from pipelines.ledger import Ledger
from pipelines.store import Store
from tsformer.errors import TsformerError
from tsformer.memory import keep_freed_memory

# Jobs that are answered as the service answers, by a program of it that nothing here may know. It is
# started by its name, and in this process: another one would load torch a second time.
ANSWERED = ("forecast", "compare", "anomaly", "explain", "backtest", "nixtla")
ANSWERING = "serving.job"


def main(arguments: Sequence[str]) -> int:
    """Works on the run; 0 if all is well, as a cluster shows it."""
    keep_freed_memory()
    run_id, number = arguments
    home = Home.of(os.environ)
    try:
        ledger = Ledger(Store.of(home))
        kind = ledger.run(run_id).kind
        if kind in ANSWERED:
            answered: int = import_module(ANSWERING).main(arguments)
            return answered
        configure(os.environ, role="training")  # before anything imports MLflow
        from pipelines.attempt import attempt, leave  # late: they import what takes seconds
        from pipelines.job_training import train
        from pipelines.job_tuning import tune
        from pipelines.retrain import retrain

        work = partial({"retrain": retrain, "train": train, "tune": tune}[kind], home=home)
        ending = attempt(ledger, run_id, int(number), work, lost=leave)
    except TsformerError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(f"Run {run_id}, attempt {number}: {ending}.")
    return int(ending == "failed")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
