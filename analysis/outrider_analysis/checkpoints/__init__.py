"""What the files of a checkpoint say of themselves, without torch and without loading a tensor.

In: the bytes of ``.metadata`` (a pickle that torch.distributed.checkpoint writes last), the bytes of a file, and what
a manifest claims. Out: which byte ranges of which file belong to what (``metadata``), whether ranges and chunks leave
nothing out and nothing twice (``tiling``), whether each archive within a file is as torch wrote it (``archives``), and
whether the files found are those claimed (``claims``). Nothing here is believed: what is read is a stranger's.
"""

from outrider_analysis.checkpoints.problems import PROBLEMS_MAX as PROBLEMS_MAX
from outrider_analysis.checkpoints.problems import Problem as Problem
from outrider_analysis.checkpoints.problems import Problems as Problems
