"""Actions other than starting and stopping ranks, one module each; now the sinks that tell people of incidents."""
