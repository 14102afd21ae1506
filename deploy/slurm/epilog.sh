#!/bin/bash
# Epilog: look at the node once after each job, and take it out where something is fatal or an error.
# slurm.conf: Epilog=/etc/slurm/epilog.d/*   The sweep ends by its own deadlines; 60 s bounds it from outside as well.
# Exit status of the look: 0 well, 1 something is fatal or an error, 2 could not look. Only 1 drains.
found=$(timeout 60 /opt/outrider/bin/outrider agent --once --config /etc/outrider/agent.toml 2>/dev/null)
if [ $? -eq 1 ]; then
	reason=$(head -n 1 <<<"$found" | cut -c1-120)
	scontrol update NodeName="${SLURMD_NODENAME:-$(hostname -s)}" State=DRAIN Reason="outrider: $reason"
	logger -t outrider-epilog "$reason"
fi
exit 0 # a failing epilog drains by itself, with a reason that says less
