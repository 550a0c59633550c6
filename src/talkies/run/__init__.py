"""A run: its folder, settings, pairs, plan and state, and what of it is still true."""
