//! Whole clusters with real parts: see `tests/`. Nothing lives here.
