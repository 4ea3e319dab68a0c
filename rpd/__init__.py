"""The method: how a frozen teacher's knowledge and a reward become a small policy."""

__version__ = "0.1.0"
