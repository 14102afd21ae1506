"""The command `outrider`: the one place where the parts are put together."""
