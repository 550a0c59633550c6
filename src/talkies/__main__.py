"""`python -m talkies`: the talkies command, where its program is not on the path."""

import sys

from .cli import main

sys.exit(main())
