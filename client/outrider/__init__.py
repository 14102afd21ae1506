"""What a training script imports, and the records that all sides speak. Standard library only.

    import outrider
    run = outrider.attach(mesh="dp=2,pp=2,cp=1,tp=2", flops_per_token=1.9e8)
    for step in range(...):
        ...
        run.step(step, tokens=tokens, loss=loss)

Without a supervisor every call does nothing. With one, no call blocks, raises into, or slows a training step.
"""

from outrider.marks import Run, attach
from outrider.version import __version__

__all__ = ["Run", "__version__", "attach"]
