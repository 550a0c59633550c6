"""What a run shows: the gallery, the page of check, the plots."""
