"""`python -m flowise_gateway` is the command line, as `flowise-gateway` is."""

from __future__ import annotations

import sys

from flowise_gateway.cli import main

sys.exit(main())
