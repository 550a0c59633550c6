"""This machine: cores, free disk space, scratch, images, child processes."""
