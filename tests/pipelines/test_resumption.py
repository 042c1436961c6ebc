"""How whoever asked for a training is told to go on with it."""

from __future__ import annotations

from pipelines.resumption import told_after, told_before


def test_a_client_is_told_what_a_client_can_do() -> None:
    """A command line is of no use to somebody who has a key and a network."""
    command = "tsformer train a.yaml --resume"
    assert told_before(command, "12") == f"MLflow run 12. If it is interrupted: {command} 12"
    assert told_after("It is kept.", command, "12") == f"It is kept. Go on with: {command} 12"
    assert told_before("", "12") == "MLflow run 12."
    assert told_after("It is kept.", "", "12").endswith("with the same body: POST /v1/jobs.")
