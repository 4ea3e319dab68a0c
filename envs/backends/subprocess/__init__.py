"""N simulations in W processes: shared memory, starting, forking and burying workers, and the backend made of them."""
