"""The pages of a run: the gallery with the run's times, and the check's page."""
