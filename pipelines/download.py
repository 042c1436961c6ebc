"""Files from the network: only over TLS, resumed where they broke off, never without a checksum."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx

from pipelines.catalogue import Dataset, text_sha256
from tsformer.errors import DataError

Report = Callable[[int, int | None], None]
"""Told the bytes that have come and the bytes in total, where the server says it."""

ATTEMPTS = 4
PAUSE_S = 1.0  # before the second attempt; doubles with each further one
TIMEOUT_S = 30.0  # without a byte
PASSING = (408, 425, 429, 500, 502, 503, 504)  # statuses that may be gone a moment later
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class _PassingError(Exception):
    """The server asks to be asked again."""


def fetch(
    dataset: Dataset, *, folder: Path, report: Report | None = None, pause_s: float = PAUSE_S
) -> Path:
    """The CSV of `dataset`, in `folder`.

    The bytes go to a `.part` file, which a later call continues; it takes its name when its
    checksum is right. Raises DataError when the network fails, when the server refuses, and when
    what came is not the data set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, part = folder / dataset.file, folder / f"{dataset.file}.part"
    if not (part.exists() and text_sha256(part) == dataset.sha256):
        _download(dataset, part, report or _silent, pause_s)
    _verify(dataset, part)
    part.replace(target)
    return target


def _silent(_done: int, _total: int | None) -> None:
    return None


def _download(dataset: Dataset, part: Path, report: Report, pause_s: float) -> None:
    failure: Exception | None = None
    hooks = {"request": [_only_tls]}
    with httpx.Client(timeout=TIMEOUT_S, follow_redirects=True, event_hooks=hooks) as client:
        for attempt in range(ATTEMPTS):
            try:
                return _continue(client, dataset, part, report)
            except (httpx.TransportError, _PassingError) as error:
                failure = error
            if attempt < ATTEMPTS - 1:
                time.sleep(pause_s * 2**attempt)
    kept = part.stat().st_size if part.exists() else 0
    raise DataError(
        f"{dataset.name}: {dataset.address} could not be read in {ATTEMPTS} attempts "
        f"({type(failure).__name__}: {failure}). {kept:,} bytes are kept; the same command goes on "
        f"from there. {_by_hand(dataset)}"
    )


def _only_tls(request: httpx.Request) -> None:
    """Also of every redirect; plain HTTP only within this machine."""
    if request.url.scheme != "https" and request.url.host not in LOOPBACK:
        raise DataError(f"{request.url} is not https: data sets are fetched over TLS only.")


def _continue(client: httpx.Client, dataset: Dataset, part: Path, report: Report) -> None:
    """Appends to `part` what it lacks."""
    have = part.stat().st_size if part.exists() else 0
    # identity: ranges count the bytes of the file, not of a compressed form of it
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with client.stream("GET", dataset.address, headers=headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()  # longer than the file: it cannot be a part of it
            raise _PassingError(f"{have:,} bytes were no part of the file")
        _accept(response, dataset)
        if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            have = 0  # the server sends the whole file
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if have else "wb") as file:
            for chunk in response.iter_raw():
                have += file.write(chunk)
                report(have, total)
                if have > dataset.largest_bytes:
                    break  # the checksum will say the rest


def _accept(response: httpx.Response, dataset: Dataset) -> None:
    if response.status_code in PASSING:
        raise _PassingError(f"status {response.status_code}")
    if not response.is_success:
        raise DataError(
            f"{dataset.name}: {dataset.address} answered {response.status_code} "
            f"{response.reason_phrase}. {_by_hand(dataset)}"
        )


def _verify(dataset: Dataset, part: Path) -> None:
    """Removes `part` and raises DataError when it is not `dataset`."""
    size, digest = part.stat().st_size, text_sha256(part)
    if digest == dataset.sha256:
        return
    part.unlink()
    raise DataError(
        f"{dataset.name}: what {dataset.address} sent is not the data set. Came: {size:,} bytes, "
        f"SHA-256 {digest}. Expected: {dataset.size_bytes:,} bytes (up to "
        f"{dataset.largest_bytes:,} with CRLF line ends), SHA-256 {dataset.sha256} with LF line "
        f"ends. It was removed. Try once more. {_by_hand(dataset)}"
    )


def _by_hand(dataset: Dataset) -> str:
    return (
        f"It can be had by hand too: put a {dataset.file} from elsewhere into a folder, name the folder "
        "in TSFORMER_DATA, and run 'tsformer data check' on the file."
    )
