"""The machine: cores, free disk space, scratch, containers, SLURM, child processes."""
