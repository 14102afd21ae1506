"""A node is checked before it returns or joins, where that is asked for (``Policy.check_before``).

    taken out --(its check is wanted)--> cordoned, "is checked" --passed--> clear
                                                             --failed or unanswered--> cordoned, with the reason

While it waits for its check a node takes no rank. Whoever asks a second time to let it be used has seen what the check
said, or cannot wait for it: then it is used as it is. A person's cordon is never lifted by a check.
"""

from __future__ import annotations

from typing import Final

from outrider_controller.core import records
from outrider_controller.core import state as states
from outrider_controller.core.turn import Turn

EFFECT: Final = "check-node"
NEVER, RETURN, JOIN = "never", "return", "join"
BEFORE: Final = (NEVER, RETURN, JOIN)  # join: also before a node's first ranks
WANTED, FAILED, UNANSWERED = "wanted", "failed", "unanswered"
GOOD: Final = ("pass", "warn")


def joined(turn: Turn, fact: records.NodeJoined, before: states.State) -> None:
    """A node is there: for the first time, again after it was lost, or before its check could be made."""
    node, old = turn.state.nodes[fact.node], before.nodes.get(fact.node)
    wanted = turn.policy.check_before
    runs = any(rank.alive for keeper in fact.keepers for rank in keeper.ranks)
    if node.mark == "lost":
        back(turn, fact.node, "came back")
    elif old is None and wanted == JOIN and fact.supervises and not runs:
        _ask(turn, fact.node, "it joins")
    elif node.check in (WANTED, UNANSWERED) and node.checking is None:
        _ask(turn, fact.node, "it returns")


def back(turn: Turn, node: str, why: str) -> None:
    """What kept a node out is over: it is used again, or checked before that."""
    if turn.policy.check_before == NEVER:
        turn.emit(records.NodeMarked(turn.at, node, "clear", why))
    else:
        _ask(turn, node, f"it returns ({why})")


def person(turn: Turn, fact: records.PersonAsked, node: states.NodeState) -> bool:
    """A person asks for cordon or uncordon; whether that is dealt with here."""
    text = f"{fact.by} asked for {fact.verb}"
    if fact.verb == "cordon" and node.check:
        turn.emit(records.NodeMarked(turn.at, node.node, "cordoned", text))
        return True
    if fact.verb == "cordon" or node.mark == "clear" or node.check or turn.policy.check_before == NEVER:
        return False
    _ask(turn, node.node, f"it returns ({text})")
    return True


def done(turn: Turn, fact: records.EffectDone, before: states.State) -> None:
    """What came of a check. Where somebody has decided on the node meanwhile, it changes nothing."""
    node = next((one for one in before.nodes.values() if one.checking and one.checking.effect == fact.effect), None)
    if node is None or node.check != WANTED or node.mark != "cordoned":
        return
    verdict, said = str(fact.result.get("verdict") or ""), str(fact.result.get("sentence") or "no reason given")
    if fact.ok and verdict in GOOD:
        turn.emit(records.NodeMarked(turn.at, node.node, "clear", f"its check is over: {said}"))
    elif fact.ok and verdict == "fail":
        text = f"check-failed: {said}"
        turn.emit(records.NodeMarked(turn.at, node.node, "cordoned", text, check=FAILED))
    else:
        why = fact.error or said
        text = f"it could not be checked: {why}; uncordon it to use it all the same"
        turn.emit(records.NodeMarked(turn.at, node.node, "cordoned", text, check=UNANSWERED))


def _ask(turn: Turn, node: str, before_what: str) -> None:
    """Keep the node out, and have it checked."""
    text = f"it is checked before {before_what}"
    turn.emit(records.NodeMarked(turn.at, node, "cordoned", text, check=WANTED))
    known = turn.state.nodes[node]
    if known.checking is None:
        args: records.Json = {"node": node, "deep": False}
        turn.emit(records.EffectRequested(turn.at, "", f"{node}-c{known.checks + 1}", EFFECT, args))
