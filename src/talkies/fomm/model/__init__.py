"""The networks alone, as in the paper, with torch and numpy; presets.py needs neither, for login nodes."""
