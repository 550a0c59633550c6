"""This machine: cores, free disk space, scratch, images, SLURM's answers, child processes."""
