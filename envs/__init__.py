"""Where robots live: the vector-environment contract, the registry, one module per simulator."""
