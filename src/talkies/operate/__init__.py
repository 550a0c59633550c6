"""Work around runs: make a run folder, carry it to a cluster and back, examine the machine, fetch weights."""
