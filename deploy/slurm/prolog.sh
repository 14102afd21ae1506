#!/bin/sh
# Prolog: refuse a job on a node that is not fit. Slurm then drains the node and starts the job elsewhere.
# slurm.conf: Prolog=/etc/slurm/prolog.d/*, PrologFlags=Alloc,Contain
# Found: the first observation that is fatal or an error and asks for more than a new start of the program. Exit status
# 1 and a document are both demanded, so that a crash, a missing program or one that hangs finds nothing.
bin=/opt/outrider/bin
found=$({
	timeout -k 5 55 "$bin/outrider" agent --once --json --config /etc/outrider/agent.toml 2>/dev/null
	echo "$?"
} | timeout -k 1 61 "$bin/python3" -I -c '
import json, sys

document, _, status = sys.stdin.read().strip().rpartition("\n")
for one in json.loads(document)["observations"] if status == "1" else ():
    if one["severity"] in ("fatal", "error") and one["recovery"] not in ("none", "restart_app"):
        print(" ".join(one["text"].split())[:120])
        break
' 2>/dev/null)
[ -n "$found" ] || exit 0
echo "outrider: $found" >&2
logger -t outrider-prolog "$found"
exit 1
