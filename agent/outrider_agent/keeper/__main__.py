"""Starts the keeper, or a fresh rank, in an interpreter that may have nothing of Outrider installed.

``python .../keeper/__main__.py CLIENT_FOLDER keeper|rank ...`` loads exactly two packages from where they lie,
``outrider`` and ``outrider_agent``, and leaves ``sys.path`` as the job's own interpreter has it: a folder of ours on
it would offer the job modules that are not the job's.
"""

import sys

AT_START = frozenset(sys.modules)  # before anything of ours is imported

import importlib.machinery  # noqa: E402
import importlib.util  # noqa: E402
import os  # noqa: E402


def load(name: str, folder: str) -> None:
    """Import the package ``name`` from ``folder``, wherever ``sys.path`` points."""
    start = os.path.join(folder, "__init__.py")
    spec = importlib.util.spec_from_file_location(name, start, submodule_search_locations=[folder])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def main() -> int:
    """Run what the command line asks for; the exit code of the process."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if path != here]
    client, what, words = sys.argv[1], sys.argv[2], sys.argv[3:]
    load("outrider", client)
    load("outrider_agent", os.path.dirname(here))
    if what == "rank":
        from outrider_agent.keeper import rank_main

        rank_main.main(words, AT_START)
        return 0
    from outrider_agent.keeper.main import main as keep

    return keep(words)


if __name__ == "__main__":
    sys.exit(main())
