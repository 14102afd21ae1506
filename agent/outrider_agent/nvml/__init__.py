"""NVML, called in processes that may be thrown away.

A call into a sick driver may never return, and no time-out reaches it, so none is made in the agent. A helper
(``helper``, run by ``begin``) makes them, says in shared memory which call it is about to make (``announce``),
and answers over a socket. When an answer stays out, the agent knows which GPU and function hold it, goes on with
another helper that leaves those alone, and kills the first. ``signals/nvml.py`` is the agent's side.

``plan`` and ``gpu`` say what is read and how, ``event_wait`` waits for the driver's events; these import pynvml and are
the helper's alone. ``process`` starts, hears and ends a helper; ``ward`` keeps what is not to be called; ``roster``
keeps which GPU has which name.
"""
