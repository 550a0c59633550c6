"""What a stage is: one step on the way from the inputs to the films. The stages themselves are in `talkies.stages`.

Planning, state, names, ledger, estimates, logs and the command line loop over the table of stages and know none by
name. The stages of pairs make a chain in the order of the table: each takes the film that the wanted one before it
made, and the last puts the finished film into the results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ..errors import InputError
    from .folder import Folder
    from .plan import Plan
    from .record import Record, Recorded

Kind = Literal["pictures", "takes", "pairs"]


def _always(plan: Plan, item: str) -> bool:
    return True


def _nothing(plan: Plan, item: str) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Stage:
    """One step.

    name: of the stage and of its rule. of: the kind of its items. file: an item's file. asks: every value that decides
    that file, by the setting's name, and the keys or contents of what it is made from; NotSeen if one of these is not
    known yet. The key of
    the film before it in the chain is added by itself. make: makes items whose file does not stand; yields each with
    its record, or with the error in its inputs, in any order. seconds: what an item is expected to take. needs: the
    stages of pictures and takes whose results an item is made from. wanted: whether an item goes through this stage.
    on_gpu: its jobs use an engine, on a GPU or all cores.
    """

    name: str
    of: Kind
    file: Callable[[Folder, Plan, str], Recorded[Any]]
    asks: Callable[[Plan, str], Mapping[str, Any]]
    make: Callable[[Any, list[str]], Iterator[tuple[str, Record | InputError]]]
    seconds: Callable[[Plan, str], float]
    needs: Callable[[Plan, str], tuple[str, ...]] = _nothing
    wanted: Callable[[Plan, str], bool] = _always
    on_gpu: bool = False

    @property
    def reads_files(self) -> bool:
        """Whether its items are made from the user's files alone."""
        return self.of != "pairs" and self.needs is _nothing


Table = Callable[[Any], Sequence[Stage]]
"""Returns the stages of a run by its settings."""


class NotSeen(Exception):
    """The content of an input is not known yet: nothing was made from it so far."""
