"""The keeper: one process per job and node that forks the job's ranks, sees them end, and outlives the agent.

It runs in the job's own interpreter, so nothing in here needs more than the standard library and ``outrider``; torch is
looked at only where the job has imported it. ``__main__`` starts it, ``loop`` is its life, ``keeper_client`` (beside
this package, for the agent) is how it is spoken to.
"""
