"""What a person does around runs: lay out a run folder, carry it to a cluster and back, look whether all is there."""
