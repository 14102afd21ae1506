"""Print docs/signals.md as the rules have it: ``python tools/signals_table.py > docs/signals.md``."""

from outrider_agent.judgement import document

if __name__ == "__main__":
    print(document.markdown(), end="")
