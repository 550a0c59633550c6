"""A run: its folder, settings, pairs, plan and state."""
