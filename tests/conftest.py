"""One thread of torch for every test and the processes it starts, and no system metrics.

The tests' tensors are small, and two threads that wait for each other on a busy machine take
thirty times as long as one. What measures the machine is asked for where it is tested.
"""

import os
import re

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")

import pytest
import torch
from hypothesis import settings

# Time is no property of a law: a busy machine must not fail one.
settings.register_profile("laws", deadline=None)
settings.load_profile("laws")


@pytest.fixture(autouse=True)
def chance() -> None:
    """Each test draws the same numbers, whatever ran before it."""
    torch.manual_seed(0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures of the scenarios in docs/scenarios.md, which tests tell by `record_property`."""
    reports = [r for outcome in ("passed", "failed") for r in terminalreporter.getreports(outcome)]
    told = {(code, text) for report in reports for code, text in report.user_properties}
    figures = [(code, text) for code, text in told if re.fullmatch(r"[LFBSD]\d+", code)]
    if figures:
        terminalreporter.section("figures of the scenarios")
    for code, text in sorted(figures, key=lambda each: (each[0][0], int(each[0][1:]), each[1])):
        terminalreporter.write_line(f"{code:4} {text}")
