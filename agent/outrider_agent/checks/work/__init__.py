"""What runs in the process of a check: each module measures one thing and judges nothing. torch is imported here alone.

``run(task, tell) -> measurements``; both are JSON, and ``tell`` is called with where it is before anything may hang.
"""
