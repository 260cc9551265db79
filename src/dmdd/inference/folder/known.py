"""Which files are recorded, and as what: 25 bytes a file, so that a million of them weigh nothing."""

from collections import Counter
from hashlib import blake2b

import numpy as np

Version = tuple[int | None, int | None]

MERGED_AT = 65536  # files that wait in a dictionary before they go into the arrays


class KnownFiles:
    """The latest version and outcome of each file, by name.

    Names and versions are kept as hashes of 64 bits in sorted arrays; what came last waits in a dictionary. A file is
    taken for another one with a chance of one in 10^19 for each two, and then only if the versions' hashes agree too.

    Args:
        outcomes: What may come of a file.
    """

    def __init__(self, outcomes: tuple[str, ...]) -> None:
        self.outcomes = outcomes
        self._names, self._versions = np.empty(0, np.uint64), np.empty(0, np.uint64)
        self._found, self._scores = np.empty(0, np.uint8), np.empty(0)
        self._latest: dict[int, tuple[int, int, float]] = {}

    def note(self, name: str, version: Version, outcome: str, score: float | None = None) -> None:
        """Keep a file in place of what was known of its name.

        Args:
            name: Its name.
            version: What changes when it is written anew.
            outcome: One of ``outcomes``.
            score: A number to keep with it; None for none.
        """
        self._latest[_hash(name)] = (_hash(version), self.outcomes.index(outcome), np.nan if score is None else score)
        if len(self._latest) >= MERGED_AT:
            self._merge()

    def outcome(self, name: str, version: Version) -> str | None:
        """Give the outcome of a file if it is known in this version, else None."""
        key = _hash(name)
        known = self._latest.get(key)
        if known is None:
            place = int(np.searchsorted(self._names, np.uint64(key)))
            if place == len(self._names) or int(self._names[place]) != key:
                return None
            known = int(self._versions[place]), int(self._found[place]), float(self._scores[place])
        return self.outcomes[known[1]] if known[0] == _hash(version) else None

    def counts(self) -> Counter[str]:
        """Count the files by outcome."""
        self._merge()
        found = np.bincount(self._found, minlength=len(self.outcomes))
        return Counter(dict(zip(self.outcomes, found.tolist(), strict=True)))

    def scores(self, outcome: str) -> np.ndarray:
        """Give the scores of all files of an outcome that have one, ``(N,)`` float64 in no order."""
        self._merge()
        found = self._scores[self._found == self.outcomes.index(outcome)]
        return found[~np.isnan(found)]

    def _merge(self) -> None:
        # The new ones first: of equal names `unique` keeps the first.
        known = self._latest.values()
        names = np.fromiter(self._latest, np.uint64, len(known))
        self._names, kept = np.unique(np.concatenate([names, self._names]), return_index=True)
        versions = np.fromiter((version for version, _, _ in known), np.uint64, len(known))
        outcomes = np.fromiter((outcome for _, outcome, _ in known), np.uint8, len(known))
        scores = np.fromiter((score for _, _, score in known), np.float64, len(known))
        self._versions = np.concatenate([versions, self._versions])[kept]
        self._found = np.concatenate([outcomes, self._found])[kept]
        self._scores = np.concatenate([scores, self._scores])[kept]
        self._latest.clear()


def _hash(value: object) -> int:
    return int.from_bytes(blake2b(repr(value).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
