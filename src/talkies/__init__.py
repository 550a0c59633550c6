"""Talkies makes pictures talk: every picture animated with every driving video, with the video's own sound."""

__version__ = "0.1.0"
