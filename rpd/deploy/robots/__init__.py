"""Drivers, each beside the SDK that it needs, behind one protocol."""
