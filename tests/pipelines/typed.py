"""What a person types, and what is answered."""

from __future__ import annotations

import pytest

from pipelines.cli import main


def typed(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Runs `tsformer` in this process: its exit status, its output and what it said beside that."""
    monkeypatch.setattr("sys.argv", ["tsformer", *arguments])
    try:
        main()
        status = 0
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    printed = capsys.readouterr()
    return status, printed.out, printed.err
