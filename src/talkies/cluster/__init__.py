"""Clusters: what jobs ask for and why they failed, run folders carried there and back, the doctor."""
