"""Checkpoints in places other than a folder: the same promises, whatever is behind the URI."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
import torch

from pipelines.home import Home
from pipelines.storage import Place
from tests.tsformer.windows import Noisy, linear_windows
from tsformer.batch import Shape
from tsformer.checkpoint import Checkpoint, Storage, newest, write
from tsformer.errors import ConfigError, UnavailableError
from tsformer.train import Progress, Training, fit

SHAPE = Shape(context=8, horizon=3, variates=2)


@pytest.fixture(params=["path", "file", "mock", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A folder, the same as a URI, pyarrow's file system in memory, and one of fsspec."""
    roots = {
        "path": str(tmp_path / "here"),
        "file": f"file://{tmp_path}/there",
        "mock": f"mock:///{uuid4().hex}",
        "memory": f"memory://{uuid4().hex}",
    }
    return Place(roots[request.param])


def checkpoint(epoch: int) -> Checkpoint:
    return Checkpoint(epoch, {"epoch": epoch}, {"weights/a": torch.arange(3.0) * epoch})


def epoch_of(storage: Storage) -> int | None:
    data = newest(storage)
    return None if data is None else Checkpoint.decoded(data).epoch


def test_two_are_kept_and_a_torn_one_falls_back(place: Place) -> None:
    """What holds on a disk must hold in a bucket: people choose it for what must not be lost."""
    assert epoch_of(place) is None
    for epoch in (1, 2, 3):
        write(checkpoint(epoch), place)
    assert len(place.names()) == 2
    assert epoch_of(place) == 3
    torn = max(place.names())
    place.write(torn, place.read(torn)[:-1])
    place.write("epoch-000009-half.safetensors.draft", b"half")
    assert epoch_of(place) == 2
    assert len(place.names()) == 1
    place.remove("nothing")


def test_runs_and_models_do_not_see_each_other(tmp_path: Path) -> None:
    """A finished run that took the checkpoints of another with it would end that one's promise."""
    for root in (Place(str(tmp_path)), Place(f"memory://{uuid4().hex}")):
        run, other = root / "run1", root / "run2"
        write(checkpoint(1), run / "tft")
        write(checkpoint(2), run / "patchtst")
        write(checkpoint(3), other / "tft")
        run.clear()
        run.clear()
        found = [epoch_of(p / kind) for p in (run, other) for kind in ("tft", "patchtst")]
        assert found == [None, None, 3, None]


def test_a_place_that_is_away_is_named_and_costs_no_run_that_is_done(tmp_path: Path) -> None:
    """`Connection refused` alone does not say by whom; and a fit is not lost for its left-overs."""
    away = "ftp://somebody:secret@127.0.0.1:9/kept"
    with pytest.raises(
        UnavailableError, match=r"TSFORMER_STORAGE: ftp://127.0.0.1:9/kept does not"
    ):
        Place.of(Home(tmp_path, ""), environment={"TSFORMER_STORAGE": away})
    Place(away).clear()


class StopError(Exception):
    """What interrupts a run."""


def test_a_run_goes_on_from_wherever_its_checkpoints_are(place: Place) -> None:
    """The machine is gone in the morning; the model must come out the same on another."""

    def run(storage: Storage | None, stop: bool = False) -> dict[str, torch.Tensor]:
        def report(progress: Progress) -> None:
            if stop and (progress.epoch, progress.step) == (3, 1):
                raise StopError

        torch.manual_seed(0)
        model = Noisy(SHAPE)
        train, validation = linear_windows(60, shape=SHAPE), linear_windows(20, shape=SHAPE)
        fit(
            model, train=train, validation=validation, training=Training(epochs=4, batch_size=20),
            checkpoint=storage, report=report,
        )  # fmt: skip
        return model.state_dict()

    with pytest.raises(StopError):
        run(place / "model", stop=True)
    resumed, expected = run(place / "model"), run(None)
    assert all(torch.equal(resumed[name], value) for name, value in expected.items())


def test_the_environment_names_the_place_and_the_home_is_the_default(tmp_path: Path) -> None:
    """An operator sets one variable, and no checkpoint stays on the machine that may be lost."""
    home = Home(tmp_path, "")
    assert Place.of(home, environment={}).uri == str(tmp_path / "checkpoints")
    named = {"TSFORMER_STORAGE": "memory://bucket/path"}
    assert str(Place.of(home, environment=named) / "run" / "tft") == "memory://bucket/path/run/tft"
    near = Place.of(home, environment={"TSFORMER_STORAGE": "kept"})  # workers may stand elsewhere
    assert near.uri == str(Path("kept").absolute())


@pytest.mark.parametrize("uri", ["no-such://bucket/path", "abfs2://x"])
def test_a_place_that_nothing_reaches_is_refused_before_any_work(uri: str, tmp_path: Path) -> None:
    """An hour later, at the first checkpoint, it would be an hour lost."""
    with pytest.raises(ConfigError, match="TSFORMER_STORAGE: nothing installed reaches"):
        Place.of(Home(tmp_path, ""), environment={"TSFORMER_STORAGE": uri})


def test_a_key_in_a_uri_is_not_shown() -> None:
    """Error messages go to logs that many read."""
    place = Place("s3://key:secret@bucket/path?region=eu-west-1&secret_key=x") / "run"
    assert place.uri == "s3://key:secret@bucket/path/run?region=eu-west-1&secret_key=x"
    assert str(place) == "s3://bucket/path/run"
