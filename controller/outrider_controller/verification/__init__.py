"""Verifies one checkpoint in a process of its own: whatever lies in it, the worst outcome is a verdict against it.

In: a ``Request``. Out: a verdict as plain JSON (``core.records.EffectRequested``, verify-checkpoint), or
CouldNotLookError where the file system or the machine kept us from looking, which says nothing about the checkpoint.
"""

from outrider_controller.verification.process import CouldNotLookError as CouldNotLookError
from outrider_controller.verification.process import OutOfTimeError as OutOfTimeError
from outrider_controller.verification.process import verify as verify
from outrider_controller.verification.request import TRUSTED as TRUSTED
from outrider_controller.verification.request import Request as Request
