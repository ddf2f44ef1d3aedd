"""python -m stackctl: see commands.py."""

import sys

from stackctl.commands import main

sys.exit(main())
