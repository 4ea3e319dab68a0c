"""One YAML per task or experiment, grouped by simulator, read as package data."""
