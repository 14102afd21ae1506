"""The entries of a dump as columns, where all of them are whole: checked and taken out a column at a time.

Looking at 300 entries one by one costs three times as much, and nearly every dump is whole. One that is not in any
respect (a field that is missing, of another type, out of its range) gives None here, and its entries are then looked at
one by one, which finds those that are to be passed over. Both ways give the same digest.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any, Final

from outrider_analysis.flight_recorder import entries, model

# Number (the same on every node), what was called, whether ``retired`` tells the end, and whether it is no plain
# collective: a send or recv, a batch, or the end of one.
Known = tuple[int, model.Signature, bool, bool]

FORMS_MAX: Final = 65_536
TENSORS_ALL_MAX: Final = 65_536  # of one side, over all entries
DIMENSIONS_MAX: Final = 16
WORD_CHARS_MAX: Final = 256
_NONE: Final = ((None,),)  # stands for a side without tensors, and differs from a tensor without dimensions
_FIELDS: Final = itemgetter(
    *("process_group", "collective_seq_id", "p2p_seq_id", "op_id", "state", "retired", "is_p2p"),
    *("profiling_name", "input_sizes", "output_sizes", "input_dtypes", "output_dtypes"),
    *("time_created_ns", "time_discovered_started_ns", "time_discovered_completed_ns"),
)
_FIRST: Final = itemgetter(0)
_BY_RETIRED: Final = itemgetter(2)
_WHOLE: Final = {int}
_FLAG: Final = {bool}
_FEW: Final = {0, 1}
_STATES: Final = {"scheduled", "started", "completed"}
_NOTHING: Final = {type(None)}
_TIMES: Final = ({int}, {int, type(None)})


@dataclass(frozen=True, slots=True)
class Told:
    """One item for each entry. Times are ns, 0 where there is none; ``pairs``: name and description of the group.

    ``words`` is everything else, a column each, not checked yet: two ranks of which they are equal made the same calls.
    """

    pairs: Sequence[Any]
    words: tuple[Sequence[Any], ...]
    created: Sequence[int]
    started: Sequence[int]
    completed: Sequence[int]


@dataclass(frozen=True, slots=True)
class Columns:
    """The words, checked. One item for each entry; ``different``: the pairs, each once, in the order they come in."""

    different: Sequence[tuple[str, str]]
    seqs: Sequence[int]
    owns: Sequence[int]  # numbers of sends and recvs
    operations: Sequence[int]
    p2p: Sequence[bool]
    finished: Sequence[bool]
    known: Sequence[Known]
    gloo: bool


def split(items: Sequence[Mapping[str, Any]]) -> Told | None:
    """None where an entry lacks a field, or where a time is none."""
    if not items:
        return None
    try:
        pairs, *words, created, started, completed = zip(*map(_FIELDS, items), strict=True)
        pairs = pairs if set(map(type, pairs)) == {tuple} else tuple(map(tuple, pairs))
        times = [stamps for column in (created, started, completed) if (stamps := _times(column)) is not None]
    except entries.NOT_WHOLE:
        return None
    return Told(pairs, tuple(words), *times) if len(times) == 3 else None


def check(
    told: Told,
    items: Sequence[Mapping[str, Any]],
    forms: dict[Any, Known],
    find: Callable[[Mapping[str, Any]], Known],
) -> Columns | None:
    """None where any entry is not whole. ``forms``: what is known by name, sizes and types; ``find`` tells the rest."""
    try:
        return _check(told, items, forms, find)
    except entries.NOT_WHOLE:
        return None


def _check(
    told: Told,
    items: Sequence[Mapping[str, Any]],
    forms: dict[Any, Known],
    find: Callable[[Mapping[str, Any]], Known],
) -> Columns | None:
    seqs, owns, operations, state, retired, p2p, names, ins, outs, in_words, out_words = told.words
    numbers = _are_numbers(seqs) and _are_numbers(owns) and set(map(type, operations)) == _WHOLE
    flags = set(map(type, retired)) == _FLAG and set(map(type, p2p)) == _FLAG and set(state) <= _STATES
    different = tuple(dict.fromkeys(told.pairs))
    if not numbers or not flags or not all(map(is_pair, different)):
        return None
    forms_of = _forms(names, ins, outs, in_words, out_words)
    if forms_of is None:
        return None
    known = _known(forms_of, items, forms, find)
    finished: Sequence[bool] = [word == "completed" for word in state]
    gloo = any(map(_BY_RETIRED, known))
    if gloo:
        finished = [over or (one[2] and gone) for over, one, gone in zip(finished, known, retired, strict=True)]
    return Columns(different, seqs, owns, operations, p2p, finished, known, gloo)


def is_pair(given: Any) -> bool:
    """Name and description of a group."""
    return len(given) == 2 and type(given[0]) is str and type(given[1]) is str


def _are_numbers(column: Sequence[Any]) -> bool:
    return set(map(type, column)) == _WHOLE and min(column) >= 0 and max(column) < 2**31


def _times(column: Sequence[Any]) -> Sequence[int] | None:
    types = set(map(type, column))
    if types == _NOTHING:
        return [0] * len(column)
    if types not in _TIMES:
        return None
    if None in column:
        column = [stamp or 0 for stamp in column]
    return column if min(column) >= 0 and max(column) < 2**63 else None


def _forms(
    names: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], ins: Sequence[Any], outs: Sequence[Any]
) -> Iterable[Any] | None:
    """A key for what each entry called; None where there is more of it than calls have."""
    columns = []
    for column in (inputs, outputs, ins, outs):
        lengths = set(map(len, column))
        if not lengths <= _FEW:
            return _long_forms(names, inputs, outputs, ins, outs)
        columns.append(list(map(_FIRST, column if 0 not in lengths else [side or _NONE for side in column])))
    if max(map(len, chain(columns[0], columns[1]))) > DIMENSIONS_MAX:
        return None
    return zip(names, map(tuple, columns[0]), map(tuple, columns[1]), columns[2], columns[3], strict=True)


def _long_forms(names: Sequence[Any], *sides: Sequence[Any]) -> Iterable[Any] | None:
    """The same for lists of tensors. Texts and lists may be shared, so all is small before it is written out."""
    if max(sum(map(len, side)) for side in sides) > TENSORS_ALL_MAX:
        return None
    shapes, words = chain(*sides[0], *sides[1]), chain(*sides[2], *sides[3])
    if max(map(len, shapes), default=0) > DIMENSIONS_MAX or max(map(len, chain(names, words))) > WORD_CHARS_MAX:
        return None
    return [marshal.dumps(call, 4) for call in zip(names, *sides, strict=True)]


def _known(
    keys: Iterable[Any], items: Sequence[Mapping[str, Any]], forms: dict[Any, Known], find: Callable[..., Known]
) -> list[Known]:
    keys = list(keys)
    try:
        return [forms[key] for key in keys]
    except KeyError:
        if len(forms) + len(keys) > FORMS_MAX:
            forms.clear()
        for key, entry in zip(keys, items, strict=True):
            if key not in forms:
                forms[key] = find(entry)
        return [forms[key] for key in keys]
