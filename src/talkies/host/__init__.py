"""What a machine has: cores, room on its disks, scratch, containers."""
