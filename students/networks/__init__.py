"""Encoders, distributions and normalizers."""
