"""The public benchmark sets: where each comes from and how to recognise a copy of it.

Copies differ in their line ends (the ones at Hugging Face have CRLF, most others LF), so a CSV is
known by the SHA-256 of its content with LF line ends. Sizes are those of that content. Nothing is
redistributed here: a set is fetched from the address below, or found where a user has it.

The ETT files are pinned to a commit of their authors. The others are the copies that the authors
of the benchmark (arXiv 2106.13008) offer; an address there can change what it serves, its checksum
here cannot.

What is known and what is not: the checksums of all but electricity and traffic were computed from
copies at hand, with both line ends; those two are what several independent repositories publish.
That the addresses answer could not be tried when this was written.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from tsformer.errors import NotFoundError

ETT = (
    "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/"
    "1d16c8f4f943005d613b5bc962e9eeb06058cf07/ETT-small/"
)
THUML = "https://huggingface.co/datasets/thuml/Time-Series-Library/resolve/main/"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A public data set: a wide CSV, `date` first, then its variates.

    `sha256` and `size_bytes` are of the CSV with LF line ends; `parquet_sha256` is of one known
    conversion of it, or empty.
    """

    name: str
    title: str
    address: str
    size_bytes: int
    sha256: str
    rows: int
    variates: int
    frequency: str
    licence: str
    parquet_sha256: str = ""

    @property
    def file(self) -> str:
        """The name of the CSV, the same in every copy."""
        return self.address.rpartition("/")[2]

    @property
    def files(self) -> tuple[str, ...]:
        """The names under which a user may have the set."""
        return self.file, self.file.removesuffix(".csv") + ".parquet"

    @property
    def largest_bytes(self) -> int:
        """The size with CRLF line ends: one byte more a row, and one for the header."""
        return self.size_bytes + self.rows + 1


_ALL = (
    Dataset(
        "etth1",
        "Transformer oil temperature and loads, station 1, hourly",
        ETT + "ETTh1.csv",
        2_589_657,
        "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
        rows=17_420,
        variates=7,
        frequency="h",
        licence="CC BY-ND 4.0",
        parquet_sha256="77c5fd81a0ba7d95900d60d44d1a4aa9e4ba262474dd4f10535f67f630e713ee",
    ),
    Dataset(
        "etth2",
        "Transformer oil temperature and loads, station 2, hourly",
        ETT + "ETTh2.csv",
        2_417_960,
        "a3dc2c597b9218c7ce1cd55eb77b283fd459a1d09d753063f944967dd6b9218b",
        rows=17_420,
        variates=7,
        frequency="h",
        licence="CC BY-ND 4.0",
        parquet_sha256="373691e9c43b561b5c6908e70db1af76b2bb37b7bcec7d396edd595ab01907f2",
    ),
    Dataset(
        "ettm1",
        "Transformer oil temperature and loads, station 1, every 15 minutes",
        ETT + "ETTm1.csv",
        10_360_719,
        "6ce1759b1a18e3328421d5d75fadcb316c449fcd7cec32820c8dafda71986c9e",
        rows=69_680,
        variates=7,
        frequency="15min",
        licence="CC BY-ND 4.0",
        parquet_sha256="dfbc7144ec5c3be1d627cdd96f0b5029955b369c29116fbcf664ad86aa517397",
    ),
    Dataset(
        "ettm2",
        "Transformer oil temperature and loads, station 2, every 15 minutes",
        ETT + "ETTm2.csv",
        9_677_236,
        "db973ca252c6410a30d0469b13d696cf919648d0f3fd588c60f03fdbdbadd1fd",
        rows=69_680,
        variates=7,
        frequency="15min",
        licence="CC BY-ND 4.0",
        parquet_sha256="39c47bc929ef28ff0601d9423a398bc2f5f4593d3142dc75c9ccf689741bd5bc",
    ),
    Dataset(
        "weather",
        "Weather at the Max Planck Institute in Jena, 2020, every 10 minutes",
        THUML + "weather/weather.csv",
        7_182_728,
        "9b2b19b13e342d9c9b9c51620d42b4be232df7fba30e7f5c4968b7c79ab138ad",
        rows=52_696,
        variates=21,
        frequency="10min",
        licence="none stated",
        parquet_sha256="daa72c3bc22e46ecf67440552dda53e3d410783e6101f15c5b40925d52fd63bc",
    ),
    Dataset(
        "exchange",
        "Exchange rates of eight currencies, trading days of 1990 to 2010",
        THUML + "exchange_rate/exchange_rate.csv",
        630_212,
        "d55e7aa2641009814a18ba3279431b13f6d413b0eab195b9ff21988d8cf94e97",
        rows=7_588,
        variates=8,
        frequency="D",
        licence="none stated",
        parquet_sha256="d844240d07b1cd75ac2cf23ed6ca7922a9a127bee463c3d1017f3b44fcf77c3e",
    ),
    Dataset(
        "ili",
        "Influenza-like illness in the United States, 2002 to 2020, weekly",
        THUML + "illness/national_illness.csv",
        66_653,
        "8594cecb98c6f2f9dc014eca11c4d5d1e38ad5ce6ed0592d4abe65b146fce395",
        rows=966,
        variates=7,
        frequency="W-TUE",
        licence="US government work",
        parquet_sha256="c98ee0a562d22d5f1976c4d032ee6d2949a983bba2f172d0ae1558b7074e5700",
    ),
    Dataset(
        "electricity",
        "Electricity use of 321 customers in Portugal, hourly",
        THUML + "electricity/electricity.csv",
        95_581_762,
        "7e45845d54c5219bad0ae6bc1b5316cf8ff9cead5d33fa998a5a51c2e4a497ad",
        rows=26_304,
        variates=321,
        frequency="h",
        licence="CC BY 4.0 (UCI)",
    ),
    Dataset(
        "traffic",
        "Road occupancy at 862 sensors around San Francisco, hourly",
        THUML + "traffic/traffic.csv",
        136_478_119,
        "cb06463d56fa17d87f47027cd9389ceae82a69eddee51cdb61480e120dab0b16",
        rows=17_544,
        variates=862,
        frequency="h",
        licence="none stated",
    ),
)
CATALOGUE: dict[str, Dataset] = {dataset.name: dataset for dataset in _ALL}


def dataset(name: str) -> Dataset:
    """The data set called `name`, in any case; raises NotFoundError with the nearest name."""
    if name.lower() in CATALOGUE:
        return CATALOGUE[name.lower()]
    near = get_close_matches(name.lower(), CATALOGUE, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise NotFoundError(f"No data set is called '{name}'.{hint} Known: {', '.join(CATALOGUE)}.")


def text_sha256(path: Path) -> str:
    """The SHA-256 of a text file as it would be with LF line ends."""
    digest = hashlib.sha256()
    with path.open("rb") as lines:
        for line in lines:
            digest.update(line[:-2] + b"\n" if line.endswith(b"\r\n") else line)
    return digest.hexdigest()


def identify(path: Path) -> Dataset | None:
    """The data set of which the file is an unaltered copy or the known conversion, or None."""
    if path.suffix.lower() == ".csv":
        digest = text_sha256(path)
        return next((d for d in _ALL if d.sha256 == digest), None)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return next((d for d in _ALL if d.parquet_sha256 == digest), None)
