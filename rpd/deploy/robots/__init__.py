"""Robot drivers, one module per SDK, with a common protocol."""
