"""The stages of a shard, each in a file with its rule's name: prepare, motion, animate, show, remux."""
