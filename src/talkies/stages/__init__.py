"""The stages that a shard goes through, each in a file of its rule's name: prepare, motion, animate, show, remux."""
