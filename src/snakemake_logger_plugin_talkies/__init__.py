"""The console of talkies as a logger plugin of Snakemake: `snakemake --logger talkies`.

Snakemake finds its plugins by their packages' names.
"""

from talkies.run.console import Console as LogHandler

__all__ = ["LogHandler"]
