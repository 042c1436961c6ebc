"""What a covariate known ahead is worth: late flights with and without the schedule.

    python examples/late_flights.py

Fits the closed-form line on a year of New York flights twice and scores both on the same rolling
origins. The schedule of the coming day is known; how many flights will be late is not.
"""

from dataclasses import replace

import polars as pl

from pipelines.backtest import backtest
from pipelines.config_files import config_path
from pipelines.experiment import Experiment
from pipelines.material import Material
from pipelines.training import fit_all


def main() -> pl.DataFrame:
    """The scores of both, best first."""
    informed = replace(Experiment.read(config_path("flights/late.yaml")), baselines=())
    alone = replace(informed, data=replace(informed.data, known=()))
    boards = []
    for name, experiment in (("values alone", alone), ("with the schedule", informed)):
        material = Material.of(experiment)
        fitted = fit_all(experiment, material, device="cpu")
        scores = backtest({name: fitted["ridge"].forecaster}, material, experiment.backtest)
        boards.append(scores.leaderboard.select("model", "mse_scaled", "rmsse", "wql", "coverage"))
    return pl.concat(boards).sort("mse_scaled")


if __name__ == "__main__":
    with pl.Config(tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True):
        print(main())
