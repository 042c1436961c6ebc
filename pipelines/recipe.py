"""The recipe of a forecaster: how a table becomes what its model reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipelines.covariates import NO_INPUTS, Inputs
from pipelines.features.categories import Vocabulary
from pipelines.seen import ENDS, Ends, Seen, Witness, ends_of_json
from tsformer.errors import ArtifactError


@dataclass(frozen=True, slots=True)
class Recipe(Witness):
    """What a forecaster knows besides its model: the grid it was fitted on and its inputs.

    `context`, `min_context`, `horizon` and `season` are steps of `frequency`. `joint` series are
    variates of one window; `series` are the ids that a model tells apart. `trained_until` is the
    last stamp that training saw of any series, `fitted_until` the last that training or validation
    saw: microseconds since 1970, or the step number. `trained_ends` and `fitted_ends` are the
    series whose last stamp was an earlier one (`pipelines.seen`).
    """

    frequency: str
    season: int
    context: int
    min_context: int
    horizon: int
    inputs: Inputs = NO_INPUTS
    joint: bool = False
    series: Vocabulary | None = None
    trained_until: int | None = None
    fitted_until: int | None = None
    trained_ends: Ends = ()
    fitted_ends: Ends = ()

    def having_seen(self, *, trained: Seen | None, fitted: Seen | None) -> Recipe:
        """This recipe of a model that has seen these rows."""
        return replace(
            self,
            trained_until=trained.last if trained else None,
            fitted_until=fitted.last if fitted else None,
            trained_ends=trained.ends if trained else (),
            fitted_ends=fitted.ends if fitted else (),
        )

    @staticmethod
    def of_mapping(plain: Mapping[str, Any]) -> Recipe:
        """The recipe that `asdict` made plain; ArtifactError if it is another version's."""
        try:
            inputs, series = Inputs.of_mapping(plain["inputs"]), plain["series"]
            known = series and Vocabulary(tuple(series["words"]))
            ends = {name: ends_of_json(plain.get(name, ())) for name in ENDS}
            return Recipe(**{**plain, **ends, "inputs": inputs, "series": known})
        except (TypeError, ValueError, KeyError) as error:
            raise ArtifactError(
                f"recipe.json is not as this version of tsformer writes it ({error}). "
                "Train the model again."
            ) from error
