#!/bin/bash
# Prolog: refuse a job on a node that is not fit. Slurm then drains the node and starts the job elsewhere.
# slurm.conf: Prolog=/etc/slurm/prolog.d/*, PrologFlags=Alloc,Contain
timeout 60 /opt/outrider/bin/outrider agent --once --config /etc/outrider/agent.toml >&2
case $? in
0 | 2) exit 0 ;; # well, or nobody could look: that alone keeps no job waiting
124) exit 0 ;; # it took too long
*) exit 1 ;;
esac
