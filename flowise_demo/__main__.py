"""`python -m flowise_demo` serves the demo flows on a port of its own."""

from __future__ import annotations

import sys

from flowise_demo.server import main

sys.exit(main())
