"""The rows of the ledger: what happened (facts) and what was concluded from it (conclusions), each a frozen dataclass.

``decide(state, fact)`` returns conclusions; the shell writes the fact and its conclusions as one transaction;
``evolve`` applies each row. A row is never changed: fields are only added, with defaults. Times (``at``) are Unix
seconds, UTC, given by the shell; nothing in here reads a clock.
"""

from __future__ import annotations

from typing import Any, Final

from outrider_controller.core.conclusions import (
    AttemptPlanned,
    CheckpointTrusted,
    Decided,
    Diagnosed,
    DrainDropped,
    DrainWanted,
    EffectRequested,
    FlightRecord,
    IncidentClosed,
    IncidentOpened,
    JobMoved,
    Looked,
    NodeMarked,
    Noted,
    TimerCancelled,
    TimerSet,
)
from outrider_controller.core.facts import (
    Attached,
    CheckpointSaved,
    EffectDone,
    JobSubmitted,
    LedgerCut,
    NodeFound,
    NodeJoined,
    NodeSilent,
    NotFinite,
    Observed,
    PersonAsked,
    RecordingFailed,
    Resumed,
    StepReached,
    Suspected,
    TimerFired,
    Training,
)

Json = dict[str, Any]

SCHEMA: Final = 1
TIMER_ABSENT: Final = "absent"  # looks again at a job of which a node is silent; its firing is state
TIMER_AILING: Final = "ailing"  # whether a job goes on in spite of a fault of its node; its firing is state
TIMER_LOOK: Final = "look"  # looks again at the ranks of a job that shows no progress; its firing is state, too

Fact = (
    JobSubmitted
    | NodeJoined
    | NodeSilent
    | NodeFound
    | Observed
    | Attached
    | Training
    | StepReached
    | CheckpointSaved
    | TimerFired
    | EffectDone
    | PersonAsked
    | Suspected
    | Resumed
    | NotFinite
    | RecordingFailed
    | LedgerCut
)
Conclusion = (
    JobMoved
    | AttemptPlanned
    | IncidentOpened
    | Diagnosed
    | Decided
    | EffectRequested
    | TimerSet
    | TimerCancelled
    | IncidentClosed
    | NodeMarked
    | DrainWanted
    | DrainDropped
    | CheckpointTrusted
    | Looked
    | Noted
)
Row = Fact | Conclusion

FACTS: Final = (
    JobSubmitted,
    NodeJoined,
    NodeSilent,
    NodeFound,
    Observed,
    Attached,
    Training,
    StepReached,
    CheckpointSaved,
    TimerFired,
    EffectDone,
    PersonAsked,
    Suspected,
    Resumed,
    NotFinite,
    RecordingFailed,
    LedgerCut,
)
CONCLUSIONS: Final = (
    JobMoved,
    AttemptPlanned,
    IncidentOpened,
    Diagnosed,
    Decided,
    EffectRequested,
    TimerSet,
    TimerCancelled,
    IncidentClosed,
    NodeMarked,
    DrainWanted,
    DrainDropped,
    CheckpointTrusted,
    Looked,
    Noted,
)
ROWS: Final = {cls.kind: cls for cls in (*FACTS, *CONCLUSIONS)}

__all__ = [
    "CONCLUSIONS",
    "FACTS",
    "ROWS",
    "SCHEMA",
    "TIMER_ABSENT",
    "TIMER_AILING",
    "TIMER_LOOK",
    "Attached",
    "AttemptPlanned",
    "CheckpointSaved",
    "CheckpointTrusted",
    "Conclusion",
    "Decided",
    "Diagnosed",
    "DrainDropped",
    "DrainWanted",
    "EffectDone",
    "EffectRequested",
    "Fact",
    "FlightRecord",
    "IncidentClosed",
    "IncidentOpened",
    "JobMoved",
    "JobSubmitted",
    "Json",
    "LedgerCut",
    "Looked",
    "NodeFound",
    "NodeJoined",
    "NodeMarked",
    "NodeSilent",
    "NotFinite",
    "Noted",
    "Observed",
    "PersonAsked",
    "RecordingFailed",
    "Resumed",
    "Row",
    "StepReached",
    "Suspected",
    "TimerCancelled",
    "TimerFired",
    "TimerSet",
    "Training",
]
