"""What a kernel log says of the hardware below a job: records in, findings out.

Flow: ``lines`` reads a record in whatever form it was kept; ``xid``, ``switches`` and ``host`` say what one line means,
from tables that are data of this project (``xids``, ``sxids``, ``rows``); ``judge`` sees the lines in order and folds
repeats, tells the first fault of a window from its echoes, counts, and closes what is over.
"""
