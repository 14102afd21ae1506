#!/bin/sh
# Epilog: look at the node once after each job, and take it out where it is not fit, with the reason.
# slurm.conf: Epilog=/etc/slurm/epilog.d/*
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
scontrol update NodeName="${SLURMD_NODENAME:-$(hostname -s)}" State=DRAIN Reason="outrider: $found"
logger -t outrider-epilog "$found"
exit 0 # a failing epilog drains by itself, with a reason that says less
