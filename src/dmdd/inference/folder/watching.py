"""Following a folder by asking for its content again and again, which works on network shares too."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dmdd.inference.folder.inputs import Item, scan, stat_item


@dataclass(frozen=True)
class _Sighting:
    """A file and since when it has been as it is, on the monotonic clock."""

    item: Item
    since: float


class Watcher:
    """Give the files of a folder as they become complete.

    A file is given when its size and time of writing were the same in two looks; one that cannot be decoded then is
    given again at every look, until it has been unchanged for ``settle_s``.

    Args:
        folder: What is followed.
        recursive: Whether its subfolders are, too.
        skip: The output folder, which may lie in it.
        is_done: Says of a file, as it is now, whether it is recorded.
        poll_s: Seconds between two looks.
        settle_s: How long a file that cannot be decoded may still become one, in seconds since it last changed.
        say: Gets a line when the folder cannot be listed.

    Source: ours. Rejected: the operating system's notifications, which network shares do not send.
    """

    def __init__(
        self,
        folder: Path,
        *,
        recursive: bool,
        skip: Path,
        is_done: Callable[[Item], bool],
        poll_s: float,
        settle_s: float,
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.recursive, self.skip = folder, recursive, skip
        self.is_done, self.say = is_done, say
        self.poll_s, self.settle_s = poll_s, settle_s
        self._seen: dict[str, _Sighting] = {}
        self._failed = False

    def items(self, stopped: Callable[[], bool]) -> Iterator[Item | None]:
        """Give files until told to stop.

        Args:
            stopped: Asked before each look.

        Yields:
            Files, those that have waited longest first; None when all that are complete have been given.
        """
        while not stopped():
            began = time.monotonic()
            ready = self.look()
            looked = time.monotonic() - began
            yield from ready
            yield None
            # At most half of the time is spent looking, however large the folder is.
            time.sleep(max(looked, began + self.poll_s - time.monotonic()))

    def look(self) -> list[Item]:
        """List the files that are complete and not recorded, oldest first."""
        now, seen, ready = time.monotonic(), {}, []
        try:
            for path in scan(self.folder, recursive=self.recursive, skip=self.skip):
                item = stat_item(path, base=self.folder)
                if item.bytes is None or self.is_done(item):
                    continue
                before = self._seen.get(item.name)
                if before is not None and before.item.version == item.version:
                    seen[item.name] = before
                    ready.append(item)
                else:
                    seen[item.name] = _Sighting(item, now)
        except OSError as error:
            if not self._failed:
                self.say(f"{self.folder} cannot be listed ({error.strerror}); trying again until it can")
            self._failed = True
            return []
        if self._failed:
            self.say(f"{self.folder} can be listed again")
        self._seen, self._failed = seen, False
        return sorted(ready, key=lambda item: item.mtime_ns or 0)

    def is_final(self, item: Item) -> bool:
        """Say whether a file that could not be decoded will stay so: it is there and has not changed for long enough.

        Args:
            item: The file as it was given.

        Returns:
            True if it is to be recorded as bad.
        """
        sighting = self._seen.get(item.name)
        same = stat_item(item.path, base=self.folder).version == item.version
        return sighting is not None and same and time.monotonic() - sighting.since >= self.settle_s
