"""Standard suites, and models from outside under our protocol; `docs/suites.md` tells how."""
