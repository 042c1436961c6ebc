"""The training benchmark: contenders do the same work, and take turns."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch

from benchmarks.training import CONTEXT, CUTTINGS, HORIZON, RUNS, TASKS, Slices, commands
from benchmarks.turns import REPLY, Turns, panel
from pipelines.windows import Grid, PanelWindows
from tsformer.batch import Shape


@pytest.mark.parametrize("joint", [True, False])
def test_both_ways_cut_the_same_windows(joint: bool) -> None:
    """A quotient of two times says nothing where one of them cuts less."""
    values = panel(CONTEXT + HORIZON + 4, 2)
    groups = [values] if joint else [values[:, [0]], values[:, [1]]]
    grid, slices = Grid.of(groups), Slices(groups)
    cutoffs = (grid.offsets[:-1, None] + CONTEXT + np.arange(5)).reshape(-1)
    shape = Shape(context=CONTEXT, horizon=HORIZON, variates=groups[0].shape[1])
    windows = PanelWindows(grid, cutoffs=cutoffs, shape=shape)
    assert len(slices) == len(windows)
    for number in range(len(slices)):
        batch, target = windows.batch(torch.tensor([number]))
        context, horizon = slices[number]
        assert np.array_equal(batch.past[0].numpy(), context)
        assert np.array_equal(target.values[0].numpy(), horizon)


def test_a_turn_is_told_after_its_steps_and_ends_when_nobody_asks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A contender that ran on would slow the other's turn, and one that stayed would never end."""
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    turns = Turns(3)
    for _ in range(5):
        turns()
    with pytest.raises(SystemExit):
        turns()
    replies = capsys.readouterr().out.splitlines()
    assert len(replies) == 2
    assert json.loads(replies[0].removeprefix(REPLY))["seconds"] >= 0


@pytest.mark.parametrize("name", TASKS)
def test_a_step_of_the_peer_has_as_many_windows_of_a_series(name: str) -> None:
    """The peer counts windows of one series where its model reads one, else of all."""
    request = json.loads(commands(name, peer="python")["peer"][-1])
    settings = request["settings"]
    per_window = settings.get("n_series", 1)
    assert settings["windows_batch_size"] * per_window == TASKS[name].windows * request["series"]
    assert (settings["input_size"], settings["h"]) == (TASKS[name].context, TASKS[name].horizon)


def test_every_contender_of_ours_can_be_run() -> None:
    """A name that nothing runs would only show minutes into a measurement."""
    for name in (*TASKS, *CUTTINGS):
        for label, command in commands(name, peer=None).items():
            assert command[-1] in RUNS, label
