"""What a run shows: the gallery with the times of the run, the page of check."""
