"""What the agent sees of its node: one module per outside thing, each handing plain data upward."""
