"""What happens in the process that verifies one checkpoint; ``outrider_controller.verifier`` starts it.

Nothing is imported here: the process has to be quick to start, and this is on its way.
"""
