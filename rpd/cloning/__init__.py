"""Behaviour cloning: a vision-language-action model learns from demonstrations (`rpd teacher train`)."""
