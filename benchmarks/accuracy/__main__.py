"""The command line of the accuracy benchmark; see the package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import accuracy
from benchmarks.accuracy.cells import chosen, read_cells
from benchmarks.accuracy.run import run
from tsformer.errors import TsformerError

REPOSITORY = Path(__file__).parents[2]
RESULTS = REPOSITORY / "benchmarks" / "results" / "accuracy"


def main(arguments: Sequence[str]) -> int:
    """Runs one of the three commands; 1 where a cell failed, 2 where the command cannot be run."""
    given = _parser().parse_args(arguments)
    try:
        return _command(given)
    except TsformerError as error:
        print(error, file=sys.stderr)
        return 2


def _command(given: argparse.Namespace) -> int:
    if given.command == "run":
        torch.set_num_threads(given.threads)
        cells = chosen(read_cells(given.folder), given.only)
        results = given.results or given.folder / "results.jsonl"
        return int(run(cells, folder=given.folder, results=results, device=given.device) > 0)
    if given.command == "prepare":
        from benchmarks.accuracy.prepare import prepare  # needs what `run` must do without

        print(f"{len(prepare(given.folder, only=given.only))} cells in {given.folder}")
        return 0
    from benchmarks.accuracy.table import write

    write(given.results, page=given.page)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=accuracy.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="write cells and data into a folder")
    run = commands.add_parser("run", help="run the cells of a folder that have no result")
    table = commands.add_parser("table", help="make the tables of docs/results.md")
    for command in (prepare, run):
        command.add_argument("folder", type=Path)
        command.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN")
    run.add_argument("--results", type=Path, help="default: results.jsonl in the folder")
    run.add_argument("--threads", type=int, default=1, help="of torch; default 1")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    table.add_argument("--results", type=Path, default=RESULTS, help="folder of *.jsonl")
    table.add_argument("--page", type=Path, default=REPOSITORY / "docs" / "results.md")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
