"""Which rows of each series have been seen, and whether they reach into a part of a table.

Series begin and end at different times, and so do their parts: the last stamp of one series says
nothing of another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

Ends = tuple[tuple[int, tuple[str, ...]], ...]
ENDS = ("trained_ends", "fitted_ends")  # fields that older releases did not write


@dataclass(frozen=True, slots=True)
class Reach:
    """A series of which rows may have been seen to the stamp `seen`, its part begins at `begins`."""

    series: str
    seen: int
    begins: int


@dataclass(frozen=True, slots=True)
class Seen:
    """The last stamp seen of any series, and of the series whose last is earlier: stamp and ids.

    A series that is not named counts as seen to `last`: it may have had another name. So do all
    where `ends` is empty, as in versions of releases that said one stamp for all.
    """

    last: int
    ends: Ends = ()

    @staticmethod
    def of(stamps: Mapping[str, int], *, last: int | None = None) -> Seen:
        """What is said of each series, `[id]`; `last` where something newer was seen."""
        newest = max(stamps.values()) if last is None else last
        earlier = sorted((stamp, name) for name, stamp in stamps.items() if stamp < newest)
        groups = groupby(earlier, key=lambda pair: pair[0])
        return Seen(newest, tuple((stamp, tuple(n for _, n in names)) for stamp, names in groups))

    @staticmethod
    def told(last: int | None, ends: Ends) -> Seen | None:
        """What a version says that it has seen; None where it says nothing."""
        return None if last is None else Seen(last, ends)

    def then(self, stamps: Mapping[str, int]) -> Seen:
        """This, and then the rows of the series of `stamps` up to theirs."""
        named = self._named()
        newer = {name: max(named.get(name, self.last), at) for name, at in stamps.items()}
        return Seen.of({**named, **newer}, last=max(self.last, *stamps.values()))

    def reach(self, begins: Mapping[str, int]) -> Reach | None:
        """The first series whose part, of the first stamp `begins[id]`, may have been seen."""
        if not begins or self.last < min(begins.values()):
            return None
        named = self._named()
        reaches = (Reach(name, named.get(name, self.last), at) for name, at in begins.items())
        return next((reach for reach in reaches if reach.seen >= reach.begins), None)

    def _named(self) -> dict[str, int]:
        return {name: stamp for stamp, names in self.ends for name in names}


class Witness:
    """Who says in four plain fields what it has seen."""

    __slots__ = ()
    trained_until: int | None
    fitted_until: int | None
    trained_ends: Ends
    fitted_ends: Ends

    @property
    def trained(self) -> Seen | None:
        """What training saw; None where it is not said."""
        return Seen.told(self.trained_until, self.trained_ends)

    @property
    def fitted(self) -> Seen | None:
        """What training or validation saw; None where it is not said."""
        return Seen.told(self.fitted_until, self.fitted_ends)


def ends_of_json(plain: object) -> Ends:
    """What JSON made of `Ends`; TypeError or ValueError if it is something else."""
    if not isinstance(plain, list | tuple):
        raise TypeError("a list of stamps with their series was expected")
    return tuple((int(stamp), tuple(map(str, names))) for stamp, names in plain)
