"""Progress of a training: a bar in a terminal or a notebook, and a line every few seconds in a log."""

import sys
import time
from typing import Any, Protocol

SECONDS = 10.0
"""Between two lines in a log."""


class Progress(Protocol):
    """Something that is told of every step."""

    def update(self) -> None:
        """One more step is done."""

    def close(self) -> None:
        """There are no more steps."""


class Silent:
    """No progress is shown."""

    def update(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class LogLines:
    """A line on the standard error stream every ten seconds, and one at the end."""

    def __init__(self, name: str, total: int, done: int) -> None:
        self.name, self.total, self.done = name, total, done
        self.start = self.last = time.monotonic()

    def update(self) -> None:
        """Count a step, and write a line if the last one is ten seconds old."""
        self.done += 1
        if time.monotonic() - self.last >= SECONDS:
            self._write()

    def close(self) -> None:
        """Write the last line."""
        self._write()

    def _write(self) -> None:
        self.last = time.monotonic()
        seconds = self.last - self.start
        print(
            f"{self.name}: {self.done} of {self.total} steps, {seconds:.0f} s",
            file=sys.stderr,
            flush=True,
        )


class Bar:
    """The bar of tqdm."""

    def __init__(self, name: str, total: int, done: int) -> None:
        from tqdm.auto import tqdm

        self.bar: Any = tqdm(total=total, initial=done, desc=name)

    def update(self) -> None:
        """Move the bar by one step."""
        self.bar.update()

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()


def progress(name: str, total: int, done: int, shown: bool) -> Progress:
    """Return the right kind of progress for where the standard error stream goes."""
    if not shown:
        return Silent()
    return (
        Bar(name, total, done)
        if _is_terminal_or_notebook()
        else LogLines(name, total, done)
    )


def _is_terminal_or_notebook() -> bool:
    return sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel")
