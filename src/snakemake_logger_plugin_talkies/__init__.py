"""The console of talkies as a logger plugin of Snakemake: `snakemake --logger talkies`.

The workflow turns it on by itself (talkies.run.console.take_over); this name is for whoever wants it elsewhere, for
example on a cluster. Snakemake finds its plugins by their packages' names.
"""

from talkies.run.console import Console as LogHandler

__all__ = ["LogHandler"]
