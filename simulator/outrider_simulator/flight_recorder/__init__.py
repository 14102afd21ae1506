"""Flight recorder dumps of a job that never ran: any mesh, any fault, and what is true of it.

    case = flight_recorder.make(seed=7, ranks_max=128, name="stuck-tp")
    flight_recorder.write(case, folder)      # folder/dumps/rank_0 ..., folder/truth.json
    case.truth.culprits

Every hang is the end state of an execution (execute.py) of the ranks' programs (program.py) on a mesh (layout.py) with
a fault put in (faults.py), so it is a state that a job can be in; entries.py and encoding.py write it as torch does.
"""

from outrider_simulator.flight_recorder.cases import NAMES, Case, Truth, make, write
from outrider_simulator.flight_recorder.encoding import encode
from outrider_simulator.flight_recorder.entries import Recorder, Settings
from outrider_simulator.flight_recorder.execute import Plan, Run
from outrider_simulator.flight_recorder.layout import Layout, lay_out
from outrider_simulator.flight_recorder.program import Shape, step

__all__ = [
    "NAMES",
    "Case",
    "Layout",
    "Plan",
    "Recorder",
    "Run",
    "Settings",
    "Shape",
    "Truth",
    "encode",
    "lay_out",
    "make",
    "step",
    "write",
]
