"""Errors that have a name of their own."""


class DifferentiatedTwiceError(RuntimeError):
    """A second derivative was asked for where only the first one is right."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} has first derivatives only: call backward without create_graph")
        self.what = what

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.what,)
