"""`python -m serving`, but a series with a deadly value ends the process of the model.

Native code that meets what it cannot take does so: nothing in Python hears of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from pipelines.home import Home
from pipelines.query import Floats, Query
from serving.__main__ import main as serve
from serving.run import ENVIRONMENT
from serving.settings import Models, Scale

DEADLY = 666.0
DEATHS = "deaths"  # a file of the home with a byte a death


def main(arguments: Sequence[str]) -> int:
    """Serves as `arguments` say, with replicas that a deadly value ends."""
    os.environ |= ENVIRONMENT  # Ray reads it as it is imported
    from pipelines.forecaster import Forecaster
    from serving import deployments
    from serving.replica import Replica

    class Mortal(Replica):
        def __init__(self, home: Home, models: Models, scale: Scale, deployment: str) -> None:
            super().__init__(home, models, scale, deployment)
            answer = Forecaster.answer

            def answer_or_die(
                forecaster: Forecaster, query: Query, levels: tuple[float, ...]
            ) -> Floats:
                if (query.past == DEADLY).any():
                    with (home.folder / DEATHS).open("ab") as file:
                        file.write(b".")
                    os.abort()
                return answer(forecaster, query, levels)

            Forecaster.answer = answer_or_die  # type: ignore[assignment, method-assign]

    deployments.Replica = Mortal  # type: ignore[misc]
    return serve(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
