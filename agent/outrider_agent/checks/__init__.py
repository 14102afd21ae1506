"""Active checks of one node: each measures one thing in a process that is thrown away, and has a bound and a verdict.

    plan (what can be checked here) -> children (one process each, with a deadline) -> judge (pure) -> results

``work`` holds what runs in those processes; it alone imports torch. A child that hangs or crashes is a verdict.
"""
