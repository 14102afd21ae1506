"""Flight recorder dumps on a node: which files there are, and reading them where a hostile one can do no harm."""
